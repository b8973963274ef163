"""Records of a run's reverse sweeps: the adjoint by step and layer, and shares by step."""

from dataclasses import dataclass, field

from engine.preflight.growth import GROWTH_LIMIT, growth_per_step
from engine.stages.commits import lineage, read_scalars
from engine.stages.references import Ref


@dataclass(frozen=True)
class Monitored:
    """One reverse sweep.

    Attributes:
        adjoint: Norm of lambda_t by t, over the whole state.
        layers: Norm of each parameter tensor's part of lambda_t, by t.
        shares: Norm of step t's share of the metagradient, by t.
        uncompared: Steps whose second derivative could not be compared; see
            ``engine.replay.refusals.later_steps``.
    """

    adjoint: dict[int, float]
    layers: dict[int, list[float]]
    shares: dict[int, float]
    uncompared: list[int] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """Fastest sustained growth of the parameters' adjoint per step backwards; 1 is none."""
        norms = {t: sum(part**2 for part in parts) ** 0.5 for t, parts in self.layers.items()}
        return growth_per_step(norms)


def read_sweep(store: str, gradient: Ref) -> Monitored:
    """Gather what the stages of a reverse sweep recorded, given the last of them."""
    records = [read_scalars(store, ref) for ref in lineage(store, gradient, "adjoint")]
    return Monitored(
        adjoint={int(t): norm for each in records for t, norm in each["adjoint_norms"].items()},
        layers={int(t): parts for each in records for t, parts in each["layer_norms"].items()},
        shares={
            int(t): sum(part**2 for part in parts) ** 0.5
            for each in records
            for t, parts in each["share_norms"].items()
        },
        uncompared=sorted(t for each in records for t in each["uncompared"]),
    )


def training_losses(store: str, final: Ref) -> list[float]:
    """Return the batch loss of every step that led to a state, the first step first."""
    parts = [read_scalars(store, ref)["losses"] for ref in lineage(store, final, "start")]
    return [loss for part in reversed(parts) for loss in part]


def alarm(growth: list[float]) -> str | None:
    """Say that the training is chaotic, if the adjoint of an outer step grew so fast."""
    worst = max(growth, default=1.0)
    if worst <= GROWTH_LIMIT:
        return None
    return (
        f"In outer step {growth.index(worst)} the adjoint grew {worst:.2f}-fold at each step "
        "backwards: the learning rate times the curvature of the loss passes 2, where a step "
        "overshoots by more than it corrects. The training is chaotic there, and its metagradient "
        "true but useless. Lower training.learning_rate, or raise training.batch_size."
    )
