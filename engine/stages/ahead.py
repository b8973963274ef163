"""Makes the first stage of a run in a thread while the process waits for a server.

A start waits for a server to come up, and then for each of its answers. The first stage depends on
none of them, so it is computed meanwhile, by the same code as any stage. It is committed when its
turn comes, under the key that it has then. If the key has changed by then, the result is discarded.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from engine.numerics.determinism import deterministic
from engine.progress.meter import Meter, heard_by, listening
from engine.stages.run import Run
from engine.storage.location import store_errors

if TYPE_CHECKING:
    from engine.stages.commits import Made
    from engine.stages.stage import Stage

_LOOK_SECONDS = 0.2
"""Time between two looks at how far the thread is, by whoever waits for it."""


class _StoppedError(Exception):
    """The stage in the making is no longer wanted."""


class _Stoppable(Meter):
    """A meter that ends its computation at the next step once it was asked to."""

    is_stopped = False

    def ran(self, step: int, num_steps: int, runs: int = 1) -> None:
        """See ``Meter.ran``."""
        self._go_on()
        super().ran(step, num_steps, runs)

    def pulled(self, step: int, num_steps: int) -> None:
        """See ``Meter.pulled``."""
        self._go_on()
        super().pulled(step, num_steps)

    def _go_on(self) -> None:
        if self.is_stopped:
            raise _StoppedError


class _Ahead:
    """A stage without inputs that a thread computes."""

    def __init__(self, stage: "Stage[[]]", run: Run) -> None:
        self._stage, self._run, self._meter = stage, run, _Stoppable()
        self._made: tuple[Made, float] | None = None
        self._thread = threading.Thread(target=self._work, name=f"{stage.name} ahead")
        self._thread.start()

    def _work(self) -> None:
        training = self._run.recipe.training
        # What fails here fails again where it is asked for, and is told there.
        with (
            suppress(Exception),
            heard_by(self._meter),
            deterministic(training.threads, tf32=training.tf32),
        ):
            begun = time.perf_counter()
            self._made = self._stage.compute(self._run), time.perf_counter() - begun

    def wait(self) -> "tuple[Made, float] | None":
        """Return the value made ahead and its seconds; show meanwhile how far it is."""
        heard = listening()
        words = [] if heard is None else heard.words
        while self._thread.is_alive():
            self._thread.join(_LOOK_SECONDS)
            if heard is not None:
                self._show(heard, words)
        if heard is not None:
            heard.words = words
        return self._made

    def _show(self, heard: Meter, words: list[str]) -> None:
        heard.words = [*words, *self._meter.words]
        for name in ("step", "num_steps", "is_reversed", "forward", "reverse"):
            setattr(heard, name, getattr(self._meter, name))

    def stop(self) -> None:
        """End the thread, and wait until it has ended."""
        self._meter.is_stopped = True
        self._thread.join()


_AHEAD: dict[tuple[str, str, str], _Ahead] = {}
"""By store, name and key of the stage."""


@contextmanager
def made_ahead(stage: "Stage[[]]", run: Run) -> Iterator[None]:
    """Make a stage without inputs in a thread while the block goes on, unless it is committed.

    The thread holds the lock of everything that trains until it is done
    (``engine.numerics.determinism.PROCESS``), so nothing else draws random numbers meanwhile.

    Args:
        stage: The stage. If nobody asks for it inside the block, the thread is stopped at the end
            of the block.
        run: Run that the stage belongs to.

    Raises:
        StoreError: If the store cannot be asked.
    """
    place = run.store, stage.name, stage.key(run)
    with store_errors(run.store):
        is_known = place in _AHEAD or stage.committed(run) is not None
    if is_known:
        yield
        return
    ahead = _AHEAD[place] = _Ahead(stage, run)
    try:
        yield
    finally:
        _AHEAD.pop(place, None)
        ahead.stop()


def take(stage: "Stage[...]", run: Run, key: str) -> "tuple[Made, float] | None":
    """Return the value made ahead of a stage that is asked for now, and its seconds; None if none.

    Args:
        stage: Stage that is asked for.
        run: Run that the stage belongs to.
        key: Key of the stage.

    Returns:
        None if it was not made ahead, or if that failed.
    """
    ahead = _AHEAD.pop((run.store, stage.name, key), None)
    return None if ahead is None else ahead.wait()


def is_any() -> bool:
    """Say whether any stage is made ahead; if none is, nobody needs to make its key."""
    return bool(_AHEAD)
