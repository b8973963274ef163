"""What the script ``mgd`` calls: are the packages that it will load those of this project?

It stands outside of them and imports none of them first. Their names are common ones, and a folder
in PYTHONPATH comes before what is installed: a package ``flows`` in it would be loaded in the place
of this project's, and no line of that would say so.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGES = {"engine": "stages/keys.py", "tasks": "running/runner.py", "flows": "cli/start.py"}
"""Of this project, at the top, and a file of each by which it is known. Where they lie does not
tell: an installation for editing keeps this module in another folder than the packages."""


def main() -> None:
    """Run the command line; where another package stands before one of its own, say which."""
    for package in PACKAGES:
        in_the_way = another(package)
        if in_the_way:
            print(in_the_way, file=sys.stderr)  # noqa: T201 (nothing that prints can be loaded)
            sys.exit(2)
    from flows.cli.start import main as start

    start()


def another(package: str) -> str | None:
    """Say that another package of the same name comes before that of this project, if one does."""
    spec = find_spec(package)
    if (
        spec is None
        or spec.origin is None
        or (Path(spec.origin).parent / PACKAGES[package]).exists()
    ):
        return None
    return (
        f"mgd needs its own package {package}, and Python finds another one before it: "
        f"{spec.origin}. Take its folder out of PYTHONPATH, or give it another name."
    )
