"""Extras: the command that installs a package which an optional part needs.

The project is on no package index: it is installed from a clone, or as a wheel that somebody made.
A command that names the project itself would install whatever stranger has taken its name there.
"""

import re
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

from engine.errors import ConfigurationError

CLONE = Path(__file__).parents[1]
"""Where the project is, if it runs from a clone."""

PROJECT = "metagradient-descent"

_DISTRIBUTIONS = {"sklearn": "scikit-learn"}
"""Packages that are installed by another name than they are imported by."""


def install(extra: str) -> str:
    """Return the command that installs what an extra of ``pyproject.toml`` brings.

    Args:
        extra: Its name there, such as ``parquet``.
    """
    if all((CLONE / name).is_file() for name in ("pyproject.toml", "constraints.txt")):
        return f"pip install -c constraints.txt -e '.[{extra}]' (in the clone)"
    return f"pip install {' '.join(_packages(extra))}"


def _packages(extra: str) -> list[str]:
    """Name the packages of an extra as the installed project asks for them."""
    try:
        needed = requires(PROJECT) or []
    except PackageNotFoundError:  # the folders were put on the path by hand
        needed = []
    marks = (f"extra == '{extra}'", f'extra == "{extra}"')
    found = [text.split(";")[0].strip() for text in needed if text.strip().endswith(marks)]
    named: list[str] = []
    for each in found:  # an extra may be made of others
        parts = re.fullmatch(rf"{PROJECT}\[(.*)\]", each)
        named += (
            [name for part in parts[1].split(",") for name in _packages(part.strip())]
            if parts
            else [f"'{each}'"]
        )
    return named or [f"'{extra}'"]


def load(package: str, purpose: str, extra: str | None = "pipeline") -> Any:  # noqa: ANN401 (a module)
    """Import a package that the library alone does not install.

    Args:
        package: Name of the module, such as ``sklearn.cluster``.
        purpose: What needs it, as the subject of a sentence.
        extra: Extra of ``pyproject.toml`` that brings it; None if none does.

    Raises:
        ConfigurationError: If it is not installed; names the command that does.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        top = package.partition(".")[0]
        if (error.name or "").partition(".")[0] != top:
            raise
        name = _DISTRIBUTIONS.get(top, top)
        raise ConfigurationError(
            f"{purpose} needs the package {name}, and it is not installed. "
            f"Run: {f'pip install {name}' if extra is None else install(extra)}."
        ) from error
