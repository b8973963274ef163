"""The command line ``mgd``: the table of its commands.

The commands import flows, torch and Prefect themselves, so that ``--help`` answers at once.
"""

from importlib.metadata import version
from typing import Annotated

import typer

from flows.cli.commands import recipes, runs, stores, trust, ui
from flows.cli.completing import Commands

app = typer.Typer(
    cls=Commands,
    help="Gradient descent on the set-up of machine-learning training.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def main(
    show_version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)
    ] = False,
) -> None:
    """Gradient descent on the set-up of machine-learning training."""
    if show_version:
        typer.echo(f"mgd {version('metagradient-descent')}")
        raise typer.Exit


for command in (
    runs.run,
    runs.smoothness,
    trust.check,
    trust.verify,
    runs.resume,
    trust.plan,
    recipes.deploy,
    ui.ui,
    recipes.recipes,
    recipes.new,
    stores.show,
    stores.compare,
    stores.send,
    stores.export,
    stores.clean,
):
    app.command()(command)
app.command("open")(stores.open_report)


if __name__ == "__main__":
    app()
