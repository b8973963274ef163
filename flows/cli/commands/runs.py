"""Commands that run something: run, smoothness, resume."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.commands.declaring import command
from flows.cli.options import (
    DEFAULT_STORE,
    ChangesOption,
    DirectionOptions,
    OutputOptions,
    RecipeArgument,
    RunArgument,
    RunOptions,
    SeedsOption,
    StoreOption,
    TrustOption,
    each_once,
)

if TYPE_CHECKING:
    from engine.recipes.files import Recipe


@command
def run(
    recipe: RecipeArgument = "digits-selection",
    changes: ChangesOption = None,
    seeds: SeedsOption = None,
    *,
    options: RunOptions,
    output: OutputOptions,
) -> None:
    """Run a recipe. The same command continues a run that was stopped."""

    def load() -> "Recipe":
        from engine.recipes.files import load_recipe

        return _within_budget(load_recipe(recipe, changes), options)

    from flows.cli.running import run_recipe

    run_recipe(load, options, output, seeds)


@command
def smoothness(
    recipe: RecipeArgument = "digits-selection",
    changes: ChangesOption = None,
    store: StoreOption = DEFAULT_STORE,
    *,
    measured: DirectionOptions,
    output: OutputOptions,
) -> None:
    """Measure how smoothly the trained model of a recipe responds to changes of its set-up."""

    def load() -> "Recipe":
        from engine.recipes.files import load_to_measure

        chosen = {name: value for name, value in asdict(measured).items() if value is not None}
        return load_to_measure(recipe, changes or [], chosen)

    from flows.cli.running import run_recipe

    run_recipe(load, RunOptions(store=store), output)


@command
def resume(
    run: RunArgument,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change the workers for the rest of the run: workers.key=value.",
            callback=each_once,
        ),
    ] = None,
    trusted: TrustOption = False,
    *,
    options: RunOptions,
    output: OutputOptions,
) -> None:
    """Continue a run from its last finished stage; only the store is needed.

    Workers and budget are not kept with a run: without --set workers..., one process continues it.
    """

    def load() -> "Recipe":
        from engine.recipes.files import change_workers
        from engine.runs.run import find_run, read_recipe
        from engine.runs.stored_places import check_places
        from engine.storage.location import absolute, store_errors
        from engine.storage.readable import check_readable

        place = absolute(options.store)
        check_readable(place)
        with store_errors(place):
            name = find_run(place, run)
            recipe = read_recipe(place, name)
        if not trusted:
            check_places(recipe, name, place)
        return _within_budget(change_workers(recipe, changes or []), options)

    from flows.cli.running import run_recipe

    run_recipe(load, options, output)


def _within_budget(recipe: "Recipe", options: RunOptions) -> "Recipe":
    """Return a recipe with the budget that the command line sets, if it sets one."""
    from engine.runs.budget import with_budget

    return with_budget(recipe, max_seconds=options.max_seconds, max_bytes=options.max_bytes)
