"""Works of schedules, counted on step numbers alone."""

from engine.progress.time_left import PULL, Work
from engine.schedules.by_name import NamedScheduleMaker
from engine.schedules.simulator import measure
from engine.schedules.trees import whole_run


def sweep_work(
    maker: NamedScheduleMaker, steps: int, pull: float = PULL, kind: str = "reverse"
) -> Work:
    """Return the reverse sweep over a segment of so many steps, weighed in plain steps."""
    cost = measure(maker(steps, 0), start=0, tier=maker.first_tier)
    weight = cost.forward_steps + pull * cost.reverse_steps
    return Work(kind, weight, cost.forward_steps, cost.reverse_steps, pull)


def whole_work(
    maker: NamedScheduleMaker, num_steps: int, first_step: int, outputs: int, kind: str
) -> Work:
    """Return a training and its reverse sweep in one, weighed in plain steps.

    Args:
        maker: Makes the schedule.
        num_steps: T.
        first_step: The step at which the sweep ends.
        outputs: Outputs that are differentiated at once.
        kind: Kind of the work.
    """
    cost = measure(whole_run(num_steps, maker, first_step=first_step, tier=maker.first_tier))
    pull = pull_of(outputs)
    weight = cost.forward_steps + pull * cost.reverse_steps
    return Work(kind, weight, cost.forward_steps, cost.reverse_steps, pull)


def forward_work(num_steps: int, kind: str) -> Work:
    """Return trainings of so many steps together."""
    return Work(kind, float(num_steps), forward=num_steps)


def graph_work(num_steps: int, kind: str) -> Work:
    """Return a training that keeps all graphs, and the one pull through them, as two steps each."""
    return Work(kind, PULL * num_steps, num_steps, reverse=1, pull=2.0 * num_steps)


def unknown_work(kind: str) -> Work:
    """Return a work of which nobody knows how many steps it has."""
    return Work(kind, 1.0, rough=True)


def pull_of(outputs: int) -> float:
    """Return the plain steps that a reverse step of so many outputs costs."""
    return PULL if outputs == 1 else 1.0 + 2 * outputs
