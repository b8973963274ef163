"""What the command ``mgd`` calls: the command line, or a word about what it needs.

The library alone installs this command too, without the packages that it is made of.
"""

import sys
from importlib.util import find_spec
from pathlib import Path


def main() -> None:
    """Run the command line; without its packages, say how they are installed."""
    in_the_way = another("engine") or another("tasks")
    if in_the_way:
        print(in_the_way, file=sys.stderr)  # noqa: T201 (nothing that prints can be loaded)
        sys.exit(2)
    try:
        from flows.cli.app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("engine", "tasks", "flows"):
            raise
        from engine.extras import install

        sys.exit(
            f"mgd needs the package {error.name}, which the library alone does not install. "
            f"Run: {install('pipeline')}."
        )
    app()


def another(package: str) -> str | None:
    """Say that another package of the same name comes before that of this project, if one does.

    The names are common ones, and a folder in PYTHONPATH comes before what is installed.
    """
    spec, own = find_spec(package), Path(__file__).resolve().parents[2]
    if spec is None or spec.origin is None or own in Path(spec.origin).resolve().parents:
        return None
    return (
        f"mgd needs its own package {package}, in {own}, and Python finds another one before it: "
        f"{spec.origin}. Take its folder out of PYTHONPATH, or give it another name."
    )
