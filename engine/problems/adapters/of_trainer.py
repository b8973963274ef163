"""A ``Trainer`` of transformers as a problem."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NamedTuple

import torch
from torch import nn

from engine.errors import ConfigurationError
from engine.problems.adapters.adapted import (
    UNORDERED,
    AdaptedProblem,
    drawn_at_random,
    held_module,
    notes_for_users,
    shards_of,
)
from engine.problems.adapters.torch_optimizers import optimizer_of_torch, unclipped
from engine.problems.adapters.trainer_libraries import (
    is_of_trl,
    logs_kept,
    rows_said,
    versions,
)
from engine.problems.adapters.trainer_losses import (
    TOKENWISE,
    LossKind,
    TrainerLoss,
    is_regression,
    loss_of,
)
from engine.problems.adapters.trainer_order import Loop, order_of
from engine.problems.adapters.trainer_refusals import (
    left_behind,
    refuse_other_loops,
    why_not_made,
)
from engine.problems.adapters.trainer_start import align_tokens, as_train_begins
from engine.problems.adapters.trainer_sums import adds_means_up, compare, other_loss
from engine.problems.adapters.trl_reference import with_reference
from engine.routine.examples import Collated, collated
from engine.routine.module.binding import copied
from engine.routine.optimizer import Optimizer
from engine.routine.rates import emptied, rates_alone
from engine.types import Loss


def from_trainer(
    trainer: Any,  # noqa: ANN401 (of a library that is not imported)
    *,
    objective: str | None = None,
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
    eps_root: float = 1e-8,
    keep_order: bool = True,
    **parts: Any,  # noqa: ANN401 (of Problem)
) -> AdaptedProblem:
    """Return the training of a ``Trainer`` of transformers as a problem.

    Model, training and evaluation data, collator, optimizer with its groups of parameters, learning
    rates, clipping, label smoothing, accumulation, number of steps and order of the examples are
    the Trainer's. With ``eps_root=0`` every step is the Trainer's own, to rounding, if nothing is
    drawn at random. The Trainer stays as it is.

    Of trl, the ``SFTTrainer`` is carried over as it is, and the ``DPOTrainer`` with a loss of each
    pair; its reference, a model or what an adapter was put into, is asked for every pair here:

    ```py
    def preferred(model, batch, beta=0.1):
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        tokens, counted = batch["input_ids"][:, 1:], batch["completion_mask"][:, 1:]
        found = logits[:, :-1].log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        chosen, rejected = (found * counted).sum(dim=1).chunk(2)
        before = batch["ref_chosen_logps"] - batch["ref_rejected_logps"]
        return -torch.nn.functional.logsigmoid(beta * (chosen - rejected - before))

    problem = engine.from_trainer(trainer, loss=preferred)
    ```

    Args:
        trainer: A Trainer that has not trained yet.
        objective: Name of the evaluation data, if ``eval_dataset`` is a dict.
        loss: Maps (model, batch) to one loss for each example, shape (batch,), for a model or a
            ``compute_loss`` whose loss is not known here.
        optimizer: Optimizer in place of the Trainer's, with its own clipping.
        eps_root: Added inside of Adam's square root, where torch has 0; see ``engine.adam``.
        keep_order: Whether the Trainer's order of examples is read; ``Counts`` need the engine's.
        **parts: Further parts of ``engine.Problem``: validation, test, names, show, metrics, ...

    Raises:
        ConfigurationError: If the Trainer does what a problem cannot, with the remedy.
        DataError: If no batches can be made of its data.

    Cost:
        A copy of the model; one pass over the indices of all epochs.
    """
    refuse_other_loops(trainer, own_loss=loss is not None)
    with as_train_begins(trainer) as begun:
        return _adapted(
            trainer, begun, _Wanted(objective, loss, optimizer, eps_root, keep_order), parts
        )


class _Wanted(NamedTuple):
    """The arguments of ``from_trainer`` that stand in place of something of the Trainer's."""

    objective: str | None
    loss: Loss | None
    optimizer: Optimizer | None
    eps_root: float
    keep_order: bool


def _adapted(
    trainer: Any,  # noqa: ANN401 (of a library)
    begun: nn.Module,
    wanted: _Wanted,
    parts: dict[str, Any],
) -> AdaptedProblem:
    """Return the problem, while the Trainer stands where its training begins.

    Args:
        trainer: The Trainer.
        begun: Its model, as training begins.
        wanted: What the user hands in.
        parts: Further parts of the problem.
    """
    args, (model, of_format) = trainer.args, _trained_model(begun)
    align_tokens(trainer, model)
    train, loop = _training_data(trainer)
    chunk = args.per_device_eval_batch_size
    held_out = with_reference(trainer, _held_out(trainer, wanted.objective), chunk)
    train = with_reference(trainer, train, args.per_device_train_batch_size)
    own, training, of_loss = _compared_losses(trainer, model, wanted.loss, train, loop)
    order, of_order = order_of(trainer, loop) if wanted.keep_order else (None, UNORDERED)
    made = _optimizer(trainer, wanted.optimizer, wanted.eps_root)
    clip = unclipped(made, "max_grad_norm", float(args.max_grad_norm or 0))
    drawn = drawn_at_random(model, train, own if training is None else training)
    said = [each for each in (of_order, of_loss, of_format, clip, *drawn) if each]
    not_carried = left_behind(trainer, said + _sentences(args, model, made))
    settings = _settings(trainer, model, loop)
    scored = wanted.loss is None and _has_classes(own, model)
    given: dict[str, Any] = {
        "model": model,
        "loss": own,
        "training_loss": training,
        "train": train,
        "objective": held_out,
        "metrics": {"hits": own.hits} if scored else {},
        "show": _token_decoder(trainer, train),
        "chunk": chunk,
        "optimizer": made,
        "learning_rate": None if "learning_rate" in parts else _rates(trainer, made),
        "order": order,
        "origin": _packages(trainer),
    }
    parts["notes"] = (
        *notes_for_users(settings, not_carried, "The Trainer"),
        *rows_said(trainer),
        *parts.get("notes", ()),
    )
    return AdaptedProblem(**(given | parts), **settings, not_carried=not_carried)


def _trained_model(begun: nn.Module) -> tuple[Any, str | None]:
    """Return a copy of the model in training mode, and a sentence if its format is another one."""
    model = copied(held_module(begun)).train()  # as every step of a Trainer does
    if model.dtype in (torch.float16, torch.bfloat16):
        words = f"the model's format, {model.dtype}: it is trained in float32."
        return model.float(), words  # in place
    return model, None


def _compared_losses(
    trainer: Any,  # noqa: ANN401 (of a library)
    model: nn.Module,
    loss: Loss | None,
    train: Collated,
    loop: Loop,
) -> tuple[Any, Any, str | None]:
    """Return the losses of held-out and training examples, compared with the Trainer's own.

    Returns:
        The loss of held-out examples, that of training examples if it differs, and a sentence if a
        loss that the user hands in is not the Trainer's.
    """
    with logs_kept(trainer):
        own, training = _losses(trainer, model, loss, train, loop.accumulated)
        if loss is not None:
            return own, training, other_loss(trainer, model, loss, train, loop.accumulated)
        compare(trainer, model, own if training is None else own.for_batches(), train)
        return own, training, None


def _settings(trainer: Any, model: nn.Module, loop: Loop) -> dict[str, Any]:  # noqa: ANN401 (of a library)
    """Return the settings of a recipe's training that the Trainer fixes."""
    settings: dict[str, Any] = {
        "num_steps": loop.num_steps,
        "batch_size": loop.batch_size,
        "seed": trainer.args.seed,
    }
    shards = shards_of(model, loop.accumulated)
    return settings | ({"shards": shards} if shards > 1 else {})


def _packages(trainer: Any) -> tuple[str, ...]:  # noqa: ANN401 (of a library)
    """Return the packages, with their versions, that the numbers of the training depend on."""
    of_trl = versions() if any(map(is_of_trl, type(trainer).__mro__)) else ()
    return (f"transformers {version('transformers')}", *of_trl)


def _training_data(trainer: Any) -> tuple[Collated, Loop]:  # noqa: ANN401 (of a library)
    """Return the training data as the Trainer's own loader collates them, and its counts."""
    if trainer.train_dataset is None:
        raise ConfigurationError("The Trainer has no train_dataset. Give it one.")
    args, loader = trainer.args, trainer.get_train_dataloader()
    examples = collated(loader.dataset, loader.collate_fn)
    _refuse_random(examples, "data_collator")
    batches = len(loader)
    accumulated = args.gradient_accumulation_steps
    a_pass = max(math.ceil(batches / accumulated), 1)
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * a_pass)
    sizes = (getattr(each, "batch_size", None) for each in (loader.batch_sampler, loader))
    micro = next(filter(None, sizes), args.train_batch_size)  # a user's own loader has its own
    return examples, Loop(steps, micro * accumulated, accumulated, a_pass)


def _refuse_random(examples: Collated, what: str) -> None:
    """Refuse a collator that draws: a step is run again when the run is reversed."""
    rows = [examples.samples[place] for place in range(min(4, len(examples)))]
    batches = []
    for seed in (0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            batches.append(examples.collate(copy.deepcopy(rows)))
    one, other = batches
    tensors = [name for name, each in dict(one).items() if isinstance(each, torch.Tensor)]
    for name in tensors:
        if one[name].shape != other[name].shape or not torch.equal(one[name], other[name]):
            raise ConfigurationError(
                f"The {what} draws {name} at random, but a step is run again when the run is "
                "reversed, and would draw different numbers. Draw once, before training, and keep "
                "the result in the dataset (for masked tokens: map the collator over it), or hand "
                "in augment=."
            )


def _held_out(trainer: Any, objective: str | None) -> Collated:  # noqa: ANN401 (of a library)
    """Return the evaluation data, which phi is the mean loss of."""
    given = trainer.eval_dataset
    if isinstance(given, dict):
        if objective not in given:
            raise ConfigurationError(
                f"eval_dataset has {', '.join(map(repr, given))}, but objective is {objective!r}. "
                "Set objective= to the one whose mean loss is the output."
            )
        given = given[objective]
    if given is None:
        raise ConfigurationError(
            "The Trainer has no eval_dataset. Give it one: its mean loss is the output."
        )
    loader = trainer.get_eval_dataloader(given)
    return collated(loader.dataset, loader.collate_fn)


def _losses(
    trainer: Any,  # noqa: ANN401 (of a library)
    model: nn.Module,
    own: Loss | None,
    examples: Collated,
    accumulated: int,
) -> tuple[Any, Any]:
    """Return the loss of held-out examples, and that of training."""
    if own is not None:
        return own, None
    found = loss_of(model, trainer.args.label_smoothing_factor)
    few = [examples.samples[place] for place in range(min(2, len(examples)))]
    batch = examples.collate(copy.deepcopy(few))
    if "labels" not in batch or "shift_labels" in batch:
        raise ConfigurationError(
            f"A batch of the data_collator has {', '.join(batch)}, but a loss needs labels, one "
            "row for each example. Name the column of the labels 'labels' or 'label', or hand in "
            "loss=."
        )
    if len(batch["labels"]) != len(few):
        raise ConfigurationError(
            f"The data_collator makes {len(batch['labels'])} rows of labels of {len(few)} "
            "examples, but each example's loss needs its own row. Let the collator pad the "
            "examples instead of joining them (in trl: padding_free=False, and packing=False or "
            "packing_strategy='wrapped')."
        )
    adds_up = accumulated > 1 and adds_means_up(trainer, model, examples, accumulated, found.kind)
    if found.kind in TOKENWISE:
        first = found.kind is LossKind.CAUSAL and trainer.model_accepts_loss_kwargs
        shifts = getattr(trainer, "_loss_shifts_labels", True)  # for its count of tokens only
        return found, found.for_batches(counts_first=first and not shifts)
    if found.smoothing and (is_regression(model) or batch["labels"].is_floating_point()):
        raise ConfigurationError(
            f"label_smoothing_factor is {found.smoothing:g}, but the labels are numbers, or "
            "several for each example. The Trainer's own smoothing needs one class for each, and "
            "fails at its first step. Set it to 0, or hand in loss=."
        )
    return found, found.times(accumulated) if adds_up else None


def _has_classes(loss: TrainerLoss, model: nn.Module) -> bool:
    return loss.kind in TOKENWISE or (
        not is_regression(model)
        and getattr(model, "config").problem_type != "multi_label_classification"  # noqa: B009 (of no module of torch)
    )


def _optimizer(trainer: Any, own: Optimizer | None, eps_root: float) -> Optimizer:  # noqa: ANN401 (of a library)
    if own is not None:
        return own
    norm = trainer.args.max_grad_norm
    return optimizer_of_torch(
        _optimizer_of(trainer),
        trainer.accelerator.unwrap_model(trainer.model),
        eps_root=eps_root,
        clip_norm=norm if norm and norm > 0 else None,
    )


def _optimizer_of(trainer: Any) -> Any:  # noqa: ANN401 (of a library)
    """Return the Trainer's optimizer; one that it makes for this is forgotten again.

    Raises:
        ConfigurationError: If it cannot be made, such as for want of a package.
    """
    before = trainer.optimizer
    try:
        made = trainer.create_optimizer()
        return getattr(made, "optimizer", made)  # of accelerate
    except (ImportError, ValueError) as error:
        raise ConfigurationError(why_not_made(trainer.args, error)) from error
    finally:
        trainer.optimizer = before


def _rates(trainer: Any, optimizer: Optimizer) -> Callable[..., list[float]]:  # noqa: ANN401 (of a library)
    """Return the function that gives the Trainer's learning rates for T steps."""
    made, of_user = _optimizer_of(trainer), trainer.lr_scheduler
    if of_user is not None:
        return _OfSteps(lambda num_steps: rates_alone(of_user, num_steps, optimizer))

    def of_steps(num_steps: int) -> list[float]:
        # With its groups and defaults, which some of the Trainer's schedules read.
        inner = copy.deepcopy(made, emptied(made))
        pairs = zip(inner.param_groups, made.param_groups, strict=True)
        inner.param_groups = [own for own, group in pairs if group["params"]]
        known = trainer.lr_scheduler, getattr(trainer, "_created_lr_scheduler", False)
        try:
            scheduler = trainer.create_scheduler(num_training_steps=num_steps, optimizer=inner)
            return rates_alone(scheduler, num_steps, optimizer)
        finally:
            trainer.lr_scheduler, trainer._created_lr_scheduler = known

    return _OfSteps(of_steps)


@dataclass(frozen=True)
class _OfSteps:
    """A function of the number of steps, whose answers are kept apart from its maker."""

    make: Callable[[int], list[float]]

    def __call__(self, num_steps: int) -> list[float]:
        return self.make(num_steps)


def _token_decoder(trainer: Any, examples: Collated) -> Callable[[int], str] | None:  # noqa: ANN401 (of a library)
    """Return the function that decodes a candidate's tokens, if the Trainer has a tokenizer."""
    decode = getattr(trainer.processing_class, "decode", None)
    if decode is None or "input_ids" not in examples.samples[0]:
        return None
    return lambda place: decode(examples.samples[place]["input_ids"], skip_special_tokens=True)


def _sentences(
    args: Any,  # noqa: ANN401 (of a library)
    model: nn.Module,
    made: Optimizer,
) -> list[str]:
    """Return the differences from the Trainer that adapting it brings, in sentences."""
    found = []
    if made.root:
        found.append(
            f"the bare square root of {made.name}: eps_root={made.root:g} is added inside of it."
        )
    if getattr(model, "loss_type", None) in TOKENWISE and args.eval_strategy != "no":
        found.append("evaluation by batches: held-out tokens are averaged over their example.")
    return found
