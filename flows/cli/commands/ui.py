"""The command ui: Prefect's UI for one person."""

from typing import Annotated

import typer

from flows.cli.commands.declaring import command
from flows.cli.completing import complete_recipe
from flows.cli.options import DEFAULT_STORE, ErrorOptions, StoreOption


@command
def ui(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECIPE",
            help="Recipes and files that can be started in the UI; by default digits-selection, "
            "check, plan, verify, smoothness and clean.",
            autocompletion=complete_recipe,
        ),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open a browser at the first form.")
    ] = True,
    start: Annotated[
        bool,
        typer.Option(
            "--start", help="Start a run of the first recipe at once, and open its report."
        ),
    ] = False,
    stop: Annotated[
        bool, typer.Option("--stop", help="End all of your mgd ui processes on this machine.")
    ] = False,
    *,
    output: ErrorOptions,
) -> None:
    """Start Prefect's UI for yourself: server, worker and deployments; Ctrl-C ends them all."""
    if stop:
        from flows.cli import one_person

        one_person.stop()
        return
    from engine.recipes.files import DEFAULT_RECIPE
    from flows.cli.deploying import WITHOUT_RECIPE
    from flows.cli.one_person import serve
    from flows.cli.terminal.watching import prepare_process

    prepare_process(output.debug)
    wanted = names or [DEFAULT_RECIPE, *WITHOUT_RECIPE]
    serve(wanted, store, start=start, browser=browser, debug=output.debug)
