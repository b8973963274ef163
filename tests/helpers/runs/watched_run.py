"""A run of one outer step on a clock that passes when it is told to, for tests of what is shown."""

from engine.progress.time_left import Work

SEGMENT = Work("train", 10.0, forward=60)
SWEEP = Work("reverse", 30.0, forward=100, reverse=60)
WORKS = [
    *(SEGMENT, Work("evaluate", 1.0), SWEEP, Work("update", 1.0)),
    *(SEGMENT, Work("evaluate", 1.0), Work("report", 2.0, rough=True)),
]


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        """Return the time."""
        return self.now


def scores(loss, **measures):
    """Return the scores of a model with a validation loss, and twice that as objective."""
    return {"objective": {"loss": 2 * loss}, "validation": {"loss": loss, **measures}}
