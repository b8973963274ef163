"""Settings of how a run is reversed: schedule, memory, and the product of a step.

They change cost, and the answer by rounding at most. A recipe has them as ``replay``, and a
notebook hands them to ``engine.metagradient`` by name. This module does not know torch.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from engine.errors import ConfigurationError, nearest
from engine.recipes.reading.explain import said_of
from engine.recipes.settings import Settings, refuse_unread


class ScheduleName(StrEnum):
    """How states are made again in reverse order; changes cost, never the answer.

    Of equally fast ones the planner takes the first.
    """

    STORE_ALL = "store-all"
    """Every state kept."""

    SQRT = "sqrt"
    """A tree two levels deep, with about sqrt(T) children."""

    KARY = "k-ary"
    """The lazy tree of the paper, of some arity."""

    BINOMIAL = "binomial"
    """The fewest steps that the states kept allow (Revolve)."""

    TWO_LEVEL = "two-level"
    """The cheapest with states in a fast and in a slow tier."""

    AUTO = "auto"
    """The fastest on this step and machine within the memory allowed, measured."""


_ALWAYS = frozenset({"unroll"})

READS: dict[ScheduleName, frozenset[str]] = {
    ScheduleName.STORE_ALL: _ALWAYS,
    ScheduleName.SQRT: _ALWAYS,
    ScheduleName.KARY: _ALWAYS | {"arity"},
    ScheduleName.BINOMIAL: _ALWAYS | {"num_slots"},
    ScheduleName.TWO_LEVEL: _ALWAYS | {"num_slots", "slow_slots", "slow_cost"},
    ScheduleName.AUTO: frozenset(),
}
"""Settings that shape a schedule; how one is made is in the file of its name in
``engine/schedules``."""

_TOLERATED = frozenset({"arity"})
"""May stay where a schedule is changed for another: a default of the others is counted from it."""


class StepPath(StrEnum):
    """Which of torch's kernels define the states of a run; they may differ in the last digits."""

    PLAIN = "plain"
    """Those of a gradient that is not differentiated again."""

    GRAPH = "graph"
    """Those of a gradient with its graph, in both sweeps."""


class VjpMode(StrEnum):
    """How the product of a step is computed; the answer changes by rounding only."""

    REVERSE_OVER_REVERSE = "reverse-over-reverse"
    """Graph of the gradient, differentiated once more; the reference."""

    COMPILED = "compiled"
    """The same as one compiled graph, made once for a run; needs a C++ compiler on a CPU."""

    FORWARD_OVER_REVERSE = "forward-over-reverse"
    """Derivative of the gradient along a direction, in forward mode; as much memory as the
    reference in eager torch, and no second derivative of any kernel."""

    BATCHED = "batched"
    """The reference with the cotangents of several outputs in one pass, where torch's operations
    have rules for that; as much memory as all of them at once."""

    AUTO = "auto"
    """The fastest on this step and machine, measured, compile time included. A run takes what the
    plan of its first start has chosen, so that a stage made again has the same digits."""


class ReplaySettings(Settings):
    """How the reverse sweep is carried out; changes cost, and the answer by rounding at most."""

    schedule: ScheduleName = ScheduleName.KARY
    """Schedule inside a segment."""

    arity: Annotated[int, Field(ge=2)] = 4
    """k, children per node of the k-ary tree; larger stores more and replays less."""

    num_slots: Annotated[int | None, Field(ge=1)] = None
    """States kept at once, for binomial and (in the fast tier) two-level; empty means as many as
    the k-ary tree of that arity."""

    slow_slots: Annotated[int | None, Field(ge=0)] = None
    """States in the slow tier at once besides the first, for two-level; empty means no limit."""

    slow_cost: Annotated[float, Field(ge=0)] = 1.0
    """Plain steps that a save to the slow tier takes, and a load from it, for two-level."""

    unroll: Annotated[int, Field(ge=1)] = 1
    """Steps whose graphs are kept at once, so that their replay is their step with its graph; where
    training.path is plain, both must make the same bits."""

    max_device_bytes: Annotated[int | None, Field(gt=0)] = None
    """Memory for states and graphs on the run's device. The schedule auto keeps to it, and to half
    of what is free if it is empty; any other schedule is refused where it needs more."""

    max_host_bytes: Annotated[int | None, Field(gt=0)] = None
    """Memory of the host for states, beside a device of its own; used as max_device_bytes is. On a
    CPU it bounds the same memory as max_device_bytes."""

    max_store_bytes: Annotated[int | None, Field(gt=0)] = None
    """Bytes that a run may have in the store; empty means no limit. Of a call in a notebook it
    bounds the states that are kept there at once, and asks for a store."""

    steps_per_segment: Annotated[int, Field(ge=1)] = 100
    """Steps between two states kept in the store: the unit of caching and retry of a recipe. A call
    in a notebook reverses its run as one segment, and refuses it."""

    vjp: VjpMode = VjpMode.REVERSE_OVER_REVERSE
    """How the product of a step is computed."""

    micro_batch: Annotated[int | None, Field(ge=1)] = None
    """Examples of a step reversed at a time, which bounds the memory; empty means all at once."""

    @model_validator(mode="after")
    def _settings_are_read(self) -> "ReplaySettings":
        refuse_unread(self, "schedule", {name: read | _TOLERATED for name, read in READS.items()})
        whole = self.vjp is VjpMode.REVERSE_OVER_REVERSE and self.micro_batch is None
        if self.unroll > 1 and not whole:
            raise ValueError(
                f"unroll is {self.unroll}, which keeps the graphs of whole steps, but vjp is "
                f"{self.vjp.value} and micro_batch is {self.micro_batch}. Use "
                "vjp=reverse-over-reverse without micro-batches, or unroll=1."
            )
        return self

    def caps(self) -> dict[str, int]:
        """Return the bounds of memory that were given."""
        names = ("max_device_bytes", "max_host_bytes", "max_store_bytes")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def replay_from(options: Mapping[str, Any], call: str, others: tuple[str, ...]) -> ReplaySettings:
    """Return the settings that the options of a call in a notebook stand for.

    Args:
        options: Options by name; numbers of numpy and torch count as numbers.
        call: Name of the call, for messages.
        others: Its arguments that are no options, which may have been meant too.

    Raises:
        ConfigurationError: If there is no such option, or its value is impossible; says what is.
    """
    fields = ReplaySettings.model_fields
    known = [name for name in fields if name != "steps_per_segment"]
    for name, value in options.items():
        if name == "steps_per_segment":
            raise ConfigurationError(
                f"steps_per_segment is {value}, but {call} reverses its run as one segment: only "
                "a recipe cuts it into stages. Leave it out."
            )
        if name not in fields:
            close = nearest(name, [*known, *others])
            meant = f"Did you mean {close!r}? " if close else ""
            raise ConfigurationError(
                f"{call} has no option {name!r}. {meant}Its options are {', '.join(known)}."
            )
    plain = {name: _as_number(value) for name, value in options.items()}
    try:
        return ReplaySettings.model_validate(plain)
    except ValidationError as error:
        raise ConfigurationError(" ".join(map(_explained, error.errors()))) from None


def _as_number(value: Any) -> Any:  # noqa: ANN401 (whatever was handed in)
    """Return the number in a scalar of numpy or torch, and anything else as it is."""
    return value.item() if getattr(value, "shape", None) == () else value


def _explained(error: Any) -> str:  # noqa: ANN401 (pydantic's own description)
    if not error["loc"]:
        return str(error["ctx"]["error"])
    name = str(error["loc"][0])
    meaning = " ".join((ReplaySettings.model_fields[name].description or "").split())
    return f"{name} is {error['input']!r}: {said_of(error)} {name} means: {meaning}"
