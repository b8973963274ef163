"""What the UI's log says of a failure: the sentence that explains it, without the frames.

An ``EngineError`` says what is wrong, where, and what to do; the frames of Prefect and of the flow
that Prefect logs with it, once for the task and once for the flow, would only hide that.
"""

import logging

from prefect.exceptions import ParameterTypeError

from engine.errors import EngineError

_EXPLAINED = (EngineError, ParameterTypeError)
"""Errors whose message is all that a person needs."""

_LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")


class OneSentence(logging.Filter):
    """Leaves the traceback out of what is logged of such an error, unless debugging."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change a record on its way; none is held back."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, _EXPLAINED) and not _debugging(record.name):
            record.msg, record.args = str(error), ()
            record.exc_info = record.exc_text = None
        return True


def _debugging(name: str) -> bool:
    return logging.getLogger(name).isEnabledFor(logging.DEBUG)


def say_one_sentence() -> None:
    """Let Prefect's loggers of this process tell failures in one sentence; again does nothing."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(each, OneSentence) for each in logger.filters):
            logger.addFilter(OneSentence())
