"""Forward passes that write into the parameters that they are given are refused at any step.

A forward pass that clips a weight in place changes nothing until the weight is too large. So the
first steps do not show it, and the derivative of a step does not contain it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from engine.errors import WitnessError
from engine.numerics.fingerprint import fingerprint
from engine.routine.routine import Routine
from engine.step.step import plain_step
from engine.types import Metaparams, State


class ParameterWatch:
    """Watches the parameters of steps that are reversed.

    Cost:
        Two passes over the parameters for each step: 20 microseconds for 100,000 of them, where a
        step takes some milliseconds. On a GPU they are sums of their bits, which wait for nothing.
    """

    def __init__(self) -> None:
        self._differs: dict[int, Tensor] = {}

    @contextmanager
    def watching(self, state: State, step: int) -> Iterator[None]:
        """Watch the parameters of s_step inside the block.

        Raises:
            WitnessError: If they have changed at its end; on a GPU ``refuse_moved`` raises it.
        """
        params = state["params"]
        if params.device.type == "cpu":
            before = fingerprint(params)
            try:
                yield
            finally:  # an error inside of the block may be the consequence, and comes second
                if fingerprint(params) != before:
                    raise _refusal(step, "a parameter")
            return
        noted = _bits(params)
        yield
        self._differs[step] = noted != _bits(params)

    def refuse_moved(self) -> None:
        """Refuse steps on a GPU whose parameters had moved.

        Raises:
            WitnessError: Names the last of them.
        """
        if self._differs and bool(torch.stack(list(self._differs.values())).any()):
            step = next(step for step, differs in self._differs.items() if bool(differs))
            raise _refusal(step, "a parameter")


def refuse_written(routine: Routine, state: State, z: Metaparams, step: int) -> None:
    """Refuse a step that writes into the parameters of a state, after a replay has differed.

    Args:
        routine: The run.
        state: s_step, which is left as it is.
        z: Metaparameters.
        step: t; nothing is tried where the run is over by then.

    Raises:
        WitnessError: Names the parameters.
    """
    if step >= routine.num_steps:
        return
    given = {name: row.detach().clone() for name, row in state.items()}
    plain_step(routine, given, z, step)
    before, after = (routine.layout.views(each["params"].detach()) for each in (state, given))
    moved = [name for name, part in after.items() if not torch.equal(part, before[name])]
    if moved:
        raise _refusal(step, ", ".join(map(repr, moved[:3])))


def _bits(params: Tensor) -> Tensor:
    """Return the sum of a vector's bits as whole numbers, which any change of one moves."""
    whole = torch.int32 if params.element_size() == 4 else torch.int64
    return params.detach().view(whole).sum()


def _refusal(step: int, what: str) -> WitnessError:
    return WitnessError(
        f"The forward pass of step {step} changes {what} in place, as clamp_(), renorm_() or "
        "copy_() of its .data do, which no step of the optimizer knows, so the metagradient would "
        "be that of another run. Compute what a layer uses from the parameter at every call, e.g. "
        "w = self.weight.clamp(-1, 1), or write it into the optimizer's update."
    )
