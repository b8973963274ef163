"""All checks of a routine, in order: those that cost one step first."""

from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from engine.errors import ConfigurationError, EngineError, IdleParametersError
from engine.metaparameters.counts import Counts
from engine.numerics.determinism import deterministic, filling
from engine.preflight import census as operations
from engine.preflight.derivatives import (
    check_autograd,
    check_differences,
    check_format,
    metagradient_of,
)
from engine.preflight.injection import check_injection, neighbours
from engine.preflight.repetition import check_replay
from engine.preflight.smoothness import check_metasmoothness
from engine.preflight.training import LongRun, check_adjoint, check_training, train_twin
from engine.preflight.verdict import Check, CheckReport, Verdict
from engine.progress.board import one_work
from engine.progress.counted import unknown_work
from engine.progress.displays import Shown, showing
from engine.progress.meter import doing
from engine.recipes.replay import ReplaySettings, VjpMode, replay_from
from engine.replay.refusals.first_step import check_routine
from engine.routine.diagnosis import asked_rightly
from engine.routine.idle import skipping_idle
from engine.routine.intake import refuse_no_routine, refuse_output, whole_number
from engine.routine.outputs import MeanLoss
from engine.routine.routine import Routine
from engine.step.by_name import make_vjp
from engine.types import Output
from engine.witness.agreement import gradient_limit, value_limit
from engine.witness.memory.asked import refuse_memory
from engine.witness.repeated import refuse_other_output
from engine.witness.twins import exact_twin, long_twin
from engine.witness.witness import testify


@skipping_idle
def check(
    routine: Routine,
    output: Output,
    *,
    num_directions: int = 20,
    progress: Shown = False,
    **options: Any,  # noqa: ANN401 (the fields of ReplaySettings, checked by it)
) -> CheckReport:
    """Try a routine on short twins, and say whether its metagradient may be trusted.

    Args:
        routine: The run, as ``metagradient`` would get it.
        output: phi, likewise.
        num_directions: Random directions for central differences.
        progress: As for ``metagradient``; what is shown is the check that is at work.
        **options: How the run will be reversed, as ``metagradient`` would get it.

    Returns:
        A verdict with a number, a cause and a remedy for each check.

    Raises:
        ConfigurationError: If the loss, the output or the examples fail by themselves; names the
            line.

    Cost:
        In plain steps: about 10 of the run's own batch size for each of 40 steps, and about
        2 x 8 small ones in float64 for each direction; for counts a training of the whole run,
        reversed to their first step.
    """
    replay = replay_from(options, "check", ("num_directions", "progress"))
    refuse_no_routine(routine)
    refuse_output(output)
    num_directions = whole_number("num_directions", num_directions)
    if num_directions < 1:
        raise ConfigurationError(
            f"num_directions is {num_directions}, and nothing would be compared. Use 1 or more."
        )
    with (
        showing(progress, "check"),
        one_work(unknown_work, "checks on short twins"),
        asked_rightly(routine, [output]),
    ):
        return checked(routine, output, replay, num_directions)


@torch.inference_mode(mode=False)  # also where a notebook is in it
def checked(
    routine: Routine, output: Output, replay: ReplaySettings, num_directions: int = 20
) -> CheckReport:
    """Carry out ``check`` with settings of the replay that were checked already.

    Steps of the twins are reversed a few examples at a time, and in forward mode, where the run's
    are. A compiled product is compared with the reference at its first use in every run, so the
    twins, which are too short to be worth compiling, take the reference.
    """
    if replay.vjp in (VjpMode.COMPILED, VjpMode.AUTO):
        replay = replay.model_copy(update={"vjp": VjpMode.REVERSE_OVER_REVERSE})
    checks: list[Check] = []
    with filling(), deterministic():
        for found in _all_checks(routine, output, num_directions, replay):
            checks.append(found)
    return CheckReport.of(checks)


def _all_checks(
    routine: Routine, output: Output, num_directions: int, replay: ReplaySettings
) -> Iterator[Check]:
    began: list[Tensor] = []
    first = _attempt("first-step", lambda: _check_first_step(routine, output, began))
    yield first
    long: Routine | None = None
    census: operations.Census | None = None

    def take() -> Check:
        nonlocal long, census
        long = long_twin(routine)
        census = operations.take_census(long)
        return operations.check_second_derivatives(census)

    refused = first.verdict is Verdict.REFUSE
    with suppress(*((RuntimeError,) if refused else ())):  # of what was said already
        derivatives = _attempt("second-derivatives", take)
        if not refused or derivatives.cause != first.cause:
            yield derivatives
    if census is not None:
        yield operations.check_dropout(census)
    yield from filter(None, [operations.check_eps_root(routine)])
    if refused or long is None or census is None or census.missing:
        return
    yield from filter(None, [operations.check_shards(routine)])
    repeats = yield from _on_twins(routine, output, long, census, num_directions, replay)
    if not repeats:
        return  # nothing can be compared with a run that does not repeat
    for name, kind in routine.metaparameters.items():
        if isinstance(kind, Counts) and neighbours(kind.steps, routine.num_steps):
            yield _attempt("injection", lambda n=name: check_injection(routine, output, n, replay))
    if began and not isinstance(output, MeanLoss):  # of a mean of the loss more is known
        yield _attempt("output", lambda: _check_output_again(routine, output, began[0]))


def _on_twins(
    routine: Routine,
    output: Output,
    long: Routine,
    census: operations.Census,
    num_directions: int,
    replay: ReplaySettings,
) -> Generator[Check, None, bool]:
    """Run the checks that train a twin; return whether steps repeat their bits."""
    run: LongRun | None = None

    def train_and_replay() -> Check:
        nonlocal run
        run = train_twin(long)
        return check_replay(run)

    replayed = _attempt("replay", train_and_replay)
    yield replayed
    if run is None or replayed.verdict is Verdict.REFUSE:
        return False
    yield _attempt("witness", lambda: _check_witness(routine, output))
    found = [*_long_checks(run, output, replay)]
    run = None  # its states make room for the graphs of whole runs
    yield from _exact_checks(routine, output, census, num_directions, replay)
    yield from found
    return True


def _check_first_step(routine: Routine, output: Output, began: list[Tensor]) -> Check:
    refuse_memory(routine, routine.point())
    began.extend(check_routine(routine, [output], routine.point()))
    return Check(
        name="first-step",
        verdict=Verdict.PASS,
        value=0,
        limit=0,
        cause="The first step is a pure function of state, z and t, and reads all of them.",
    )


def _check_output_again(routine: Routine, output: Output, before: Tensor) -> Check:
    return Check(
        name="output",
        verdict=Verdict.PASS,
        value=refuse_other_output(routine, output, routine.point(), before),
        limit=value_limit(routine),
        cause=(
            "After the trainings of these checks the output at the start of the run is what it was "
            "before them."
        ),
    )


def _check_witness(routine: Routine, output: Output) -> Check:
    seen = testify(routine, [output], routine.point())
    return Check(
        name="witness",
        verdict=Verdict.PASS,
        value=seen.gradient,
        limit=gradient_limit(routine),
        cause=replace(seen, shards="").sentence,  # which has a row of its own
    )


def _exact_checks(
    routine: Routine,
    output: Output,
    census: operations.Census,
    num_directions: int,
    replay: ReplaySettings,
) -> Iterator[Check]:
    twin, twin_output = exact_twin(routine, output)
    found = None

    def compare() -> Check:
        nonlocal found
        found = metagradient_of(twin, twin_output, replay)
        return check_autograd(twin, twin_output, found)

    compared = _attempt("whole-run-autograd", compare)
    yield compared
    if found is None or compared.verdict is Verdict.REFUSE:
        return  # what is wrong already is not worth many trainings
    exact = found
    yield _attempt(
        "central-differences",
        lambda: check_differences(twin, twin_output, exact, census.kinks, num_directions),
    )
    dtype = routine.layout.dtype

    def compare_formats() -> Check:
        own = exact
        if dtype != torch.float64:
            own = metagradient_of(*exact_twin(routine, output, dtype), replay)
        return check_format(dtype, own, exact, census.low_precision)

    yield _attempt("number-format", compare_formats)


def _long_checks(run: LongRun, output: Output, replay: ReplaySettings) -> Iterator[Check]:
    trained = check_training(run)
    yield trained
    if trained.value is None:
        return
    product = make_vjp(replay.vjp, micro_batch=replay.micro_batch)
    yield _attempt("adjoint", lambda: check_adjoint(run, output, product))
    yield _attempt("metasmoothness", lambda: check_metasmoothness(run, output))


def _attempt(name: str, make: Callable[[], Check]) -> Check:
    """Run a check; an error of the engine on the way becomes a refusing check."""
    try:
        with doing(f"check of {name}"):
            return make()
    except IdleParametersError:  # whoever asked for the checks decides what is meant
        raise
    except EngineError as error:
        cause, remedy = _cause_and_remedy(str(error))
        return Check(
            name=name,
            verdict=Verdict.REFUSE,
            value=None,
            limit=None,
            cause=cause,
            remedy=remedy,
            settings=error.settings,
        )


def _cause_and_remedy(message: str) -> tuple[str, str]:
    """Split a message of the engine, whose last sentence is the remedy (``engine.errors``)."""
    cause, stop, remedy = message.rpartition(". ")
    return (f"{cause}.", remedy) if stop else (message, "")
