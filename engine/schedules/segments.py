"""Segments: consecutive steps between two states that are kept in the store."""

from engine.recipes.settings import Document


class Segment(Document):
    """Consecutive steps, half-open."""

    start: int
    """First step."""

    stop: int
    """Step after the last one."""


def cut(num_steps: int, length: int, first: int) -> list[Segment]:
    """Cut T steps into segments of at most ``length`` steps, one of which begins at ``first``."""
    starts = [*range(0, first, length), *range(first, num_steps, length)]
    return [
        Segment(start=start, stop=stop)
        for start, stop in zip(starts, [*starts[1:], num_steps], strict=True)
    ]
