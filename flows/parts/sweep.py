"""One reverse sweep over the segments of a run, with other workers ahead of the adjoint."""

from engine.schedules.segments import Segment
from engine.stages.references import Ref
from tasks import training
from tasks.reporting import heed_later_steps
from tasks.running.runner import StageFuture, StageRunner


def reverse_sweep(
    stages: StageRunner,
    parts: list[Segment],
    outer_step: int,
    value: Ref,
    borders: dict[int, Ref | None],
    adjoint: Ref,
) -> Ref:
    """Reverse the segments, last first, each from its own start; return the metagradient.

    While one segment is reversed, the next ones are replayed into the store, which needs no
    adjoint. At most ``workers.lookahead`` such trajectories are there at once, the one in use among
    them; each is deleted when the reverse stage that used it is committed.

    Args:
        stages: Runs the stages.
        parts: The segments to reverse, in the order of training.
        outer_step: n, for the names of stages.
        value: z_n.
        borders: Start or end of each segment to the stage that trained up to there; None for s_0.
        adjoint: The stage that seeded the adjoint.
    """
    order = parts[::-1]
    inputs = [{"segment": part, "value": value, "start": borders[part.start]} for part in order]
    ends = [borders[part.stop] for part in order]
    names = [f"[{outer_step}] {part.start}-{part.stop}" for part in order]
    most = stages.recipe.workers.most_trajectories
    num_done = _count_done(stages, inputs, ends, adjoint) if most else 0
    ahead: dict[int, StageFuture] = {}
    for i in range(len(order)):
        trajectory = ahead.pop(i, None)
        reverse = stages.submit(
            training.reverse_segment,
            f"reverse{names[i]}",
            **inputs[i],
            end=ends[i],
            adjoint=adjoint,
            trajectory=trajectory,
        )
        # The first segment whose adjoint is there is reversed at once: nothing can be ahead of it.
        for j in range(max(i, num_done) + 1, len(order)):
            if len(ahead) + (trajectory is not None) >= most:
                break
            if j not in ahead:
                ahead[j] = stages.submit(training.replay_segment, f"replay{names[j]}", **inputs[j])
        adjoint = reverse.result()
        heed_later_steps(stages.recipe, stages.store, adjoint)
        if trajectory is not None:
            stages.discard(trajectory.result())
    return adjoint


def _count_done(
    stages: StageRunner,
    inputs: list[dict[str, Segment | Ref | None]],
    ends: list[Ref | None],
    adjoint: Ref,
) -> int:
    """Return how many segments are reversed already, and drop what a killed run left of them."""
    for i, each in enumerate(inputs):
        left = stages.peek(training.replay_segment, **each)
        found = stages.peek(training.reverse_segment, **each, end=ends[i], adjoint=adjoint)
        if found is None:
            return i
        if left is not None:
            stages.discard(left)
        adjoint = found
    return len(inputs)
