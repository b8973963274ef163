"""Progress of stages in other processes: each writes it beside the run, and the flow reads it.

A worker of a cluster shares nothing with the flow but the store. So the process that carries out a
stage writes a small file every few seconds, and takes it away at the end. Nothing depends on it: a
store that does not answer just then leaves the picture as it was.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from engine.progress.board import Board
from engine.progress.meter import Meter, heard_by, listening
from engine.recipes.execution import RunnerName
from engine.stages.run import Run
from engine.storage.location import join, list_files, remove_file
from engine.storage.names import claimed_label, label
from engine.storage.places import PROGRESS
from engine.storage.records import SMALL, read_records, write_record

WRITE_SECONDS = 2.0
"""Time between two files of a stage."""


@contextmanager
def told(run: Run, stage: str, key: str, name: str) -> Iterator[None]:
    """Let the flow hear of a stage that is carried out inside the block, if that is elsewhere."""
    if listening() is not None or run.recipe.workers.runner is RunnerName.LOCAL:
        yield
        return
    meter, over = Meter(), threading.Event()
    url = join(run.file(PROGRESS), f"{label(stage, key)}.json")

    def write() -> None:
        while True:
            with suppress(Exception):
                write_record(url, _content(meter, stage, name))
            if over.wait(WRITE_SECONDS):
                return

    thread = threading.Thread(target=write, daemon=True, name=f"progress of {name}")
    thread.start()
    try:
        with heard_by(meter):
            yield
    finally:
        over.set()
        thread.join(timeout=5)
        with suppress(Exception):
            remove_file(url)


class Elsewhere:
    """Puts what other processes wrote of their stages on the board of a run.

    Args:
        run: The run.
        board: Board of the run.
    """

    def __init__(self, run: Run, board: Board) -> None:
        self._folder, self._board = run.file(PROGRESS), board
        self._lock = threading.Lock()  # one thread looks, another one waits for stages
        self._meters: dict[str, Meter] = {}
        self._ended: set[str] = set()
        for url in self._urls():  # of processes that are no more
            with suppress(Exception):
                remove_file(url)

    def look(self) -> None:
        """Read the files; a stage that is new begins."""
        with suppress(Exception):
            for record in read_records(self._urls(), largest=SMALL).values():
                if record is not None:
                    with self._lock:
                        self._note(record)

    def end(self, name: str, kind: str, *, cached: bool) -> None:
        """Note that a stage is done, also one that was too short to have been seen.

        Its file may be read once more, or stay behind where its worker died.
        """
        with self._lock:
            self._ended.add(name)
            heard = self._meters.pop(name, None) is not None
            if not heard:
                self._board.begin(name, kind, meter=Meter())
            self._board.end(name, cached=cached, timed=heard)

    def drop(self, name: str) -> None:
        """Note that a stage is no longer at work, and may begin again."""
        with self._lock:
            self._meters.pop(name, None)
            self._board.drop(name)

    def _urls(self) -> list[str]:
        with suppress(Exception):
            names = [name for name in list_files(self._folder) if claimed_label(name)]
            return [join(self._folder, name) for name in names]
        return []

    def _note(self, record: dict[str, Any]) -> None:
        name, kind = str(record["name"]), str(record["stage"])
        meter = self._meters.get(name)
        if name in self._ended:
            return
        if meter is None:
            meter = self._meters[name] = Meter()
            self._board.begin(name, kind, meter=meter)
        meter.step, meter.num_steps = int(record["step"]), int(record["num_steps"])
        meter.forward, meter.reverse = int(record["forward"]), int(record["reverse"])
        meter.is_reversed = bool(record["is_reversed"])


def _content(meter: Meter, stage: str, name: str) -> dict[str, Any]:
    return {
        "stage": stage,
        "name": name,
        "step": meter.step,
        "num_steps": meter.num_steps,
        "forward": meter.forward,
        "reverse": meter.reverse,
        "is_reversed": meter.is_reversed,
    }
