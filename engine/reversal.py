"""Settings of how a run is reversed: schedule, memory, and the product of a step.

They change cost, and the answer by rounding at most. This module does not know torch.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

from engine.settings import Settings


class ScheduleName(StrEnum):
    """How states are made again in reverse order; changes cost, never the answer."""

    KARY = "k-ary"
    """The lazy tree of the paper, of some arity."""

    SQRT = "sqrt"
    """A tree two levels deep, with about sqrt(T) children."""

    BINOMIAL = "binomial"
    """The fewest steps that the states kept allow (Revolve)."""

    TWO_LEVEL = "two-level"
    """The cheapest with states in a fast and in a slow tier."""

    STORE_ALL = "store-all"
    """Every state kept."""

    AUTO = "auto"
    """The fastest on this step and machine within the memory allowed, measured."""


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

    AUTO = "auto"
    """The fastest on this step and machine, measured, compile time included. A clock decides, so no
    recipe may have it: a stage that is made again could differ in its last digits."""


class ReplayConfig(Settings):
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
    """Memory for states and graphs on the run's device; empty means half of what is free, for the
    schedule auto."""

    max_host_bytes: Annotated[int | None, Field(gt=0)] = None
    """Memory of the host for states, beside a device of its own; empty means half of what is free,
    for the schedule auto. On a CPU it bounds the same memory as max_device_bytes."""

    max_store_bytes: Annotated[int | None, Field(gt=0)] = None
    """Bytes that a run may have in the store; empty means no limit."""

    steps_per_segment: Annotated[int, Field(ge=1)] = 100
    """Steps between two states kept in the store: the unit of caching and retry."""

    vjp: VjpMode = VjpMode.REVERSE_OVER_REVERSE
    """How the product of a step is computed."""

    micro_batch: Annotated[int | None, Field(ge=1)] = None
    """Examples of a step reversed at a time, which bounds the memory; empty means all at once."""

    @model_validator(mode="after")
    def _settings_are_read(self) -> "ReplayConfig":
        slots = {ScheduleName.BINOMIAL, ScheduleName.TWO_LEVEL}
        readers = {
            "num_slots": slots,
            "slow_slots": {ScheduleName.TWO_LEVEL},
            "slow_cost": {ScheduleName.TWO_LEVEL},
            "unroll": set(ScheduleName) - {ScheduleName.AUTO},
        }
        for name, schedules in readers.items():
            value = getattr(self, name)
            if self.schedule not in schedules and value != type(self).model_fields[name].default:
                raise ValueError(
                    f"replay.{name} is {value}, but replay.schedule is {self.schedule.value}, "
                    f"which does not read it. Use {' or '.join(sorted(schedules))}, or leave it "
                    "out."
                )
        whole = self.vjp is VjpMode.REVERSE_OVER_REVERSE and self.micro_batch is None
        if self.unroll > 1 and not whole:
            raise ValueError(
                f"replay.unroll is {self.unroll}, which keeps the graphs of whole steps, but "
                f"replay.vjp is {self.vjp.value} and replay.micro_batch is {self.micro_batch}. "
                "Use vjp reverse-over-reverse without micro-batches, or unroll 1."
            )
        return self
