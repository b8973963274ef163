"""Failures as the UI shows them: one sentence, without frames and secrets.

An ``EngineError`` says what is wrong, where, and what to do; the frames of Prefect and of the flow
that Prefect logs with it would only hide that. Prefect logs an error of a task five times: for the
task, the flow and the process, and as the message of both states. Its first line is kept.

What else is raised says what its library says, addresses with passwords among it. Lines and states
are kept in a database that others read, so the secrets of URLs are taken out of both.
"""

import importlib
import logging
import re
from collections.abc import Callable
from contextlib import suppress
from functools import wraps

from prefect.exceptions import ParameterTypeError

from engine.errors import EngineError
from engine.secret_urls import redacted

_EXPLAINED = (EngineError, ParameterTypeError)
"""Errors whose message is all that a person needs."""

_LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")

_SENDING = "prefect.flow_runs"
"""Its handler is the one by which all of them send lines to the server; the root's prints them."""

_STATES = ("prefect.states", "prefect._internal.states")
"""Where the message of a state is written, from what was raised."""


_OF_TASKS = "prefect.task_runs"

_FAILED = re.compile(r"(Finished in state Failed)\(.*\)", re.DOTALL)
"""What Prefect says of a state, with its message: the error, which was logged before."""

_TOLD = "__told_in_a_log__"
"""Attribute of an error that was logged. It goes with the error to whoever it is raised for."""


class OneSentence(logging.Filter):
    """Lets an error be logged once, and such a one without its traceback, unless debugging."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change a record on its way, or hold it back if it says again what was said."""
        if _debugging(record.name):
            return True
        if failed := _FAILED.fullmatch(str(record.msg)):
            record.msg, record.args = failed[1], ()
            return record.name != _OF_TASKS  # its row stands right below the error's
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return True
        if getattr(error, _TOLD, False):
            return False
        with suppress(AttributeError):  # a class with slots takes none
            setattr(error, _TOLD, True)
        if isinstance(error, _EXPLAINED):
            record.msg, record.args = str(error), ()
            record.exc_info = record.exc_text = None
        return True


def _debugging(name: str) -> bool:
    return logging.getLogger(name).isEnabledFor(logging.DEBUG)


class WithoutSecrets(logging.Formatter):
    """Writes a line as another one does, and hides secrets in it: in message and frames.

    Args:
        written: That one.
    """

    def __init__(self, written: logging.Formatter | None) -> None:
        super().__init__()
        self._written = written or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record without the secrets of its URLs."""
        return redacted(self._written.format(record))


def say_one_sentence() -> None:
    """Make Prefect log the failures of this process so; a second call does nothing."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(each, OneSentence) for each in logger.filters):
            logger.addFilter(OneSentence())
    importlib.import_module("prefect.main")  # sets up Prefect's logging
    for handler in (*logging.getLogger(_SENDING).handlers, *logging.getLogger().handlers):
        is_prefects = type(handler).__module__.startswith("prefect.")
        if is_prefects and not isinstance(handler.formatter, WithoutSecrets):
            handler.setFormatter(WithoutSecrets(handler.formatter))
    for name in _STATES:
        module = importlib.import_module(name)
        if not hasattr(module.format_exception, "__wrapped__"):
            vars(module)["format_exception"] = _without_secrets(module.format_exception)


def _without_secrets(write: Callable[..., str]) -> Callable[..., str]:
    @wraps(write)
    def write_without(*args: object, **options: object) -> str:
        return redacted(write(*args, **options))

    return write_without
