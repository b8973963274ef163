"""What a ``Trainer`` may do that a problem cannot: refused, or left behind and said."""

from collections.abc import Iterable
from typing import Any

from engine.errors import ConfigurationError

_HOME = "transformers.trainer"
"""Module of the class ``Trainer``."""

_OWN_LOOPS = ("training_step", "_inner_training_loop", "train", "create_optimizer_and_scheduler")
"""Methods that are the loop itself, which is not called here."""

_USUAL = ("DefaultFlowCallback", "ProgressCallback", "PrinterCallback")
"""Callbacks that every Trainer has and that change nothing."""


def refuse_other_loops(trainer: Any, *, own_loss: bool) -> None:  # noqa: ANN401
    """Refuse a Trainer whose training is another one than its arguments say.

    Args:
        trainer: Whatever was handed in.
        own_loss: Whether the loss of each example was handed in.

    Raises:
        ConfigurationError: With the remedy.
    """
    base = next(
        (each for each in type(trainer).__mro__ if (each.__module__, each.__name__) == _NAMED), None
    )
    if base is None:
        raise ConfigurationError(
            f"trainer is a {type(trainer).__name__}, not a Trainer of transformers. Hand in one, "
            "or a module of Lightning to engine.from_lightning."
        )
    own = [name for name in _OWN_LOOPS if _overrides(trainer, base, name)]
    if own:
        raise ConfigurationError(
            f"{type(trainer).__name__} has a {own[0]} of its own, which is not called here. Leave "
            "it out, or write an engine.Problem: `mgd new`."
        )
    if not own_loss and (
        _overrides(trainer, base, "compute_loss") or trainer.compute_loss_func is not None
    ):
        raise ConfigurationError(
            f"{type(trainer).__name__} has a compute_loss of its own, which returns one number for "
            "a batch, where each example's is needed. Hand in loss=, a function of (model, batch) "
            "that returns one loss for each example."
        )
    for name, means in _REFUSED.items():
        value = getattr(trainer.args, name, None)
        if value:
            raise ConfigurationError(f"{name} is {value!r}: {means}. Leave it out.")
    if trainer.args.world_size > 1 or trainer.args.n_gpu > 1:
        raise ConfigurationError(
            f"The Trainer runs on {max(trainer.args.world_size, trainer.args.n_gpu)} devices, but "
            "a run here has one. Start it with one, e.g. CUDA_VISIBLE_DEVICES=0."
        )
    if trainer.state.global_step:
        raise ConfigurationError(
            f"The Trainer has taken {trainer.state.global_step} steps, so its model is not where "
            "training begins. Make it anew, or hand it over before train()."
        )


_NAMED = (_HOME, "Trainer")

_REFUSED = {
    "deepspeed": "the optimizer would be DeepSpeed's, which cannot be differentiated",
    "fsdp": "parameters would be spread over processes",
    "neftune_noise_alpha": "noise is added to embeddings by a hook that the Trainer sets",
    "auto_find_batch_size": "the size of a batch would depend on the memory",
    "use_liger_kernel": "its kernels have no second derivative",
}
"""Arguments that change the training in ways that a problem cannot, and what they mean."""


def _overrides(trainer: Any, base: type, name: str) -> bool:  # noqa: ANN401
    return name in vars(trainer) or getattr(type(trainer), name) is not getattr(base, name)


def left_behind(trainer: Any, more: Iterable[str]) -> tuple[str, ...]:  # noqa: ANN401
    """Return in sentences what a Trainer has and its problem has not."""
    args = trainer.args
    found = [*more]
    for name in ("bf16", "fp16"):
        if getattr(args, name):
            found.append(f"{name}: the run computes in its own format, training.dtype.")
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
    if trainer.compute_metrics is not None:
        found.append("compute_metrics: give metrics={name: function of (model, batch)}.")
    if args.train_sampling_strategy not in ("random", "sequential"):
        found.append(
            f"train_sampling_strategy={args.train_sampling_strategy} draws anew each time: the "
            "order was read once."
        )
    return tuple(found)
