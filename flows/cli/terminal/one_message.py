"""End of a command that failed: one message and an exit code."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

import typer

from flows.cli.terminal.signals import asked_code, is_over, stop_on_signals

REFUSED = 2
"""Exit code: nothing was trained; a setting has to change."""

UNTRUSTWORTHY = 3
"""Exit code: a check or a certificate says that the metagradient cannot be trusted."""

FAILED = 1
"""Exit code: the run stopped; the same command goes on where it stopped."""

INTERRUPTED = 130
"""Exit code: stopped by Ctrl-C."""

SPENT = 4
"""Exit code: the run has spent its budget; it can go on with more."""


@contextmanager
def one_message(debug: bool) -> Iterator[None]:
    """End with one message and an exit code instead of a traceback, whatever is raised.

    Args:
        debug: Let the traceback be seen.
    """
    stop_on_signals()
    for stream in (sys.stdout, sys.stderr):
        # Jobs without a locale print ASCII, and names are of any language.
        with suppress(AttributeError, OSError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue] (or it is none of Python's)
    try:
        _look_for_working_folder()
        yield
        from flows.cli.terminal.screen import flush

        flush()
    except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
        raise  # typer's own ways to end
    except KeyboardInterrupt:
        with suppress(OSError, ValueError):
            typer.secho("\nStopped by Ctrl-C.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except BaseException as error:  # a panic of a library in Rust is no Exception
        asked = asked_code()
        if debug and not (isinstance(error, SystemExit) and asked):
            sys.excepthook = _without_secrets
            raise
        if asked:  # said already; what failed on the way out, as in a closed terminal, came of it
            raise SystemExit(asked) from None
        from flows.cli.terminal.screen import at_words

        with suppress(OSError, ValueError):  # standard error may be gone or full
            message = at_words(_message(error), sys.stderr)
            typer.secho(message, err=True, fg=typer.colors.RED)
        raise typer.Exit(_code(error)) from None
    finally:
        is_over()


def _without_secrets(
    kind: type[BaseException], error: BaseException, frames: TracebackType | None
) -> None:
    """Print a traceback as Python does, and hide the secrets of URLs in it.

    People show tracebacks to others, and a library's error may name the signed address to which it
    was led.
    """
    from engine.secret_urls import redacted

    sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, frames))))


def _look_for_working_folder() -> None:
    """Refuse a folder that was deleted: libraries end the process there, in words of their own."""
    try:
        os.getcwd()
    except OSError as error:
        from engine.errors import ConfigurationError

        raise ConfigurationError(
            f"The working folder is not there any more ({error}). Change to another one, e.g. by "
            "`cd ~`, and start the same command again."
        ) from error


def _message(error: BaseException) -> str:
    from engine.errors import EngineError
    from engine.numerics.memory_errors import is_out_of_memory

    if isinstance(error, EngineError):
        return error.in_recipe()
    if isinstance(error, SystemExit):
        return _ended_by_others(error)
    if is_out_of_memory(error):
        return (
            f"The memory of this machine is not enough: {_first_line(error)}. Use a smaller "
            "training.batch_size or model, or a machine with more memory."
        )
    if isinstance(error, OSError):
        return (
            f"{type(error).__name__}: {_first_line(error)}. Finished stages are kept. Repair "
            "the cause, and start the same command again; --debug shows where it happened."
        )
    return (
        f"The command stopped at an unexpected error: {type(error).__name__}: "
        f"{_first_line(error)}. Finished stages are kept. --debug shows where the error came from."
    )


def _ended_by_others(error: SystemExit) -> str:
    """Say who has ended the command: an exit code of somebody else says nothing about it."""
    from engine.recipes.code.user_code import own_line

    line = own_line(error)
    return (
        f"Code that the command called ends the process{f' in {line}' if line else ''} (exit). "
        "Raise an error that says what is wrong instead. Finished stages are kept."
    )


def _first_line(error: BaseException) -> str:
    from engine.secret_urls import redacted

    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return redacted((lines or ["no more is said"])[0])[:500].rstrip(".")


def _code(error: BaseException) -> int:
    from engine.errors import BudgetSpentError, ConfigurationError, UntrustworthyError

    codes = {
        UntrustworthyError: UNTRUSTWORTHY,  # first: it is a ConfigurationError too
        ConfigurationError: REFUSED,
        BudgetSpentError: SPENT,
    }
    return next((code for kind, code in codes.items() if isinstance(error, kind)), FAILED)
