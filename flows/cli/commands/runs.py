"""Commands that run something: run, smoothness, resume."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import (
    BytesOption,
    ChangesOption,
    DebugOption,
    JsonOption,
    LogOption,
    QuietOption,
    RecipeArgument,
    RunArgument,
    SecondsOption,
    StoreOption,
    TrustOption,
    each_once,
)
from flows.cli.terminal.one_message import one_message

if TYPE_CHECKING:
    from engine.recipes.files import Recipe


def run(  # noqa: PLR0913 (the options of one command)
    recipe: RecipeArgument = "digits-selection",
    changes: ChangesOption = None,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", help="One run for each of these training seeds, e.g. 0,1,2."),
    ] = None,
    store: StoreOption = "mgd-store",
    max_seconds: SecondsOption = None,
    max_bytes: BytesOption = None,
    log_to: LogOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Run a recipe; run again with the same settings, it goes on where it stopped."""

    def load() -> "Recipe":
        from engine.recipes.files import load_recipe

        loaded = load_recipe(recipe, changes)
        from engine.runs.budget import with_budget

        return with_budget(loaded, max_seconds=max_seconds, max_bytes=max_bytes)

    _run(load, store, seeds, as_json=as_json, debug=debug, quiet=quiet, log_to=log_to)


def smoothness(  # noqa: PLR0913 (the options of one command)
    recipe: RecipeArgument = "digits-selection",
    directions: Annotated[
        int | None, typer.Option(help="Random directions; two trainings each.")
    ] = None,
    step: Annotated[float | None, typer.Option(help="h: how far z is moved.")] = None,
    by: Annotated[
        str | None, typer.Option(help="Kind of direction: example, group or coordinate.")
    ] = None,
    changes: ChangesOption = None,
    store: StoreOption = "mgd-store",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure how smoothly the training of a recipe answers to changes of its set-up."""

    def load() -> "Recipe":
        from engine.recipes.files import load_to_measure

        given = {"directions": directions, "step": step, "by": by}
        chosen = {name: value for name, value in given.items() if value is not None}
        return load_to_measure(recipe, changes or [], chosen)

    _run(load, store, as_json=as_json, debug=debug, quiet=quiet)


def resume(  # noqa: PLR0913 (the options of one command)
    run: RunArgument,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Other workers for the rest: workers.key=value.", callback=each_once
        ),
    ] = None,
    store: StoreOption = "mgd-store",
    max_seconds: SecondsOption = None,
    max_bytes: BytesOption = None,
    trusted: TrustOption = False,
    log_to: LogOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Let a run go on from its last finished stage; needs only the store.

    Workers and budget are not kept with a run: without --set workers... it goes on in one process.
    """

    def load() -> "Recipe":
        from engine.recipes.files import change_workers
        from engine.runs.budget import with_budget
        from engine.runs.run import find_run, read_recipe
        from engine.runs.stored_places import check_places
        from engine.storage.location import absolute, store_errors
        from engine.storage.readable import check_readable

        place = absolute(store)
        check_readable(place)
        with store_errors(place):
            name = find_run(place, run)
            recipe = read_recipe(place, name)
        if not trusted:
            check_places(recipe, name, place)
        recipe = change_workers(recipe, changes or [])
        return with_budget(recipe, max_seconds=max_seconds, max_bytes=max_bytes)

    _run(load, store, as_json=as_json, debug=debug, quiet=quiet, log_to=log_to)


def _run(  # noqa: PLR0913 (the options of one command)
    load: "Callable[[], Recipe]",
    store: str,
    seeds: str | None = None,
    *,
    as_json: bool,
    debug: bool,
    quiet: bool,
    log_to: str | None = None,
) -> None:
    """Run the recipe that ``load`` finds, and say what came of it."""
    with one_message(debug):
        from flows.cli.running import run_recipe

        run_recipe(load, store, seeds, as_json=as_json, debug=debug, quiet=quiet, log_to=log_to)
