"""A problem that was read from another library's training loop, with that loop's settings."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._pytree import tree_leaves

from engine.errors import ConfigurationError
from engine.metaparameters.base import Metaparameter
from engine.problems.base import Problem
from engine.routine.examples import Collated, examples_from
from engine.routine.routine import Routine

UNORDERED = "the order of the examples, because you asked for none of it; the engine draws its own."
"""The sentence about an order that is not read."""


@dataclass(frozen=True, eq=False, kw_only=True)
class AdaptedProblem(Problem):
    """A problem and the settings of the loop that it was read from.

    A problem file's function may return it; the recipe's settings of its training are then
    ``settings``. In a notebook, ``routine`` makes the run.

    Attributes:
        num_steps: T, optimizer steps of the loop.
        batch_size: Examples of an optimizer step, those of accumulated batches together.
        seed: The loop's.
        not_carried: What the loop has and the problem has not, in sentences; also among ``notes``.
    """

    num_steps: int
    batch_size: int
    seed: int = 0
    shards: int = 1
    not_carried: tuple[str, ...] = field(default=())

    @property
    def settings(self) -> dict[str, Any]:
        """The group ``training`` of a recipe that trains as the loop does."""
        found = {"num_steps": self.num_steps, "batch_size": self.batch_size, "seed": self.seed}
        return found if self.shards == 1 else {**found, "shards": self.shards}

    def routine(self, metaparameters: Mapping[str, Metaparameter], **changes: Any) -> Routine:  # noqa: ANN401 (fields of Routine)
        """Return the loop as a run of the engine.

        Args:
            metaparameters: Kinds of z by name. Counts need ``order=None``.
            **changes: Fields of ``engine.Routine`` in place of the loop's, e.g. ``shards=4``.
        """
        return super().routine(metaparameters, **(self.settings | changes))


def held_module(module: torch.nn.Module) -> torch.nn.Module:
    """Return a module whose parameters can be copied; refuse one that is spread over devices.

    Raises:
        ConfigurationError: If its parameters are on several devices, or have no numbers.
    """
    devices = {parameter.device for parameter in module.parameters()}
    if len(devices) != 1 or torch.device("meta") in devices:
        shown = ", ".join(sorted(map(str, devices))) or "none"
        raise ConfigurationError(
            f"The parameters of the model are on these devices: {shown}, but a run has all of them "
            "on one. Load the model without device_map, FSDP or DeepSpeed."
        )
    return module


@contextmanager
def only_looked_at(module: torch.nn.Module) -> Iterator[None]:
    """Have a module in evaluation mode inside the block, and everything as it was afterwards.

    Layer by layer, because a user may have frozen some of them by ``eval()``; random generators
    stand where they stood.
    """
    modes = [(each, each.training) for each in module.modules()]
    with torch.no_grad(), torch.random.fork_rng():
        module.eval()
        try:
            yield
        finally:
            for each, training in modes:
                each.training = training


def places_looked_at(number: int) -> list[int]:
    """Return the positions of examples on which a library's loss is compared with that of each.

    The first ones, and as many over the whole: a table may be sorted by class, and a mean with
    weights of the classes is a plain mean where all examples are of one.

    Args:
        number: Number of all examples.
    """
    spread = ((number - 1) * place // (_LOOKED_AT - 1) for place in range(_LOOKED_AT))
    return sorted({*range(min(_LOOKED_AT, number)), *spread})


_LOOKED_AT = 4
"""Examples of either kind."""


def compared(
    module: torch.nn.Module, theirs: Callable[[], Tensor], ours: Callable[[], Tensor]
) -> tuple[float, float, bool]:
    """Return the losses of two functions, and whether they and their gradients are alike.

    The losses alone say little before training: where all logits are nearly equal, a mean with
    weights of the classes is the plain one, and its gradient is another. The point where training
    begins says too little as well, if much is zero there (a difference to a reference, an
    adapter), so they are compared at one beside it too.

    Args:
        module: Module whose parameters the gradients are taken by, in evaluation mode.
        theirs: Returns the loss of a few examples, a scalar, as a library takes it.
        ours: The same as the mean over the examples.
    """
    first = _compared_here(module, theirs, ours)
    if not first[2]:
        return first
    with moved_in(module):
        beside = _compared_here(module, theirs, ours)
    return first if beside[2] or not all(map(math.isfinite, beside[:2])) else beside


def _compared_here(
    module: torch.nn.Module, theirs: Callable[[], Tensor], ours: Callable[[], Tensor]
) -> tuple[float, float, bool]:
    params = [each for each in module.parameters() if each.requires_grad]
    with only_looked_at(module), torch.enable_grad():
        values = [theirs(), ours()]
        one, other = (
            torch.autograd.grad(value, params, allow_unused=True, materialize_grads=True)
            for value in values
        )
    first, second = (float(value.detach()) for value in values)
    least = 1e-3 * float(torch.stack([each.norm() for each in other]).norm())
    are_alike = math.isclose(first, second, rel_tol=1e-3, abs_tol=1e-5) and all(
        float((mine - own).norm()) <= _APART * max(float(own.norm()), least, _ROUNDING)
        for mine, own in zip(one, other, strict=True)
    )
    return first, second, are_alike


@contextmanager
def moved_in(module: torch.nn.Module) -> Iterator[None]:
    """Have every trained parameter beside its value in the block, by a tenth of its size."""
    trained = [each for each in module.parameters() if each.requires_grad]
    values = [each.detach().clone() for each in trained]
    drawn = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for each in trained:
                noise = torch.randn(each.shape, generator=drawn).to(each)
                size = float(each.square().mean().sqrt()) if each.numel() else 0.0
                each.add_(noise, alpha=0.1 * size or 0.01)
        yield
    finally:
        with torch.no_grad():
            for each, value in zip(trained, values, strict=True):
                each.copy_(value)


_APART, _ROUNDING = 1e-2, 1e-6
"""Share of a tensor's gradient by which two of them may differ, and the size below which nothing is
compared, because it is made of rounding."""


def shards_of(module: torch.nn.Module, accumulated: int) -> int:
    """Return the shards of a batch in which a library's loop normalizes: 1 where it does not.

    Args:
        module: As it is trained.
        accumulated: Batches whose gradients are added up to a step's.
    """
    normalizes = any(
        isinstance(each, _BatchNorm) and (each.training or each.running_mean is None)
        for each in module.modules()
    )
    return accumulated if normalizes else 1


def drawn_at_random(module: torch.nn.Module, examples: Collated, loss: Any) -> list[str]:  # noqa: ANN401 (of a problem)
    """Say in sentences which random numbers are others than a library's loop would draw.

    Args:
        module: As it is trained.
        examples: Examples of the training.
        loss: That of the training, which is called twice on a few examples.
    """
    found = []
    drops = [each for each in module.modules() if isinstance(each, _DropoutNd) and each.p > 0]
    if drops:
        found.append(
            f"the random numbers of dropout ({len(drops)} layers): the engine draws its own for "
            "each step."
        )
    elif _draws(module, examples, loss):
        found.append(
            "the random numbers that the model or its loss draws in training: the engine draws its "
            "own for each step."
        )
    looks = []
    for seed in (0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            looks.append(tree_leaves(examples.collate([copy.deepcopy(examples.samples[0])])))
    one, other = looks
    if len(one) != len(other) or not all(map(_is_same, one, other)):
        found.append(
            "the random numbers that the data set, or what collates it, draws when it is read: the "
            "engine draws its own for each step."
        )
    return found


def _draws(module: torch.nn.Module, examples: Collated, loss: Any) -> bool:  # noqa: ANN401 (of a problem)
    """Say whether the losses of training are others under another seed; the module stays."""
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    seen = []
    with torch.no_grad(), torch.random.fork_rng():
        try:
            read = examples_from(examples, next(module.parameters()).device)
            batch = read[torch.tensor(places_looked_at(len(examples)))]
            for seed in (0, 1):
                torch.manual_seed(seed)
                seen.append(loss(module, copy.deepcopy(batch)))
        except Exception:
            return False  # the first step of a run says what fails, and where
        finally:
            for name, buffer in module.named_buffers():
                buffer.copy_(before[name])
    return not torch.equal(*seen)


def _is_same(one: Any, other: Any) -> bool:  # noqa: ANN401 (what a sample holds)
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    if isinstance(one, int | float | str | bool) and isinstance(other, int | float | str | bool):
        return one == other
    return True


def notes_for_users(
    settings: Mapping[str, Any], not_carried: tuple[str, ...], whose: str
) -> tuple[str, ...]:
    """Return the notes for users of a problem that was read from a training loop."""
    written = ", ".join(f"{name}: {value}" for name, value in settings.items())
    first = f"{whose} trains with training: {{{written}}}; a recipe has to say the same."
    named = whose[0].lower() + whose[1:] if whose.startswith("The ") else whose
    return (first, *(f"Not carried over from {named}: {each}" for each in not_carried))
