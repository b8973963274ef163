"""Commands that say what may be believed, and what it costs: check, verify, plan."""

from typing import Annotated

import typer

from engine.progress.meter import doing
from flows.cli.commands.declaring import command
from flows.cli.options import (
    DEFAULT_STORE,
    ChangesOption,
    OutputOptions,
    RecipeArgument,
    RunArgument,
    StoreOption,
    TrustOption,
)
from flows.cli.terminal.one_message import UNTRUSTWORTHY
from flows.cli.terminal.signals import says

_NOTHING_KEPT = "Nothing was kept; the same command starts again."


@command
def check(
    recipe: RecipeArgument = "digits-selection",
    changes: ChangesOption = None,
    store: StoreOption = DEFAULT_STORE,
    *,
    output: OutputOptions,
) -> None:
    """Check on short twins of its run whether the metagradient of a recipe can be trusted."""
    from engine.recipes.files import load_recipe

    says(_NOTHING_KEPT)
    chosen = load_recipe(recipe, changes)  # refused before torch is loaded
    from flows.cli.terminal.watching import seen_at_work

    with seen_at_work(quiet=output.quiet), doing("loading torch"):
        from flows.cli import checking

    if checking.check(chosen, store, as_json=output.as_json, quiet=output.quiet):
        raise typer.Exit(UNTRUSTWORTHY)


@command
def verify(
    run: RunArgument,
    seed: Annotated[
        int | None, typer.Option(help="Seed that chooses the parts to verify; random by default.")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    trusted: TrustOption = False,
    *,
    output: OutputOptions,
) -> None:
    """Recompute a random segment and a difference of a finished run, and keep a certificate."""
    says(_NOTHING_KEPT)
    from flows.cli.terminal.watching import seen_at_work

    with seen_at_work(quiet=output.quiet), doing("loading torch"):
        from flows.cli import checking

    if checking.verify(
        run, store, seed, trusted=trusted, as_json=output.as_json, quiet=output.quiet
    ):
        raise typer.Exit(UNTRUSTWORTHY)


@command
def plan(
    recipe: RecipeArgument = "digits-selection",
    changes: ChangesOption = None,
    store: StoreOption = DEFAULT_STORE,
    price: Annotated[
        float | None,
        typer.Option("--price", help="Price of an hour of the device, in any currency.", min=0),
    ] = None,
    *,
    output: OutputOptions,
) -> None:
    """Measure a step for a few seconds, and show the fastest schedule and the cost of a run."""
    from engine.recipes.files import load_recipe

    says(_NOTHING_KEPT)
    chosen = load_recipe(recipe, changes)  # refused before torch is loaded
    from flows.cli.terminal.watching import seen_at_work

    with seen_at_work(quiet=output.quiet):
        with doing("loading torch"):
            from engine.applications.kinds import plan_recipe
            from engine.numerics.process import prepare_cpu
            from engine.storage.location import absolute, check_writable
            from flows.cli import showing
        prepare_cpu(chosen.descent.training.threads)
        check_writable(absolute(store))
        with doing("measuring what a step costs"):
            found = plan_recipe(chosen, absolute(store), price)
    showing.show_plan(found, chosen.descent.replay, as_json=output.as_json, quiet=output.quiet)
