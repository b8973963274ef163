"""Commands that say what may be believed, and what it costs: check, verify, plan."""

from typing import Annotated

import typer

from engine.progress.meter import doing
from flows.cli.options import (
    ChangesOption,
    DebugOption,
    JsonOption,
    QuietOption,
    RecipeArgument,
    RunArgument,
    StoreOption,
    TrustOption,
)
from flows.cli.terminal.one_message import UNTRUSTWORTHY, one_message


def check(
    recipe: RecipeArgument = "digits-selection",
    changes: ChangesOption = None,
    store: StoreOption = "mgd-store",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Say whether the metagradient of a recipe may be trusted; tries short twins of its run."""
    with one_message(debug):
        from engine.recipes.files import load_recipe

        chosen = load_recipe(recipe, changes)  # refused before torch is loaded
        from flows.cli.terminal.watching import seen_at_work

        with seen_at_work(quiet=quiet), doing("loading torch"):
            from flows.cli import checking

        if checking.check(chosen, store, as_json=as_json, quiet=quiet):
            raise typer.Exit(UNTRUSTWORTHY)


def verify(  # noqa: PLR0913 (the options of one command)
    run: RunArgument,
    seed: Annotated[
        int | None, typer.Option(help="Chooses what is made again; drawn by default.")
    ] = None,
    store: StoreOption = "mgd-store",
    trusted: TrustOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Make a random segment and a difference of a finished run again, and keep a certificate."""
    with one_message(debug):
        from flows.cli.terminal.watching import seen_at_work

        with seen_at_work(quiet=quiet), doing("loading torch"):
            from flows.cli import checking

        if checking.verify(run, store, seed, trusted=trusted, as_json=as_json, quiet=quiet):
            raise typer.Exit(UNTRUSTWORTHY)


def plan(  # noqa: PLR0913 (the options of one command)
    recipe: RecipeArgument = "digits-selection",
    changes: ChangesOption = None,
    store: StoreOption = "mgd-store",
    price: Annotated[
        float | None,
        typer.Option("--price", help="Price of an hour of the device, in any currency.", min=0),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure a step for a few seconds and say which schedule is fastest, and what a run costs."""
    with one_message(debug):
        from engine.recipes.files import load_recipe

        chosen = load_recipe(recipe, changes)  # refused before torch is loaded
        from flows.cli.terminal.watching import seen_at_work

        with seen_at_work(quiet=quiet):
            with doing("loading torch"):
                from engine.applications.kinds import plan_recipe
                from engine.numerics.process import prepare_cpu
                from engine.storage.location import absolute, check_writable
                from flows.cli import showing
            prepare_cpu(chosen.descent.training.threads)
            check_writable(absolute(store))
            with doing("measuring what a step costs"):
                found = plan_recipe(chosen, absolute(store), price)
        showing.show_plan(found, chosen.descent.replay, as_json=as_json, quiet=quiet)
