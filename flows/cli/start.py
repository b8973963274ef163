"""The command line, or a word about what it needs; ``mgd_command`` calls it.

The library alone installs this command too, without the packages that it is made of.
"""

import sys


def main() -> None:
    """Run the command line; without its packages, say how they are installed."""
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
