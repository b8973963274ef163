"""A recipe run from the command line: the process, its server, the flow, and what came of it.

The recipe is read first, which loads neither torch nor Prefect, so that a wrong setting is refused
at once. Both are imported after the server has been started, which takes longer than they.
"""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

from flows.cli.screen import say
from flows.cli.signals import goes_on
from flows.cli.terminal import prepare_process, progress

if TYPE_CHECKING:
    from engine.recipes.files import Recipe
    from engine.runs.finished import FinishedRun
    from flows.cli.local_server import LocalServer


def run_recipe(
    load: "Callable[[str], Recipe]", store: str, seeds: str | None, *, as_json: bool, debug: bool
) -> None:
    """Run the recipe that ``load`` finds, given the store; print lines, or one JSON object.

    Args:
        load: Returns the recipe, given the store as it was typed.
        store: Path or fsspec URL.
        seeds: Training seeds, comma-separated; one run for each.
        as_json: End with the object on stdout; all else goes to stderr.
        debug: Show all log lines.
    """
    prepare_process(debug)
    from engine.recipes.files import read_seeds

    recipe, chosen = load(store), None if seeds is None else read_seeds(seeds)
    from engine.storage.location import absolute
    from flows.cli.local_server import server_of_a_command

    place = absolute(store)
    if chosen is None and (record := _repeated(recipe, place)) is not None:
        content = _tell(record, place, as_json)
        if as_json:
            say(json.dumps(content))
        return

    with server_of_a_command(show_log=debug) as server:
        _run(recipe, place, chosen, server, as_json=as_json)


def _run(
    recipe: "Recipe",
    place: str,
    chosen: list[int] | None,
    server: "LocalServer | None",
    *,
    as_json: bool,
) -> None:
    from engine.errors import ConfigurationError
    from engine.numerics.process import prepare_cpu
    from engine.stages.run import Run
    from engine.stages.training import prepare

    typer.echo(prepare_cpu(recipe.descent.training.threads), err=True)
    # What is refused is refused here, in one message, before a flow starts.
    prepare(Run(recipe.descent, place))
    runs = _runs(recipe, chosen)
    for run in runs:
        typer.echo(f"Run: {run} in {place}", err=True)
    goes_on(runs, place)
    from flows.cli.local_server import connected
    from flows.registry import FLOWS, REPLICAS

    with progress(), connected(server):
        if chosen is None:
            records = [FLOWS[recipe.kind](recipe, place)]
        else:
            if recipe.kind not in REPLICAS:
                raise ConfigurationError(
                    f"--seeds {','.join(map(str, chosen))}: a recipe of kind {recipe.kind} is run "
                    "for one seed. Use --set training.seed=N."
                )
            records = REPLICAS[recipe.kind](recipe, chosen, place)
    contents = [_tell(record, place, as_json) for record in records]
    if as_json:
        many = {"recipe": recipe.name, "store": place, "seeds": chosen, "runs": contents}
        say(json.dumps(contents[0] if chosen is None else many))


def _repeated(recipe: "Recipe", place: str) -> "FinishedRun | None":
    """Return a finished run that has nothing left to do, without a server or a flow.

    A server of the user's own is told of every start, so there the flow looks.
    """
    from engine.recipes.names import run_name
    from engine.storage.location import store_errors
    from engine.storage.places import RUN, run_file
    from engine.storage.records import read_bytes
    from flows.cli.surroundings import prefect_settings

    # Asked first, because nothing heavy is loaded for it.
    with store_errors(place):
        if read_bytes(run_file(place, run_name(recipe.descent), RUN)) is None:
            return None
    if prefect_settings().api.url:
        return None
    from engine.applications.descent.repeated import repeated

    return repeated(recipe, place)


def _runs(recipe: "Recipe", seeds: list[int] | None) -> list[str]:
    """Name the runs that a recipe makes, as the store will know them."""
    from engine.recipes.files import with_seed
    from engine.recipes.names import run_name

    if seeds is None:
        return [run_name(recipe.descent)]
    return [run_name(with_seed(recipe, seed).descent) for seed in seeds]


def _tell(record: "FinishedRun", place: str, as_json: bool) -> dict[str, Any]:
    """Say what came of a run, and return it as the JSON object of ``--json``."""
    content = record.content(place)
    lines = [
        *record.sentences(),
        f"Report: {content['report']}",
        f"Run: {record.run} in {place}",
    ]
    if record.nothing_computed:
        lines.insert(
            0, f"Nothing was computed: run {record.run} had finished, and all of it was there."
        )
    for line in lines:
        _say(line, as_json)
    return content


def _say(line: str, as_json: bool) -> None:
    say(line, err=as_json)
