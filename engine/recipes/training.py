"""Settings of one training run: steps, batches, rates, number format and device."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from engine.recipes.replay import StepPath
from engine.recipes.settings import Settings


class RateSchedule(StrEnum):
    """Learning rate of each step, before any metaparameter changes it."""

    FLAT = "flat"
    ONE_CYCLE = "one-cycle"


class DType(StrEnum):
    """Number format of parameters, states and adjoints."""

    FLOAT32 = "float32"
    FLOAT64 = "float64"


class TrainingConfig(Settings):
    """The inner run: T steps of one model."""

    num_steps: Annotated[int, Field(ge=1)] = 200
    """T, optimizer steps in the run."""

    batch_size: Annotated[int, Field(ge=1)] = 100
    """Examples a step."""

    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    """Rate of a flat schedule, peak rate of a one-cycle schedule; per step, dimensionless."""

    rate_schedule: RateSchedule = RateSchedule.FLAT
    """Shape of the learning rate over the run."""

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

    tf32: bool = False
    """Let a GPU multiply with 10 bits of mantissa; the last digits of a metagradient then mean
    less."""

    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")] = "cpu"
    """Torch device: cpu, cuda or cuda:N."""
