"""Features of a ``Trainer`` that a problem cannot have: refused, or left out with a note."""

from collections.abc import Iterable
from typing import Any

from engine.errors import ConfigurationError
from engine.problems.adapters.trainer_libraries import (
    has_loss_of_model,
    is_of_trl,
    only_wraps,
    versions,
)

_HOME = "transformers.trainer"
"""Module of the class ``Trainer``."""

_OWN_LOOPS = (
    *("training_step", "_inner_training_loop", "train", "create_optimizer_and_scheduler"),
    *("_run_epoch", "_prepare_for_training", "_prepare_inputs", "_prepare_input"),
    *("get_batch_samples", "_get_num_items_in_batch", "_clip_grad_norm", "_wrap_model"),
    *("compute_loss_context_manager", "autocast_smart_context_manager"),
    *("set_initial_training_values", "create_accelerator_and_postprocess"),
)
"""Methods that are the loop itself, or that it calls in a step, which are not called here."""

_READ = (
    *("__init__", "compute_loss", "create_optimizer", "create_scheduler", "call_model_init"),
    *("get_optimizer_cls_and_kwargs", "get_decay_parameter_names", "get_train_dataloader"),
    *("get_eval_dataloader", "get_test_dataloader", "_get_dataloader", "_get_train_sampler"),
    *("_get_eval_sampler", "_remove_unused_columns", "_get_collator_with_removed_columns"),
    *("_set_signature_columns_if_needed", "num_examples"),
)
"""Methods whose answers are read here, whoever wrote them."""

_LIBRARIES = ("transformers", "trl")
"""Their own subclasses of the Trainer say nothing about what a user has changed."""

_USUAL = ("DefaultFlowCallback", "ProgressCallback", "PrinterCallback")
"""Callbacks that every Trainer has and that change nothing."""


def refuse_other_loops(trainer: Any, *, own_loss: bool) -> None:  # noqa: ANN401 (of a library)
    """Refuse a Trainer whose training differs from what its arguments say.

    Args:
        trainer: Whatever was handed in.
        own_loss: Whether the loss of each example was handed in.

    Raises:
        ConfigurationError: If it is refused; names the remedy.
    """
    base = next(
        (each for each in type(trainer).__mro__ if (each.__module__, each.__name__) == _NAMED), None
    )
    if base is None:
        raise ConfigurationError(
            f"trainer is a {type(trainer).__name__}, not a Trainer of transformers. Hand in one, "
            "or a module of Lightning to engine.from_lightning."
        )
    own = [
        name
        for name in _OWN_LOOPS
        if _overrides(trainer, base, name) and not only_wraps(trainer, base, name)
    ]
    if own:
        raise ConfigurationError(_other_loop(trainer, own[0]))
    if (
        not own_loss
        and (_overrides(trainer, base, "compute_loss") or trainer.compute_loss_func is not None)
        and not has_loss_of_model(trainer)
    ):
        raise ConfigurationError(
            f"{type(trainer).__name__} has a compute_loss of its own, which returns one number for "
            "a batch, but the engine needs one for each example. Hand in loss=, a function of "
            f"(model, batch) that returns one loss for each example.{_of_reference(trainer)}"
        )
    for name, means in _REFUSED.items():
        value = getattr(trainer.args, name, None)
        if value:
            raise ConfigurationError(f"{name} is {value!r}: {means}. Leave it out.")
    if trainer.args.world_size > 1 or trainer.args.n_gpu > 1:
        raise ConfigurationError(
            f"The Trainer runs on {max(trainer.args.world_size, trainer.args.n_gpu)} devices, but "
            "a run here uses one. Start it with one, e.g. CUDA_VISIBLE_DEVICES=0."
        )
    if trainer.state.global_step:
        raise ConfigurationError(
            f"The Trainer has taken {trainer.state.global_step} steps, so its model is no longer "
            "where training begins. Make a new Trainer, or hand it in before train()."
        )


_NAMED = (_HOME, "Trainer")


def _other_loop(trainer: Any, name: str) -> str:  # noqa: ANN401 (of a library)
    kind = type(trainer)
    owner = next((each for each in kind.__mro__ if name in vars(each)), kind)
    if not is_of_trl(owner):
        return (
            f"{kind.__name__} has a {name} of its own, which is not called here. Leave it out, or "
            "write an engine.Problem: `mgd new`."
        )
    (shipped,) = versions()
    return (
        f"{owner.__name__} of {shipped} has a {name} of its own, and it is not known whether it "
        "trains as the Trainer's does. The SFTTrainer, and the DPOTrainer with loss=, are "
        "supported as trl 0.25 to 1.16 have them. Use one of these, or write an engine.Problem: "
        "`mgd new`."
    )


_REFUSED = {
    "deepspeed": "the optimizer would be DeepSpeed's, which cannot be differentiated",
    "fsdp": "parameters would be spread over processes",
    "neftune_noise_alpha": "noise is added to embeddings by a hook that the Trainer sets",
    "auto_find_batch_size": "the size of a batch would depend on the memory",
    "use_liger_kernel": "its kernels have no second derivative",
}
"""Arguments that change the training in ways that a problem cannot, and what they mean."""


def _of_reference(trainer: Any) -> str:  # noqa: ANN401 (of a library)
    """Return a sentence on the columns of a loss against a reference model; empty for others."""
    if not hasattr(trainer.args, "precompute_ref_log_probs"):
        return ""
    return (
        " A batch has the log-probabilities of the reference as ref_chosen_logps and "
        "ref_rejected_logps; help(engine.from_trainer) has DPO's loss."
    )


def _overrides(trainer: Any, base: type, name: str) -> bool:  # noqa: ANN401 (of a library)
    known = getattr(base, name, None)  # some have come with newer versions
    return known is not None and (
        name in vars(trainer) or getattr(type(trainer), name, None) is not known
    )


def _other_methods(trainer: Any) -> list[str]:  # noqa: ANN401 (of a library)
    """Return the methods of the Trainer that a user wrote anew and nobody calls or reads here."""
    base = next(
        each for each in type(trainer).__mro__ if (each.__module__, each.__name__) == _NAMED
    )
    own = [
        each
        for each in type(trainer).__mro__[: type(trainer).__mro__.index(base)]
        if each.__module__.partition(".")[0] not in _LIBRARIES
    ]
    found = {name for each in own for name, what in vars(each).items() if callable(what)}
    return sorted(name for name in found if hasattr(base, name) and name not in _READ)


def left_behind(trainer: Any, more: Iterable[str]) -> tuple[str, ...]:  # noqa: ANN401 (of a library)
    """Return in sentences what a Trainer has and its problem has not."""
    args = trainer.args
    found = [*more]
    for name in ("bf16", "fp16"):
        if getattr(args, name):
            found.append(f"{name}: the run computes in its own format, training.dtype.")
    if getattr(args, "activation_offloading", False):
        found.append("activation_offloading: activations stay where they are computed.")
    if args.torch_compile:
        found.append("torch_compile: training.compile compiles a batch's gradient.")
    if args.load_best_model_at_end:
        found.append("load_best_model_at_end: the output is that of the model after the last step.")
    names = [type(each).__name__ for each in trainer.callback_handler.callbacks]
    own = [name for name in names if name not in _USUAL and "Integration" not in name]
    own = [name for name in own if not name.endswith("NotebookProgressCallback")]
    if "EarlyStoppingCallback" in own:
        found.append("EarlyStoppingCallback: all steps are taken.")
        own.remove("EarlyStoppingCallback")
    if own:
        found.append(f"callbacks: {', '.join(own)} are not called.")
    if methods := _other_methods(trainer):
        found.append(f"methods of {type(trainer).__name__}: {', '.join(methods)} are not called.")
    if trainer.compute_metrics is not None:
        found.append("compute_metrics: give metrics={name: function of (model, batch)}.")
    return tuple(found)


MADE_HERE = ("adamw_torch", "adamw_torch_fused", "sgd", "rmsprop")
"""Values of ``optim`` to whose optimizers the engine has counterparts."""


def why_not_made(args: Any, error: Exception) -> str:  # noqa: ANN401 (of a library)
    """Return what to do about an optimizer that a Trainer could not make, in sentences.

    Args:
        args: The Trainer's arguments.
        error: What was raised when it made the optimizer.
    """
    name, cause = getattr(args.optim, "value", args.optim), str(error).removesuffix(".")
    own = "hand in an engine.Optimizer as optimizer= and its rates as learning_rate=."
    if name in MADE_HERE:
        asked = f" and optim_args={args.optim_args!r}" if args.optim_args else ""
        form = " (optim_args is written as 'momentum=0.9,nesterov=true')" if asked else ""
        return (
            f"The Trainer could not make its optimizer from optim={name!r}{asked}: {cause}. "
            f"Correct its arguments{form}, or {own}"
        )
    return (
        f"optim is {name!r}, which the Trainer could not make: {cause}. The engine has no "
        f"counterpart to it either; it has one to {', '.join(MADE_HERE[:-1])} and {MADE_HERE[-1]}. "
        f"Use one of these, or {own}"
    )
