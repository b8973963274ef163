"""A recipe run from the command line: the process, its server, the flow, and what came of it.

The recipe is read first, which loads neither torch nor Prefect, so that a wrong setting is refused
at once. Both are imported after the server has been started, which takes longer than they.
"""

import json
import shlex
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.progress.displays import LINES
from engine.progress.meter import doing
from flows.cli.options import OutputOptions, RunOptions
from flows.cli.server.surroundings import prefect_settings
from flows.cli.terminal.screen import same_place, say, tell
from flows.cli.terminal.signals import goes_on, says
from flows.cli.terminal.watching import prepare_process, watched
from flows.loading import loaded, loading

if TYPE_CHECKING:
    from engine.recipes.files import Recipe
    from engine.runs.finished import FinishedRun
    from flows.cli.sending import Sender
    from flows.cli.server.local_server import LocalServer

_FLOWS = Path(__file__).parents[1]


def run_recipe(
    load: "Callable[[], Recipe]",
    options: RunOptions,
    output: OutputOptions,
    seeds: str | None = None,
) -> None:
    """Run the recipe that ``load`` returns, and print lines about the result, or one JSON object.

    Args:
        load: Returns the recipe. It is called once, when a wait is shown already.
        options: Store and tracker of the run; its budget is part of the recipe by now.
        output: What is shown. With ``as_json``, all but the object goes to standard error.
        seeds: Training seeds, comma-separated, for one run each.
    """
    as_json, quiet = output.as_json, output.quiet
    says("Nothing was computed yet; the same command starts again.")
    # A tracker that does not exist is refused before anything is trained.
    sender = None if options.log_to is None else _sender(options.log_to)
    prepare_process(output.debug)
    with watched(quiet=quiet) as said, loading():
        with doing("reading the recipe"):
            from engine.recipes.files import read_seeds

            recipe, chosen = load(), None if seeds is None else read_seeds(seeds)
            from engine.storage.location import absolute

            place = absolute(options.store)
            from engine.storage.readable import check_readable

            check_readable(place)  # with short patience, before anybody waits for it
        found = _repeated(recipe, place) if chosen is None else None
        records = [found] if found else _records(recipe, place, chosen, sender, output.debug)
    # Who reads what came of it has read what was said on the way, if both go to one place.
    told = said if as_json or same_place() else set[str]()
    contents = []
    for record in records:
        if chosen is not None:
            from engine.recipes.titles import run_title

            tell(f"\n{run_title(record.recipe)}", err=as_json)
        contents.append(_tell(record, place, as_json, told))
    if len(records) > 1:
        names = " ".join(record.run for record in records)
        tell(f"\nSide by side: mgd compare {names} --store {shlex.quote(place)}", err=as_json)
    if sender is not None:
        for record in records:
            sender.finish(record.run, place, err=as_json)
    if as_json:
        many = {"recipe": recipe.name, "store": place, "seeds": chosen, "runs": contents}
        say(json.dumps(contents[0] if chosen is None else many))


def _sender(target: str) -> "Sender":
    from flows.cli.sending import Sender

    return Sender(target)


def _repeated(recipe: "Recipe", place: str) -> "FinishedRun | None":
    """Return a finished run that has nothing left to do, without a server or a flow.

    A server of the user's own is told of every start, so there the flow looks.
    """
    from engine.recipes.names import run_name
    from engine.storage.location import store_errors
    from engine.storage.places import RUN, run_file
    from engine.storage.records import read_bytes

    # Asked first, because nothing heavy is loaded for it.
    with store_errors(place):
        if read_bytes(run_file(place, run_name(recipe.descent), RUN)) is None:
            return None
    if prefect_settings().api.url:
        return None
    from engine.applications.descent.repeated import repeated

    return repeated(recipe, place, [_FLOWS, _FLOWS.parent / "tasks"])


def _records(
    recipe: "Recipe", place: str, chosen: list[int] | None, sender: "Sender | None", debug: bool
) -> "list[FinishedRun]":
    with ExitStack() as stack:
        with doing("starting Prefect's server"):
            from flows.cli.server.local_server import server_of_a_command

            server = stack.enter_context(server_of_a_command(show_log=debug))
        return _run(recipe, place, chosen, sender, server)


def _run(
    recipe: "Recipe",
    place: str,
    chosen: list[int] | None,
    sender: "Sender | None",
    server: "LocalServer | None",
) -> "list[FinishedRun]":
    with doing("loading torch"):
        from engine.applications.kinds import has_preflight
        from engine.numerics.process import prepare_cpu
        from engine.stages.run import Run
        from engine.stages.training import preflight_ahead, prepare
    prepare_cpu(recipe.descent.training.threads)
    from engine.recipes.names import run_name
    from engine.recipes.titles import run_title
    from engine.runs.confirmed import note_started
    from engine.runs.run import is_begun, look_for_begun

    runs = _runs(recipe, chosen)
    for each in runs:
        note_started(each)
    names = [run_name(each.descent) for each in runs]
    look_for_begun(place, names)
    goes_on(names, place, partial(is_begun, place))
    for each in runs:
        LINES.info("Run: %s", run_title(each))
    LINES.info("Store: %s", place)
    # What is refused is refused here, in one message, before a flow starts.
    with doing("looking at the recipe"), _told_finished(names, place):
        seconds = prepare(Run(recipe.descent, place))
    with doing("loading Prefect"):
        flow = _flow_of(recipe.kind, chosen)
        from flows.cli.server.local_server import connected
    with ExitStack() as stack:
        if chosen is None and has_preflight(recipe):
            # While the server is waited for, and then for its first answers.
            stack.enter_context(preflight_ahead(Run(recipe.descent, place), seconds))
        with doing("waiting for Prefect's server"):
            stack.enter_context(connected(server))
        if sender is not None:
            stack.enter_context(sender.following(names, place))
        loaded()
        stack.enter_context(doing("starting the flow"))  # until the run says more by itself
        return [flow(recipe, place)] if chosen is None else flow(recipe, chosen, place)


@contextmanager
def _told_finished(names: Sequence[str], place: str) -> Iterator[None]:
    """Say which runs have finished in a store that cannot be written, so that nobody starts anew.

    Args:
        names: Whole names of the runs.
        place: URL of the store.
    """
    from engine.errors import StoreUnavailableError

    try:
        yield
    except StoreUnavailableError as error:
        from engine.storage.places import RUN, run_file
        from engine.storage.records import read_bytes

        there: list[str] = []
        with suppress(Exception):  # it may not be there at all, which is said already
            there = [name for name in names if read_bytes(run_file(place, name, RUN)) is not None]
        if not there:
            raise
        commands = ", ".join(f"`mgd show {each} --store {shlex.quote(place)}`" for each in there)
        raise StoreUnavailableError(
            f"{error} What came of the run that is there is shown by {commands}."
        ) from error


def _flow_of(kind: str, chosen: list[int] | None) -> Callable[..., Any]:
    """Return the flow of a kind of recipe, or of its replicas; loads it, while the server starts.

    Raises:
        ConfigurationError: If several seeds were asked for of a kind that has no replicas.
    """
    from engine.errors import ConfigurationError

    prefect_settings()  # first, because it says whose fault it is if Prefect cannot be loaded
    from flows.registry import FLOWS, REPLICAS

    if chosen is not None and kind not in REPLICAS:
        raise ConfigurationError(
            f"--seeds {','.join(map(str, chosen))}: a recipe of kind {kind} is run for one seed. "
            "Use --set training.seed=N."
        )
    return (FLOWS if chosen is None else REPLICAS)[kind]


def _runs(recipe: "Recipe", seeds: list[int] | None) -> "list[Recipe]":
    """Return the recipes of the runs that are made."""
    from engine.recipes.files import with_seed

    return [recipe] if seeds is None else [with_seed(recipe, seed) for seed in seeds]


def _tell(
    record: "FinishedRun", place: str, as_json: bool, told: Collection[str]
) -> dict[str, Any]:
    """Say what came of a run but for what was told, and return the JSON object of ``--json``."""
    content = record.content(place)
    again = sum(each in told for each in record.warnings())
    those = "The warning said above is" if again == 1 else "The warnings said above are"
    lines = [
        *(each for each in record.sentences() if each not in told),
        *([f"{those} in the report, too."] if again else []),
        f"Report: {content['report']}",
        f"Run: {record.run} in {place}",
    ]
    if record.nothing_computed:
        lines.insert(0, f"Nothing was computed: all stages of run {record.run} were there.")
    for line in lines:
        tell(line, err=as_json)
    return content
