"""A problem that was read from another library's training loop, with that loop's settings."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from engine.errors import ConfigurationError
from engine.metaparameters.base import Metaparameter
from engine.problems.base import Problem
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


def told(settings: Mapping[str, Any], not_carried: tuple[str, ...], whose: str) -> tuple[str, ...]:
    """Return what people should know of a problem that was read from a loop."""
    written = ", ".join(f"{name}: {value}" for name, value in settings.items())
    first = f"{whose} trains with training: {{{written}}}, which a recipe has to say."
    return (first, *(f"Not carried over from {whose}: {each}" for each in not_carried))
