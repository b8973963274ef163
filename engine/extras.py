"""How a package that an optional part needs is installed, said so that the command works.

The project is on no package index: it is installed from a clone, or as a wheel that somebody made.
A command that names the project itself would install whatever stranger has taken its name there.
"""

from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

CLONE = Path(__file__).parents[1]
"""Where the project is, if it runs from a clone."""

PROJECT = "metagradient-descent"


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
    return [f"'{each}'" for each in found] or [f"'{extra}'"]
