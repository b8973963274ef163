"""The check that a step repeats its bits when the reverse sweep runs it again."""

from engine.numerics.fingerprint import first_difference
from engine.preflight.training import LongRun, copied
from engine.preflight.verdict import Check, Verdict
from engine.routine.routine import Routine
from engine.step.step import plain_step
from engine.types import State

MOST_STEPS = 12


def check_replay(run: LongRun) -> Check:
    """Run some steps of a trained twin again, each from its own start, last first.

    Running them in another order finds state outside the state: counters, caches, a batch kept
    from the call before, a generator that nobody seeds.
    """
    routine, states = run.routine, run.states
    z, num_steps = routine.point(), min(routine.num_steps, MOST_STEPS)
    wrong: list[int] = []
    place = ""
    for step in reversed(range(num_steps)):
        again, _ = plain_step(routine, copied(states[step]), z, step)
        found = where_they_differ(routine, states[step + 1], again)
        if found is not None:
            wrong.append(step)
            place = found
    if not wrong:
        return Check(
            name="replay",
            verdict=Verdict.PASS,
            value=0,
            limit=0,
            cause=f"{num_steps} steps, run again last first, repeated every bit.",
        )
    return Check(
        name="replay",
        verdict=Verdict.REFUSE,
        value=len(wrong),
        limit=0,
        cause=f"{len(wrong)} of {num_steps} steps gave other bits when they were run again; step "
        f"{wrong[-1]} differs first at {place}. Something that a step reads is neither in the "
        "state nor made from the step's number: a counter, a cache, a batch kept from the call "
        "before, or a generator that nobody seeds.",
        remedy="Draw from the generator that augment gets, or from torch's global one inside the "
        "model, and keep nothing between two calls.",
    )


def where_they_differ(routine: Routine, one: State, other: State) -> str | None:
    """Name the first element of two states whose bits differ, or return None."""
    for name, row in one.items():
        index = first_difference(row, other[name].to(row.device))
        if index is not None:
            return f"{routine.place(name, index)} of {name}"
    return None
