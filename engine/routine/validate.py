"""Validation of the arguments of a routine, when it is made."""

import inspect
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from engine.errors import ConfigurationError, DataError
from engine.metaparameters.base import Metaparameter
from engine.recipes.replay import StepPath
from engine.routine.coupled_loss import coupled
from engine.routine.examples import makes_tuples
from engine.routine.own_state import takes

if TYPE_CHECKING:
    from engine.routine.routine import Routine


def refuse_misfits(routine: "Routine") -> None:
    """Refuse numbers, examples, loss and metaparameters that make no run together.

    Raises:
        ConfigurationError: If a setting is refused; names its value, the reason and the remedy.
        DataError: If there are no examples.
    """
    for name in ("num_steps", "batch_size"):
        if getattr(routine, name) < 1:
            raise ConfigurationError(
                f"{name} is {getattr(routine, name)}, but a run has at least one step of one "
                f"example. Use {name}=1 or more."
            )
    if len(routine) == 0:
        raise DataError("There are no training examples. Give at least one.")
    _refuse_impossible_pieces(routine)
    _refuse_impossible_shards(routine)
    _refuse_impossible_state(routine)
    _refuse_impossible_skips(routine)
    rate = routine.learning_rate
    if not isinstance(rate, int | float) and len(rate) != routine.num_steps:
        raise ConfigurationError(
            f"learning_rate has {len(rate)} values for {routine.num_steps} steps. Give one number, "
            "or one for each step."
        )
    for name, value in routine.optimizer.hyperparameters.items():
        if isinstance(value, str | bytes):
            raise ConfigurationError(
                f"The optimizer's {name} is the text {value!r}. Give one number, or one for each "
                "step."
            )
        if not isinstance(value, int | float) and len(value) != routine.num_steps:
            raise ConfigurationError(
                f"The optimizer's {name} has {len(value)} values for {routine.num_steps} steps. "
                "Give one number, or one for each step. A problem's optimizer may be a function "
                "whose argument num_steps says how many there are."
            )
    _refuse_impossible_complexes(routine)
    for name, kind in routine.metaparameters.items():
        kind.check_fits(name, len(routine), routine.num_steps)
        if type(kind).batch is not Metaparameter.batch and not makes_tuples(routine.examples):
            raise ConfigurationError(
                f"Metaparameter {name!r} replaces inputs of a batch, but the examples are a "
                f"{type(routine.examples).__name__}, whose batches may be anything. Give them as "
                "a tuple of tensors."
            )
        _refuse_unread_arguments(routine, name, kind)


def _refuse_unread_arguments(routine: "Routine", name: str, kind: Metaparameter) -> None:
    given = kind.loss_arguments(kind.point(), torch.zeros(1, dtype=torch.int64, device="cpu"))
    if given and coupled(routine.loss) is not None:
        raise ConfigurationError(
            f"Metaparameter {name!r} is handed to the loss as {', '.join(given)}, but a coupled "
            "loss takes nothing besides the batch. Use weights, counts or another kind."
        )
    try:
        signature = inspect.signature(routine.loss)
    except (TypeError, ValueError):  # of a builtin, which says nothing about its arguments
        return
    if not given and routine.own is None:
        _refuse_signature(signature)
    try:
        own = {"state": None} if routine.own is not None and takes(routine.loss, "state") else {}
        signature.bind(None, None, **given, **own)
    except TypeError as error:
        raise ConfigurationError(
            f"Metaparameter {name!r} is handed to the loss as {', '.join(given)}, which it does "
            f"not take ({error}). Write it as loss(model, batch, {', '.join(given)})."
        ) from error


def _refuse_impossible_complexes(routine: "Routine") -> None:
    if not routine.layout.complexes:
        return
    name = min(routine.layout.complexes)
    if "clip_value" in routine.optimizer.hyperparameters:
        raise ConfigurationError(
            f"clip_value bounds each number of a gradient, and {name!r} is complex, which torch's "
            "own does not clip either. Use clip_norm.",
            settings=("optimizer.clip_value",),
        )
    if routine.compile:
        raise ConfigurationError(
            f"compile is True, but {name!r} is complex, whose derivatives torch's compiler gets "
            "wrong. Use compile=False.",
            settings=("training.compile",),
        )


def _refuse_signature(signature: inspect.Signature) -> None:
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise ConfigurationError(
            f"The loss is written as loss{signature}, but it is called as loss(model, batch) "
            f"({error}). Write it with these two arguments."
        ) from error


def _refuse_impossible_pieces(routine: "Routine") -> None:
    if routine.piece is None:
        return
    inputs = [
        name
        for name, kind in routine.metaparameters.items()
        if type(kind).batch is not Metaparameter.batch
    ]
    has_statistics = any(
        getattr(module, "running_mean", None) is not None for module in routine.model.modules()
    )
    for refused, because in (
        (routine.piece < 1, "a piece has at least one example"),
        (coupled(routine.loss) is None, "the loss is no CoupledLoss; use micro_batch"),
        (routine.compile, "pieces are not compiled"),
        (routine.path is not StepPath.PLAIN, "the graph of a step in pieces is never whole"),
        (bool(inputs), "the embeddings of a piece do not know a metaparameter of the inputs"),
        (has_statistics, "batch normalization couples the examples inside of embed"),
    ):
        if refused:
            raise ConfigurationError(
                f"piece is {routine.piece}, but {because}. Change that, or leave piece out."
            )


def _refuse_impossible_shards(routine: "Routine") -> None:
    if routine.shards == 1:
        return
    injecting = [
        name
        for name, kind in routine.metaparameters.items()
        if type(kind).injected is not Metaparameter.injected
    ]
    for refused, because in (
        (routine.shards < 1, "there is at least one"),
        (
            routine.shards > routine.batch_size,
            f"a batch has only {routine.batch_size} examples",
        ),
        (
            coupled(routine.loss) is not None,
            "the loss is a CoupledLoss, which compares the examples of a batch; use piece",
        ),
        (routine.path is not StepPath.PLAIN, "the graph of a step in shards is never whole"),
        (
            bool(injecting and routine.hooks),
            f"metaparameter {next(iter(injecting), '')!r} injects examples, and hooks of the "
            "parameters map the gradient of each shard, of which those are none; use weights, or "
            "clip by the optimizer's options",
        ),
    ):
        if refused:
            raise ConfigurationError(
                f"shards is {routine.shards}, but {because}. Change that, or leave shards out.",
                settings=("training.shards",),
            )


def _refuse_impossible_state(routine: "Routine") -> None:
    if routine.own is None:
        return
    for refused, because in (
        (routine.compile, "compiled steps do not carry it: leave compile out"),
        (routine.piece is not None, "a batch in pieces does not carry it: leave piece out"),
        (routine.shards > 1, "a batch in shards does not carry it: leave shards out"),
        (
            coupled(routine.loss) is not None,
            "a coupled loss takes nothing besides the batch: write the loss as a function",
        ),
    ):
        if refused:
            raise ConfigurationError(f"The run has a state of its own, but {because}.")


def _refuse_impossible_skips(routine: "Routine") -> None:
    if routine.skip_idle not in (None, True, False):
        raise ConfigurationError(
            f"skip_idle is {routine.skip_idle!r}. Use True, False, or leave it out.",
            settings=("training.skip_idle",),
        )
    for refused, because in (
        (routine.compile, "a compiled step is the same at every step: leave compile out"),
        (
            routine.piece is not None,
            "a coupled loss in pieces is not asked what it leaves out: leave piece out",
        ),
    ):
        if routine.skip_idle and refused:
            raise ConfigurationError(
                f"skip_idle is True, but {because}.", settings=("training.skip_idle",)
            )


def refuse_parted_buffers(routine: "Routine") -> None:
    """Refuse a coupled loss in pieces where the module moves buffers by rules of its own.

    Raises:
        ConfigurationError: Names a buffer.
    """
    if routine.piece is None or routine.statistics is None:
        return
    for name in routine.statistics.carried.all:
        raise ConfigurationError(
            f"piece is {routine.piece}, but the forward pass moves the buffer {name!r}, which then "
            "is moved by each piece, and twice. Leave piece out."
        )


def refuse_bad_examples(examples: object) -> None:
    """Refuse columns of several lengths, and numbers that are NaN or infinite.

    Raises:
        DataError: If it is refused; says what is wrong.
    """
    columns = examples if isinstance(examples, tuple) else ()
    lengths = {len(column) for column in columns}
    if len(lengths) > 1:
        raise DataError(
            f"The examples' tensors have {sorted(lengths)} rows, but each example is one row "
            "of every tensor. Give inputs and labels of the same number."
        )
    for tensor in columns:
        if (
            isinstance(tensor, Tensor)
            and tensor.is_floating_point()
            and not torch.isfinite(tensor).all()
        ):
            raise DataError(
                "The examples hold NaN or infinite values. Training on them makes every "
                "number after the first such batch NaN: clean the data first."
            )


def refuse_idle_metaparameters(routine: "Routine") -> None:
    """Refuse metaparameters that no step reads.

    Raises:
        ConfigurationError: If it is refused; names the remedy.
    """
    for name, kind in routine.metaparameters.items():
        if not (kind.shapes_start or any(map(kind.enters, range(routine.num_steps)))):
            raise ConfigurationError(
                f"Metaparameter {name!r} enters none of the {routine.num_steps} steps, so its "
                "metagradient would be zero whatever the data. Use an injection_step below "
                "num_steps."
            )
