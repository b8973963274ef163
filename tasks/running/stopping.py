"""Lets a stage that is at work come to its end when the process is asked to stop.

A machine that is taken away says so by SIGTERM, some thirty seconds before. Prefect turns that into
an exception in the main thread, in the middle of whatever runs there, and so does the handler of a
command. So a stage is carried out by a thread beside it: the exception hits who waits for the
stage. Prefect's own handler stays in its place, as its supervisors demand.
"""

import ctypes
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextvars import copy_context
from typing import TypeVar

from prefect.exceptions import TerminationSignal

from engine.progress.names import capital, in_words
from tasks.running.attempt import LOOK_SECONDS, go_on
from tasks.running.progress import say

T = TypeVar("T")

GRACE_SECONDS = 20.0
"""Longest wait for a stage after SIGTERM. Most clusters send SIGKILL 30 s after it."""

_END_SECONDS = 5.0
"""Longest wait for a stage that was told to stop at once, while it gives up its lease."""


def to_its_end(name: str, stage: Callable[[], T]) -> T:
    """Carry out a stage; on SIGTERM wait for it, then raise what the signal raised.

    A second signal, the end of ``GRACE_SECONDS``, Ctrl-C and another process of the same flow run
    (``tasks.running.attempt``) stop the stage at the next instruction of Python, within a step.
    Other threads than the main one get no signals and need no help.

    Args:
        name: Name of the stage, for messages.
        stage: Carries it out.
    """
    go_on()
    if threading.current_thread() is not threading.main_thread():
        return stage()
    done: Future[T] = Future()
    target = copy_context().run
    thread = threading.Thread(target=target, args=(_settle, done, stage), name=name, daemon=True)
    try:
        thread.start()  # inside: a signal may come while it starts
        while not wait([done], LOOK_SECONDS).done:
            go_on()
    except TerminationSignal:
        try:
            _wait_once_more(name, done)
        finally:
            _end(thread)
        raise
    except BaseException:
        _end(thread)
        raise
    return done.result()


def _settle(done: "Future[T]", stage: Callable[[], T]) -> None:
    done.set_running_or_notify_cancel()
    try:
        done.set_result(stage())
    except BaseException as error:
        done.set_exception(error)


def _wait_once_more(name: str, done: "Future[T]") -> None:
    """Give a stage that has begun its time to finish."""
    for _ in range(100):  # a second for its thread to start, if the signal came just then
        if done.running() or done.done():
            break
        time.sleep(0.01)
    else:
        return
    words = in_words(name)
    say(logging.WARNING, f"Asked to stop at {words}, which gets {GRACE_SECONDS:g} s to finish.")
    if wait([done], GRACE_SECONDS).done:
        say(logging.WARNING, f"{capital(words)} is finished; stopping.")


def _end(thread: threading.Thread) -> None:
    """Stop a thread that still runs: the process ends, and its lease should be given up before."""
    if thread.is_alive() and thread.ident is not None:
        exception = ctypes.py_object(SystemExit)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), exception)
        thread.join(_END_SECONDS)
