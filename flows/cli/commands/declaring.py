"""A function as a command: its option groups as options, and its errors as one message."""

from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints

from flows.cli.options import ErrorOptions, OptionGroup
from flows.cli.terminal.one_message import one_message


def command(body: Callable[..., None]) -> Callable[..., None]:
    """Return a function for Typer that has an option for each field of a group of ``body``.

    Whatever ``body`` raises ends the command with one message and an exit code; with ``--debug``,
    an option of every command, its traceback is shown.

    Args:
        body: Carries the command out. A parameter annotated with a subclass of ``OptionGroup``
            receives an instance of it. Where none of them is an ``ErrorOptions``, ``body`` does
            not learn whether ``--debug`` was given. All other parameters are as Typer wants them.

    Raises:
        TypeError: If two parameters or fields of ``body`` have the same name.
    """
    hints = get_type_hints(body, include_extras=True)
    groups: dict[str, type[OptionGroup]] = {
        name: kind
        for name, kind in hints.items()
        if isinstance(kind, type) and issubclass(kind, OptionGroup)
    }
    shown = _parameters(body, hints, groups)
    tells_debug = any(issubclass(kind, ErrorOptions) for kind in groups.values())
    if not tells_debug:
        shown += _of_group(ErrorOptions)
    if len({each.name for each in shown}) < len(shown):
        raise TypeError(f"Two options of {body.__name__} have the same name.")

    @wraps(body)
    def command(**given: Any) -> None:  # noqa: ANN401 (as each option says)
        with one_message(given["debug"]):
            if not tells_debug:
                del given["debug"]
            made = {
                name: kind(**{each.name: given.pop(each.name) for each in fields(kind)})
                for name, kind in groups.items()
            }
            body(**given, **made)

    # What Typer reads a command from.
    command.__dict__["__signature__"] = Signature(shown)
    command.__annotations__ = {each.name: each.annotation for each in shown}
    return command


def _parameters(
    body: Callable[..., None], hints: dict[str, Any], groups: dict[str, type[OptionGroup]]
) -> list[Parameter]:
    """Return the parameters of a function, with the fields of a group in the place of the group."""
    shown: list[Parameter] = []
    for name, parameter in signature(body).parameters.items():
        if name in groups:
            shown += _of_group(groups[name])
        else:
            shown.append(_by_name(name, parameter.default, hints[name]))
    return shown


def _of_group(group: type[OptionGroup]) -> list[Parameter]:
    """Return a parameter for each field of a group, those of its base classes first."""
    hints = get_type_hints(group, include_extras=True)
    return [
        _by_name(
            each.name,
            Parameter.empty if each.default is MISSING else each.default,
            hints[each.name],
        )
        for each in fields(group)
    ]


def _by_name(name: str, default: object, annotation: object) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
