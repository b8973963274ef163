"""Settings of one training run: steps, batches, rates, number format and device."""

from enum import StrEnum
from itertools import pairwise
from typing import Annotated

from pydantic import Field, model_validator

from engine.recipes.replay import StepPath
from engine.recipes.settings import Settings, refuse_unread


class RateSchedule(StrEnum):
    """Learning rate of each step, before any metaparameter changes it."""

    FLAT = "flat"
    """The same in all steps."""

    ONE_CYCLE = "one-cycle"
    """Linearly from half the peak up to it at a quarter of the run, and down to nearly zero."""

    COSINE = "cosine"
    """Half a cosine down from the peak."""

    LINEAR = "linear"
    """Linearly down from the peak."""

    MULTI_STEP = "multi-step"
    """Down by a factor at each milestone."""


class DType(StrEnum):
    """Number format of parameters, states and adjoints."""

    FLOAT32 = "float32"
    FLOAT64 = "float64"


class Retraining(StrEnum):
    """How trainings that differ in the metaparameters alone are carried out."""

    BATCHED = "batched"
    """As one batched run."""

    LOOP = "loop"
    """One after the other."""


class TrainingSettings(Settings):
    """The inner run: T steps of one model."""

    num_steps: Annotated[int, Field(ge=1, le=10_000_000)] = 200
    """T, optimizer steps in the run."""

    batch_size: Annotated[int, Field(ge=1)] = 100
    """Examples a step."""

    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    """Rate of a flat schedule, peak rate of the others; per step, dimensionless."""

    rate_schedule: RateSchedule = RateSchedule.FLAT
    """Shape of the learning rate over the run."""

    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps in which the rate rises linearly to its peak, before the shape begins."""

    final_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the peak to which a cosine or linear schedule falls, one step after the last."""

    milestones: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Steps at which a multi-step schedule drops."""

    rate_drop: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Factor on the rate at each milestone."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each training target that is spread evenly over all classes."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seeds the initial parameters, the order of examples and dropout."""

    dtype: DType = DType.FLOAT32
    """Number format."""

    threads: Annotated[int | None, Field(ge=1)] = None
    """CPU threads, on which the last digits depend; empty means torch's choice. Small models are
    fastest with one."""

    compile: bool = False
    """Compile the gradient of a batch, in both sweeps; needs a C++ compiler on a CPU."""

    path: StepPath = StepPath.PLAIN
    """Kernels that define the states, in both sweeps: those of a plain step, or those of a step
    with its graph, which replay.unroll needs where the two differ."""

    piece: Annotated[int | None, Field(ge=1)] = None
    """Pairs of a contrastive batch that are embedded at a time, in both sweeps, which bounds the
    memory; empty means all at once."""

    shards: Annotated[int, Field(ge=1)] = 1
    """Pieces of a batch whose gradients are made one after the other and summed in a fixed binary
    tree, in both sweeps, which bounds the memory; dropout draws for each piece by itself, and batch
    normalization is over a piece, as in a loop that accumulates gradients."""

    skip_idle: bool | None = None
    """Whether a step leaves parameters as they are that its loss leaves out, as torch's optimizers
    do; empty means that a run in which that makes a difference is refused."""

    tf32: bool = False
    """Let a GPU multiply with 10 bits of mantissa; the last digits of a metagradient then mean
    less."""

    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")] = "cpu"
    """Torch device: cpu, cuda or cuda:N."""

    @model_validator(mode="after")
    def _settings_are_read(self) -> "TrainingSettings":
        refuse_unread(self, "rate_schedule", READS, "training.")
        shape = self.rate_schedule
        if self.warmup_steps >= self.num_steps:
            raise ValueError(
                f"training.warmup_steps is {self.warmup_steps}, but the run has only "
                f"{self.num_steps} steps, so the rate would never reach its peak. Use fewer."
            )
        rising = all(a < b for a, b in pairwise(self.milestones))
        if "milestones" in READS[shape] and not (self.milestones and rising):
            raise ValueError(
                f"training.milestones is {list(self.milestones)}, but a {shape.value} schedule "
                "drops at steps in rising order. Give some."
            )
        late = [step for step in self.milestones if step >= self.num_steps]
        if late:
            raise ValueError(
                f"training.milestones has {late[0]}, but the run has only {self.num_steps} steps. "
                "Use steps below training.num_steps."
            )
        if self.shards > self.batch_size:
            raise ValueError(
                f"training.shards is {self.shards}, but a batch has only {self.batch_size} "
                "examples. Use fewer."
            )
        for name, refused in (
            ("path", self.path is not StepPath.PLAIN),
            ("piece", self.piece is not None),
        ):
            if self.shards > 1 and refused:
                raise ValueError(
                    f"training.shards is {self.shards}, but training.{name} is "
                    f"{getattr(self, name)}: a batch in shards is never whole. Leave one of them "
                    "out."
                )
        return self


READS: dict[RateSchedule, frozenset[str]] = {
    RateSchedule.FLAT: frozenset({"warmup_steps"}),
    RateSchedule.ONE_CYCLE: frozenset(),
    RateSchedule.COSINE: frozenset({"warmup_steps", "final_rate"}),
    RateSchedule.LINEAR: frozenset({"warmup_steps", "final_rate"}),
    RateSchedule.MULTI_STEP: frozenset({"warmup_steps", "milestones", "rate_drop"}),
}
"""Settings that a shape reads, besides steps and peak; how it is computed is in
``engine.routine.rates``, where the function of that name is registered."""
