"""One training over the segments of a run, each from the state that the one before it left."""

from typing import Any, TypeVar

from prefect import Task

from engine.schedules.segments import Segment
from engine.stages.references import Ref
from tasks import training
from tasks.running.runner import StageFuture, StageRunner

_Made = TypeVar("_Made", Ref, StageFuture)


def train(
    stages: StageRunner, parts: list[Segment], value: Ref, words: str = ""
) -> tuple[dict[int, Ref | None], Ref]:
    """Train all segments; return what made the state at each border (None for s_0), and s_T.

    Args:
        stages: Runs the stages.
        parts: The segments, in order.
        value: z.
        words: Follow ``train`` in the names of the stages.
    """
    borders: dict[int, Ref | None] = {0: None}
    state: Ref | None = None
    for part in parts:
        state = stages.run(
            training.train_segment,
            _name(words, part),
            segment=part,
            value=value,
            start=state,
        )
        borders[part.stop] = state
    return borders, _last(state)


def hand_in_training(
    stages: StageRunner,
    parts: list[Segment],
    words: str = "",
    stage: Task[..., Ref] = training.train_segment,
    **inputs: Any,  # noqa: ANN401 (the stage's)
) -> StageFuture:
    """Hand in all segments of a training without waiting for any; return s_T.

    Args:
        stages: Runs the stages.
        parts: The segments, in order.
        words: Follow ``train`` in the names of the stages.
        stage: Trains one segment.
        **inputs: Its inputs but ``segment`` and ``start``.
    """
    state: StageFuture | None = None
    for part in parts:
        state = stages.submit(stage, _name(words, part), segment=part, start=state, **inputs)
    return _last(state)


def _last(state: _Made | None) -> _Made:
    """Return the result of the last segment; a run has at least one."""
    assert state is not None
    return state


def _name(words: str, part: Segment) -> str:
    return f"train{words} {part.start}-{part.stop}"
