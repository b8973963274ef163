"""Two runs of one step, which have to have the same bits."""

from collections.abc import Callable

import torch
from torch import Tensor

from engine.errors import ConfigurationError, EngineError, WitnessError
from engine.numerics.determinism import deterministic, filling
from engine.routine.outputs import MeanLoss
from engine.routine.routine import Routine
from engine.types import Metaparams, Output, State
from engine.witness.agreement import least_size, relative, value_limit
from engine.witness.outputs import first_part


def refuse_another(
    routine: Routine,
    step: int,
    first: State,
    second: State,
    again: Callable[[], State] | None = None,
) -> None:
    """Refuse a step that was run twice and differs.

    Args:
        routine: The run.
        step: t.
        first: What the step led to, by name.
        second: The same, of the other run.
        again: Runs it once more as it was run the second time, where the module that was handed in
            held other numbers then and does no more.

    Raises:
        ConfigurationError: Names the first number that differs.
        WitnessError: If it differs because the handed-in module does.
    """
    name = _differing(first, second)
    if name is None:
        return
    where = routine.place(name, int((first[name] != second[name]).flatten().nonzero()[0]))
    third = None if again is None else again()
    if third is not None and _differing(second, third) is None:
        # It repeats, whatever the handed-in module holds; with a graph, as it was run first, a
        # layer may take another kernel (an LSTM does, on some processors).
        if all(relative(second[each], first[each]) <= value_limit(routine) for each in first):
            return
    elif third is not None and _differing(first, third) is None:
        raise WitnessError(
            f"Step {step} depends on the numbers that the module which you handed in has at that "
            f"moment: {name} differs first at {where}. In your own training that module moves, and "
            "the engine trains a copy of it. Look in the loss, in hooks, in the forward pass and "
            "in the optimizer's update for the module itself, or for a parameter that is kept "
            "elsewhere, as in a closure. Read all of it from the module that the loss is given, "
            "and write what a hook adds to a gradient into the loss or the update."
        )
    raise ConfigurationError(
        f"Step {step}, run twice, gave two different states: {name} differs first at {where}. A "
        "replayed step must repeat every bit. Draw random numbers from torch's global generator "
        "inside the model, or from the generator that augment gets, those of an optimizer's update "
        "from torch.Generator().manual_seed(step), none from numpy or Python's random; read no "
        "clock, and keep no state outside the parameters."
    )


def refuse_other_output(routine: Routine, output: Output, z: Metaparams, before: Tensor) -> float:
    """Refuse an output whose value at the start of the run changes with a training.

    Args:
        routine: The run.
        output: phi; of one with parts, the first is compared.
        z: Metaparameters.
        before: What ``check_routine`` found it to be.

    Returns:
        The relative difference.

    Raises:
        WitnessError: If they differ; names both values.

    Cost:
        One evaluation, without a graph.
    """
    state = routine.initial_state(z)
    try:
        with filling(), deterministic(), routine.binding.keeping(), torch.no_grad():
            now: Tensor = routine.evaluate(first_part(output), state).detach()
    except (EngineError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as failed:  # of code of the user, which went well before
        raise _read_behind(before, f"fails after it ({type(failed).__name__})") from failed
    error = relative(now, before, least_size(routine))
    if not error <= value_limit(routine):
        raise _read_behind(before, f"is {float(now):.8g} after it")
    return error


def _read_behind(before: Tensor, found: str) -> WitnessError:
    return WitnessError(
        f"The output at the start of the run was {float(before):.8g} before the training and "
        f"{found}, at the same parameters, so it reads what the training left behind: a best loss, "
        "a history, a counter. It has no derivative by that. Compute all of it from the model that "
        "the output is given, or carry it as a state of the run's own: Routine(state=, advance=)."
    )


class FirstCalls:
    """What loss and hooks said when they were called first, to be compared with later calls.

    A counter that has run out by the time a step is run twice is seen by nothing else.

    Args:
        routine: The run.
        loss: That of step 0, a scalar, from the first call of all.
    """

    def __init__(self, routine: Routine, loss: Tensor) -> None:
        self._routine, self._loss = routine, loss
        self._mapped = self._probe()
        self._values: list[tuple[Output, Tensor]] = []

    def _probe(self) -> Tensor | None:
        """Return one gradient after the hooks of the parameters."""
        routine = self._routine
        if not routine.hooks:
            return None
        given = torch.ones(routine.layout.size, dtype=routine.layout.dtype, device=routine.device)
        with torch.no_grad():
            return routine.hooked(given, 0)

    def refuse_other_hooks(self) -> None:
        """Refuse hooks that make another gradient of the same one by now.

        Raises:
            WitnessError: Names the parameter.
        """
        now, before = self._probe(), self._mapped
        if now is None or before is None or torch.equal(now, before):
            return
        index = int((now != before).nonzero()[0])
        raise WitnessError(
            f"A hook on the parameter of {self._routine.place('params', index)} makes another "
            "gradient of the same one when it is called again, so it keeps a counter, a moment or "
            "a parameter's value. Let it depend on the gradient alone, and write the rest into the "
            "optimizer's update."
        )

    def see_output(self, output: Output, value: Tensor) -> None:
        """Keep what an output is at the start of the run, before it is trained.

        That of a mean of the loss is not kept: of the loss more is known.

        Args:
            output: phi.
            value: What it is there, or its first part is.
        """
        if not isinstance(output, MeanLoss):
            self._values.append((output, value))

    def refuse_other_outputs(self, z: Metaparams) -> None:
        """Refuse an output that differs at the same parameters, after the training.

        Raises:
            WitnessError: If they differ; names both values.

        Cost:
            One evaluation of each output, without a graph.
        """
        for output, before in self._values:
            refuse_other_output(self._routine, output, z, before)

    def refuse_another_loss(self, later: Tensor) -> None:
        """Refuse a loss of step 0 that has changed since the first call.

        Args:
            later: Its batch's, when the run was trained.

        Raises:
            WitnessError: If they differ; names both.
        """
        routine, first = self._routine, self._loss
        if routine.piece is not None or routine.shards > 1:
            return
        if relative(later, first, least_size(routine)) > value_limit(routine):
            raise WitnessError(
                f"Step 0 had the loss {float(first):.8g} when the loss was called for the first "
                f"time and {float(later):.8g} when the run was trained, at the same parameters and "
                "batch. So its value depends on how often it was called. Keep no counter, no cache "
                "and no random numbers of your own in the model, the loss or the examples."
            )


def _differing(first: State, second: State) -> str | None:
    return next((name for name, row in first.items() if not torch.equal(row, second[name])), None)
