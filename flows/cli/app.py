"""The command line ``mgd``: runs recipes and shows what they left.

The commands import flows, torch and Prefect themselves, so that ``--help`` answers at once.
"""

from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.one_message import UNTRUSTWORTHY, one_message
from flows.cli.options import (
    AgeOption,
    BytesOption,
    ChangesOption,
    DebugOption,
    GraceOption,
    IntermediateOption,
    JsonOption,
    KeepOption,
    RecipeArgument,
    RunsOption,
    SecondsOption,
    StoreOption,
    TrustOption,
)

if TYPE_CHECKING:
    from engine.recipes.files import Recipe

app = typer.Typer(
    help="Gradient descent on the set-up of machine-learning training.",
    no_args_is_help=True,
    add_completion=False,
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


@app.command()
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
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Run a recipe; run again with the same settings, it goes on where it stopped."""

    def load(place: str) -> "Recipe":
        del place
        from engine.recipes.files import load_recipe

        loaded = load_recipe(recipe, changes)
        from engine.runs.budget import with_budget

        return with_budget(loaded, max_seconds=max_seconds, max_bytes=max_bytes)

    _run(load, store, seeds, as_json=as_json, debug=debug)


@app.command()
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
    debug: DebugOption = False,
) -> None:
    """Measure how smoothly the training of a recipe answers to changes of its set-up."""

    def load(place: str) -> "Recipe":
        del place
        from engine.recipes.files import load_recipe, to_measure

        given = {"directions": directions, "step": step, "by": by}
        chosen = {name: value for name, value in given.items() if value is not None}
        own = [change for change in changes or [] if not change.startswith("smoothness.")]
        more = [change for change in changes or [] if change.startswith("smoothness.")]
        return to_measure(load_recipe(recipe, own), chosen, more)

    _run(load, store, as_json=as_json, debug=debug)


@app.command()
def check(
    recipe: RecipeArgument = "digits-selection",
    changes: ChangesOption = None,
    store: StoreOption = "mgd-store",
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Say whether the metagradient of a recipe may be trusted; tries short twins of its run."""
    with one_message(debug):
        from engine.recipes.files import load_recipe

        chosen = load_recipe(recipe, changes)  # refused before torch is loaded
        from flows.cli import checking

        if checking.check(chosen, store, as_json=as_json):
            raise typer.Exit(UNTRUSTWORTHY)


@app.command()
def verify(
    run: Annotated[str, typer.Argument(help="Name of a finished run, or the beginning of it.")],
    seed: Annotated[
        int | None, typer.Option(help="Chooses what is made again; drawn by default.")
    ] = None,
    store: StoreOption = "mgd-store",
    trusted: TrustOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Make a random segment and a difference of a finished run again, and keep a certificate."""
    with one_message(debug):
        from flows.cli import checking

        if checking.verify(run, store, seed, trusted=trusted, as_json=as_json):
            raise typer.Exit(UNTRUSTWORTHY)


@app.command()
def resume(  # noqa: PLR0913 (the options of one command)
    run: Annotated[str, typer.Argument(help="Name of a run, or the beginning of it.")],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Other workers for the rest: workers.key=value."),
    ] = None,
    store: StoreOption = "mgd-store",
    max_seconds: SecondsOption = None,
    max_bytes: BytesOption = None,
    trusted: TrustOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Let a run go on from its last finished stage; needs only the store.

    Workers and budget are not kept with a run: without --set workers... it goes on in one process.
    """

    def load(place: str) -> "Recipe":
        from engine.recipes.files import change_workers
        from engine.runs.budget import with_budget
        from engine.runs.run import find_run, read_recipe
        from engine.runs.stored_places import check_places
        from engine.storage.location import absolute, store_errors
        from engine.storage.readable import check_readable

        place = absolute(place)
        check_readable(place)
        with store_errors(place):
            name = find_run(place, run)
            recipe = read_recipe(place, name)
        if not trusted:
            check_places(recipe, name, place)
        recipe = change_workers(recipe, changes or [])
        return with_budget(recipe, max_seconds=max_seconds, max_bytes=max_bytes)

    _run(load, store, as_json=as_json, debug=debug)


@app.command()
def plan(
    recipe: RecipeArgument = "digits-selection",
    changes: ChangesOption = None,
    store: StoreOption = "mgd-store",
    price: Annotated[
        float | None, typer.Option("--price", help="Price of an hour of the GPU.", min=0)
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure a step for a few seconds and say which schedule is fastest, and what a run costs."""
    with one_message(debug):
        from engine.recipes.files import load_recipe

        chosen = load_recipe(recipe, changes).descent  # refused before torch is loaded
        from engine.numerics.process import prepare_cpu
        from engine.planning.plan import plan as plan_recipe
        from engine.storage.location import absolute, check_writable
        from flows.cli import showing

        prepare_cpu(chosen.training.threads)
        check_writable(absolute(store))
        showing.show_plan(plan_recipe(chosen, absolute(store), price), as_json=as_json)


@app.command()
def deploy(  # noqa: PLR0913 (the options of one command)
    pool: Annotated[str, typer.Option("--pool", help="Work pool whose workers run it.")],
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RECIPE]", help="Shipped recipes, paths of YAML files, or clean."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every recipe that ships, and clean.")
    ] = False,
    changes: ChangesOption = None,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", help="One run for each of these training seeds, e.g. 0,1,2."),
    ] = None,
    store: StoreOption = "mgd-store",
    image: Annotated[
        str | None,
        typer.Option("--image", envvar="MGD_IMAGE", help="Image of the jobs, if in containers."),
    ] = None,
    folder: Annotated[
        str | None,
        typer.Option("--folder", help="Where workers have the files of your problem, if not here."),
    ] = None,
    suffix: Annotated[
        str, typer.Option("--suffix", help="Ends the names: the same recipe on a second pool.")
    ] = "",
    debug: DebugOption = False,
) -> None:
    """Deploy recipes to a Prefect server, to be started from its UI, on a schedule, or anywhere."""
    with one_message(debug):
        from engine.recipes.files import read_seeds
        from flows.cli.deploying import Order, deploy, shipped
        from flows.cli.terminal import prepare_process

        prepare_process(debug)
        order = Order(
            shipped() if everything else names or [],
            changes or [],
            None if seeds is None else read_seeds(seeds),
            folder,
        )
        deploy(order, pool, store, image, suffix)


@app.command()
def recipes(debug: DebugOption = False) -> None:
    """List the recipes that ship with the project."""
    with one_message(debug):
        from rich.table import Table

        from engine.recipes.files import list_recipes
        from flows.cli.screen import Screen

        table = Table("recipe", "kind", "what it does")
        for name, recipe in list_recipes().items():
            table.add_row(name, recipe.kind, recipe.description)
        Screen().print(table)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Of the problem: a name in Python, e.g. flowers.")],
    start: Annotated[
        str,
        typer.Option("--from", help="What it begins from: script, image_folder, table or texts."),
    ] = "script",
    folder: Annotated[str, typer.Option("--folder", help="Where the files go.")] = ".",
    debug: DebugOption = False,
) -> None:
    """Begin a problem of your own: a file, its recipe, and a test that passes as written."""
    with one_message(debug):
        from pathlib import Path

        from engine.errors import ConfigurationError
        from flows.cli.new import Start, begin, tell

        if start not in list(Start):
            raise ConfigurationError(
                f"--from {start!r} is nothing to begin from. Use one of {', '.join(Start)}."
            )
        tell(begin(name, Start(start), Path(folder)), Start(start))


@app.command()
def show(
    run: Annotated[
        str | None, typer.Argument(help="Name of a run, or the beginning of it; none lists them.")
    ] = None,
    store: StoreOption = "mgd-store",
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show a run: its iterates, its stages and what they took, and how to go on."""
    with one_message(debug):
        from engine.storage.location import absolute, store_errors
        from engine.storage.readable import check_readable
        from flows.cli import showing

        place = absolute(store)
        check_readable(place)
        with store_errors(place):
            if run is None:
                showing.show_runs(place, as_json=as_json)
            else:
                showing.show_run(place, run, as_json=as_json)


@app.command()
def export(  # noqa: PLR0913 (the options of one command)
    run: Annotated[str, typer.Argument(help="Name of a finished run, or the beginning of it.")],
    file: Annotated[str, typer.Argument(help="Where to write: *.safetensors or *.pt.")],
    step: Annotated[
        int | None, typer.Option("--step", help="Outer step; the chosen one by default.", min=0)
    ] = None,
    store: StoreOption = "mgd-store",
    trusted: TrustOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write the trained model of a run into a file that torch reads without this project."""
    with one_message(debug):
        from flows.cli import exporting

        exporting.export(run, file, store, step, trusted=trusted, as_json=as_json)


@app.command()
def clean(  # noqa: PLR0913 (the options of one command)
    store: StoreOption = "mgd-store",
    older_than: AgeOption = None,
    keep: KeepOption = None,
    run: RunsOption = None,
    intermediate: IntermediateOption = False,
    grace: GraceOption = "1d",
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it nothing is.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Say what no run needs, and free it with --yes.

    Runs go by age, by count (if both are given, those to which both apply) or by name; what no
    run refers to goes always. A run at work, and what another run uses, stay.
    """
    with one_message(debug):
        from engine.recipes.files import validated
        from engine.reports.units import parse_duration
        from engine.runs.clean_plan import CleanRules
        from engine.runs.cleaning import plan_clean
        from engine.runs.freeing import carry_out
        from engine.storage.location import absolute, store_errors
        from engine.storage.readable import check_readable
        from flows.cli import showing

        rules = validated(
            CleanRules,
            older_than_seconds=None if older_than is None else parse_duration(older_than),
            keep=keep,
            runs=run or [],
            intermediate=intermediate,
            grace_seconds=parse_duration(grace),
        )
        place = absolute(store)
        check_readable(place)
        with store_errors(place):
            plan = plan_clean(place, rules)
            report = carry_out(plan) if yes else plan.report
        showing.show_clean(report, as_json=as_json)


def _run(
    load: "Callable[[str], Recipe]",
    store: str,
    seeds: str | None = None,
    *,
    as_json: bool,
    debug: bool,
) -> None:
    """Run the recipe that ``load`` finds, given the store, and say what came of it."""
    with one_message(debug):
        from flows.cli.running import run_recipe

        run_recipe(load, store, seeds, as_json=as_json, debug=debug)


if __name__ == "__main__":
    app()
