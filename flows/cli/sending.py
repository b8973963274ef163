"""Runs sent to a tracker: a finished one at once, one that goes on after each outer step."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from engine.applications.open_run import open_run
from engine.applications.trackers import Sending, check_target, whole_target
from engine.errors import ConfigurationError, EngineError
from engine.progress.displays import LINES, ticking
from engine.progress.meter import listening
from engine.secret_urls import redacted
from flows.cli.terminal.screen import say, tell

if TYPE_CHECKING:
    from engine.applications.open_run import OpenRun
    from engine.progress.meter import Meter

_LOOK_SECONDS = 2.0
"""Time between two looks at whether a run has scored something new."""


class Sender:
    """Sends the runs of one command.

    A tracker that fails while a run goes on is given up, and said once; the run never waits for it.

    Args:
        target: ``tensorboard:DIR``, ``mlflow:URI``, ``wandb:PROJECT``, ``trackio:PROJECT``.

    Raises:
        ConfigurationError: If it names no tracker.
    """

    def __init__(self, target: str) -> None:
        check_target(target)
        self._target = target
        self._sending: dict[str, Sending] = {}
        self._failed: dict[str, Exception] = {}
        self._opened: dict[str, OpenRun] = {}
        self._seen = 0
        self._at_it = threading.Lock()

    @contextmanager
    def following(self, runs: Sequence[str], store: str) -> Iterator[None]:
        """Send what runs score while the block carries them out.

        Args:
            runs: Their whole names.
            store: fsspec URL.
        """
        self._sending = {run: Sending(self._target) for run in runs}
        meter = listening()
        if meter is None:
            yield
            return
        try:
            with ticking(lambda: self._look(meter, store), _LOOK_SECONDS):
                yield
        except BaseException:
            for sending in self._sending.values():
                with suppress(Exception):  # what stopped the run is what users have to know
                    sending.close()
            raise

    def finish(self, run: str, store: str, *, err: bool = False) -> dict[str, Any]:
        """Send the rest of a run, or all of it, and say how much was sent.

        Args:
            run: Its name, or the beginning of it.
            store: Path or fsspec URL.
            err: Say it on standard error, because standard output is a program's.

        Returns:
            What was said, for a program.

        Raises:
            ConfigurationError: If the tracker failed, now or while the run went on.
        """
        opened = open_run(store, run)
        with self._at_it:  # a look may still be waiting for the tracker
            sending = self._sending.setdefault(opened.name, Sending(self._target))
            error = self._failed.get(opened.name) or _sent(sending, opened, last=True)
        if isinstance(error, EngineError):
            raise error
        if error is not None:
            raise ConfigurationError(
                f"Run {opened.name} could not be sent to {self._target} ({type(error).__name__}: "
                f"{redacted(str(error))}). The run is kept as it is. Send it again: `mgd send "
                f"{opened.name} --to {self._target} --store {store}`"
            ) from error
        place = whole_target(self._target)
        tell(f"{sending.number} numbers of run {opened.name} were sent to {place}.", err=err)
        return {"run": opened.name, "to": place, "numbers": sending.number}

    def _look(self, meter: "Meter", store: str) -> None:
        """Send what is new, if an outer step was scored since the last look that is over."""
        if not self._at_it.acquire(blocking=False):
            return
        try:
            self._send_new(meter, store)
        finally:
            self._at_it.release()

    def _send_new(self, meter: "Meter", store: str) -> None:
        seen = sum(len(board.snapshot().outer) for board in list(meter.boards))
        if seen == self._seen:
            return
        self._seen = seen
        for run, sending in self._sending.items():
            if run in self._failed:
                continue
            try:
                before = self._opened.get(run)
                opened = open_run(store, run) if before is None else before.again()
            except EngineError:  # one of several runs, which has not begun
                continue
            self._opened[run] = opened
            error = _sent(sending, opened, last=False)
            if error is not None:
                self._failed[run] = error
                LINES.warning("Sending to %s failed; the run goes on: %s", self._target, error)


def send(run: str, target: str, store: str, *, as_json: bool) -> None:
    """Send a run as it stands, finished or not.

    Args:
        run: Its name, or the beginning of it.
        target: As of ``Sender``.
        store: Path or fsspec URL.
        as_json: End with one JSON object.
    """
    sent = Sender(target).finish(run, store, err=as_json)
    if as_json:
        say(json.dumps(sent))


def _sent(sending: Sending, run: "OpenRun", *, last: bool) -> Exception | None:
    """Send what is new of a run; return what a tracker's package raised, whatever that is."""
    try:
        try:
            sending.send(run)
        finally:
            if last:
                sending.close()
    except Exception as error:
        return error
    return None
