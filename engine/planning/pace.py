"""Speed of Python on this machine, from which the time of a report is guessed.

A report draws and loads; no plain step tells how long that takes, since a step may be small or
large. So a guess in seconds is scaled by a piece of Python that is the same everywhere.
"""

import inspect
import textwrap
import time
from functools import cache

_REFERENCE_SECONDS = 1.55e-3
"""What the piece took where the guesses were measured."""

_TIMES = 7


@cache
def python_pace() -> float:
    """Return the seconds of Python here, over those of the machine that guesses come from.

    A module of the standard library is compiled seven times, and the least is taken, of seconds of
    this thread: about 0.01 s, once for a process.
    """
    text = inspect.getsource(textwrap)
    taken = []
    for _ in range(_TIMES):
        start = time.thread_time()
        compile(text, textwrap.__name__, "exec")
        taken.append(time.thread_time() - start)
    return min(taken) / _REFERENCE_SECONDS
