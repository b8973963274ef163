"""Data that the sections of a descent's report are made from."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from engine.applications.descent.record import RunRecord
from engine.metaparameters.by_name import kind_of
from engine.metaparameters.charts import Chart
from engine.problems.data.splits import DataSet
from engine.reports.canvas import BLUE, GREY


@dataclass(frozen=True)
class Curves:
    """Arrays that figures show and the record does not hold.

    Attributes:
        initial_value: z_0, as the update moves it; see the kind of metaparameter.
        value: z at the chosen iterate, shaped like ``initial_value``.
        corrupted: Which training candidates have a wrong label, shape (examples,).
        losses_before: Batch loss of each training step at z_0.
        losses_after: The same at the chosen iterate.
        adjoint_norms: Norm of lambda_t by t, in the first outer step.
        layers: Names of the parameter tensors.
        layer_norms: Norm of each one's part of lambda_t by t, in the first outer step.
        share_norms: Norm of step t's share of the metagradient by t, there too.
    """

    initial_value: Tensor
    value: Tensor
    corrupted: Tensor
    losses_before: Sequence[float]
    losses_after: Sequence[float]
    adjoint_norms: dict[int, float]
    layers: Sequence[str] = ()
    layer_norms: dict[int, list[float]] = field(default_factory=dict)
    share_norms: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Material:
    """A finished descent, and the data for its figures.

    Attributes:
        record: What is known of it.
        curves: Arrays.
        data: The examples.
        first_gradient: First metagradient, as one row.
        changed: Places among the candidates of the inputs that z changes; None for other kinds.
        groups: Group of each training candidate, of a mixture; None for other kinds.
        test_losses: Losses of the first test examples with the first and the chosen set-up, each
            of shape (examples,); None where a loss is that of many, or reads the run's own state.
    """

    record: RunRecord
    curves: Curves
    data: DataSet
    first_gradient: Tensor
    changed: Sequence[int] | None = None
    groups: Tensor | None = None
    test_losses: tuple[Tensor, Tensor] | None = None

    @property
    def chart(self) -> Chart:
        """What the kind of metaparameter shows of z."""
        recipe, curves = self.record.recipe, self.curves
        kind = kind_of(recipe.metaparameters.name)
        return kind.chart(recipe, curves.initial_value, curves.value)


def set_ups(record: RunRecord) -> list[tuple[str, str]]:
    """Name and colour the set-ups to compare: two, or one if the first was kept."""
    if record.chosen:
        return [("initial set-up", GREY), (f"chosen (outer step {record.chosen})", BLUE)]
    return [("initial set-up, which was kept", BLUE)]
