"""A problem that was read from another library's training loop, with that loop's settings."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._pytree import tree_leaves

from engine.errors import ConfigurationError
from engine.metaparameters.base import Metaparameter
from engine.problems.base import Problem
from engine.routine.examples import Collated
from engine.routine.routine import Routine

UNORDERED = "the order of the examples, because you asked for none of it; the engine draws its own."
"""What is said of an order that nobody read."""


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
    not_carried: tuple[str, ...] = field(default=())

    @property
    def settings(self) -> dict[str, Any]:
        """The group ``training`` of a recipe that trains as the loop does."""
        return {"num_steps": self.num_steps, "batch_size": self.batch_size, "seed": self.seed}

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


def drawn_at_random(module: torch.nn.Module, examples: Collated) -> list[str]:
    """Say in sentences which random numbers are others than a library's loop would draw."""
    found = []
    drops = [each for each in module.modules() if isinstance(each, _DropoutNd) and each.p > 0]
    if drops:
        found.append(
            f"the random numbers of dropout ({len(drops)} layers): others are drawn, by step."
        )
    looks = []
    for seed in (0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            looks.append(tree_leaves(examples.collate([copy.deepcopy(examples.samples[0])])))
    one, other = looks
    if len(one) != len(other) or not all(map(_is_same, one, other)):
        found.append(
            "the random numbers that the data set, or what collates it, draws when it is read: "
            "others are drawn, by step."
        )
    return found


def _is_same(one: Any, other: Any) -> bool:  # noqa: ANN401 (what a sample holds)
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, int | float | str | bool) and isinstance(other, int | float | str | bool):
        return one == other
    return True


def told(settings: Mapping[str, Any], not_carried: tuple[str, ...], whose: str) -> tuple[str, ...]:
    """Return what people should know of a problem that was read from a loop."""
    written = ", ".join(f"{name}: {value}" for name, value in settings.items())
    first = f"{whose} trains with training: {{{written}}}; a recipe has to say the same."
    named = whose[0].lower() + whose[1:] if whose.startswith("The ") else whose
    return (first, *(f"Not carried over from {named}: {each}" for each in not_carried))
