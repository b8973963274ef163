"""Background I/O: rows are written while the sweep goes on, and read before it needs them.

``BackgroundStates`` wraps a store. ``save`` copies the state to host memory, pinned if it comes
from a GPU, and returns; one thread writes the rows in the order in which they were saved and
deleted. ``prefetch`` starts to read a row that a later ``load`` will want. What is not decided
here: which rows those are (``announced`` reads it off the schedule, which is data) and how a row is
written (the store).

At most ``depth`` states wait to be written, and as many are read ahead, so memory is bounded. The
bits are the store's own: a row that still waits is loaded from the copy that will be written.
"""

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from engine.errors import CheckpointMissingError
from engine.numerics.fingerprint import check_same_bits
from engine.schedules.trees import Action, Load, Tier
from engine.storage.states import StateStore
from engine.types import State

_AHEAD = 4
"""Actions looked at in advance: after a ``Load`` come ``Reverse``, ``Delete``, ``Load``."""


@runtime_checkable
class Prefetches(Protocol):
    """A store that can be told what will be loaded."""

    def prefetch(self, step: int) -> None:
        """Start to read s_step, if it is there."""
        ...


@dataclass
class _Change:
    """A save or a deletion that the writer has not finished.

    Attributes:
        state: What will be written; None for a deletion.
        done: Its future.
    """

    state: State | None
    done: Future[None]


class BackgroundStates:
    """A store whose rows are written and read by threads of their own.

    Use it in a ``with`` block, or call ``close``: until then, nothing says that a row is on disk.
    An error of the writer is raised by the next ``save``, ``load``, ``delete`` or ``close``, as the
    writer met it, and by every call after that, since rows that follow were not written.

    Args:
        store: Where rows end up. Its methods are called from two threads, never two writes at once.
        depth: States that may wait to be written, and that may be read ahead, at least 1.
    """

    def __init__(self, store: StateStore, *, depth: int = 2) -> None:
        self._store = store
        self._depth = depth
        self._room = threading.BoundedSemaphore(depth)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="mgd-write")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="mgd-read")
        self._changes: dict[int, _Change] = {}  # the last unfinished one of each row
        self._read: dict[int, Future[State]] = {}
        self._failure: BaseException | None = None

    def save(self, step: int, state: State) -> None:
        """See ``StateStore.save``; returns when the state is copied, waits while the queue is full.

        Raises:
            StoreError: What the writer met since the last call.
        """
        self._settle()
        waiting = self._changes.get(step)
        if waiting is not None and waiting.state is not None:
            check_same_bits(f"Row {step}, which waits to be written", waiting.state, _host(state))
            return
        self._forget_read(step)
        self._room.acquire()
        self._check()  # the row that made room may have failed
        self._submit(step, _host(state))

    def load(self, step: int) -> State:
        """See ``StateStore.load``; a row that waits to be written is there.

        Raises:
            StoreError: What the writer met since the last call, or the row's own trouble.
        """
        self._settle()
        change = self._changes.get(step)
        if change is None:
            ahead = self._read.pop(step, None)
            return self._store.load(step) if ahead is None else ahead.result()
        if change.state is None:
            raise CheckpointMissingError(
                f"Row {step} is being deleted. The schedule must save a state before it loads it."
            )
        return {name: vector.clone() for name, vector in change.state.items()}

    def prefetch(self, step: int) -> None:
        """See ``Prefetches.prefetch``; a row that waits to be written is in memory anyway."""
        if step in self._read or step in self._changes or len(self._read) >= self._depth:
            return
        if step in self._store:
            self._read[step] = self._reader.submit(self._store.load, step)

    def delete(self, step: int) -> None:
        """See ``StateStore.delete``; a row that nobody has begun to write is never written."""
        self._settle()
        self._forget_read(step)
        change = self._changes.get(step)
        if change is not None and change.state is None:
            return
        if change is not None and change.done.cancel():
            del self._changes[step]
            self._room.release()
        # The row may be there from before, whatever waited to be written over it.
        self._submit(step, None)

    def __contains__(self, step: int) -> bool:
        change = self._changes.get(step)
        return step in self._store if change is None else change.state is not None

    def steps(self) -> list[int]:
        """See ``StateStore.steps``; those that wait to be written included."""
        known = set(self._store.steps())
        for step, change in list(self._changes.items()):
            (known.discard if change.state is None else known.add)(step)
        return sorted(known)

    def close(self) -> None:
        """Wait until everything is written.

        Raises:
            StoreError: What the writer met.
        """
        self._writer.shutdown(wait=True)
        self._reader.shutdown(wait=True, cancel_futures=True)
        self._read.clear()
        self._settle()

    def __enter__(self) -> "BackgroundStates":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        # The error under way says more than what became of the rows after it.
        self._writer.shutdown(wait=True, cancel_futures=True)
        self._reader.shutdown(wait=True, cancel_futures=True)

    def _submit(self, step: int, state: State | None) -> None:
        done = self._writer.submit(self._carry_out, step, state)
        self._changes[step] = _Change(state, done)

    def _carry_out(self, step: int, state: State | None) -> None:
        """Write or delete a row, in the writer's thread."""
        try:
            self._check()  # after a failure nothing more is written
            if state is None:
                self._store.delete(step)
            else:
                self._store.save(step, state)
        except BaseException as error:
            self._failure = self._failure or error
            raise
        finally:
            if state is not None:
                self._room.release()

    def _settle(self) -> None:
        """Drop what is finished; raise what failed."""
        for step, change in list(self._changes.items()):
            if change.done.done():
                del self._changes[step]
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _forget_read(self, step: int) -> None:
        """Drop what was read ahead of a row that changes, and wait if it is being read."""
        ahead = self._read.pop(step, None)
        if ahead is not None and not ahead.cancel():
            ahead.exception()


def announced(actions: Iterable[Action], tiers: Mapping[Tier, StateStore]) -> Iterator[Action]:
    """Yield the actions of a schedule, and tell the stores which rows will be loaded soon.

    A row is announced when its ``Load`` is at most four actions away, which is while the step
    before it is being reversed. Rows that are not saved yet by then are not read ahead.
    """
    stream = iter(actions)
    told = {tier: store for tier, store in tiers.items() if isinstance(store, Prefetches)}
    if not told:
        yield from stream
        return
    window = deque(islice(stream, _AHEAD))
    while window:
        action = window.popleft()
        window.extend(islice(stream, 1))
        if isinstance(action, Load):
            # Nothing is announced before the row at hand is read: it must not wait behind another.
            yield action
            _announce(window, told)
        else:
            _announce(window, told)
            yield action


def _announce(window: Iterable[Action], told: Mapping[Tier, Prefetches]) -> None:
    for action in window:
        if isinstance(action, Load) and action.tier in told:
            told[action.tier].prefetch(action.step)
            return


def _host(state: State) -> State:
    """Copy a state to host memory, from a GPU through pinned memory and with one wait for all."""
    copies: dict[str, Tensor] = {}
    for name, vector in state.items():
        source = vector.detach()
        if source.is_cuda:
            pinned = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
            copies[name] = pinned.copy_(source, non_blocking=True)
        else:
            copies[name] = source.to("cpu", copy=True)
    for device in {vector.device for vector in state.values() if vector.is_cuda}:
        torch.cuda.current_stream(device).synchronize()
    return copies
