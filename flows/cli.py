"""The command line ``mgd``: runs recipes and shows what they left.

Flows, torch and Prefect are imported by the commands that need them, so that ``--version`` and
``--help`` answer at once.
"""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.status import Status
from rich.table import Table

if TYPE_CHECKING:
    from engine.recipes import Recipe
    from engine.runs import RunRecord

app = typer.Typer(
    help="Gradient descent on the set-up of machine-learning training.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

REFUSED = 2
"""Exit code: nothing was trained; a setting has to change."""

FAILED = 1
"""Exit code: the run stopped; the same command goes on where it stopped."""

StoreOption = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="MGD_STORE",
        help="Folder for checkpoints, results and reports: a path or any fsspec URL.",
    ),
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks and all log lines.")]
JsonOption = Annotated[bool, typer.Option("--json", help="End with one JSON object on stdout.")]


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
def run(
    recipe: Annotated[
        str, typer.Argument(help="Name of a shipped recipe, or path of a YAML file.")
    ] = "digits-selection",
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting: dotted.key=value. May be repeated."),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", help="One run for each of these training seeds, e.g. 0,1,2."),
    ] = None,
    store: StoreOption = "mgd-store",
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Run a recipe; run again with the same settings, it goes on where it stopped."""

    def load(place: str) -> "Recipe":
        del place
        from engine.recipes import load_recipe

        return load_recipe(recipe, changes)

    _run(load, store, seeds, as_json=as_json, debug=debug)


@app.command()
def resume(
    run: Annotated[str, typer.Argument(help="Name of a run, or the beginning of it.")],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Other workers for the rest: workers.key=value."),
    ] = None,
    store: StoreOption = "mgd-store",
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Let a run go on from its last finished stage; needs only the store."""

    def load(place: str) -> "Recipe":
        from engine.recipes import change_workers
        from engine.runs import find_run, read_recipe

        return change_workers(read_recipe(place, find_run(place, run)), changes or [])

    _run(load, store, as_json=as_json, debug=debug)


@app.command()
def recipes(debug: DebugOption = False) -> None:
    """List the recipes that ship with the project."""
    with _one_message(debug):
        from engine.recipes import list_recipes

        table = Table("recipe", "kind", "what it does")
        for name, recipe in list_recipes().items():
            table.add_row(name, recipe.kind, recipe.description)
        Console().print(table)


@app.command()
def show(
    run: Annotated[str, typer.Argument(help="Name of a run, as `mgd run` printed it.")],
    store: StoreOption = "mgd-store",
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show a finished run: what it did, iterate by iterate."""
    with _one_message(debug):
        from engine.conclusion import report_url
        from engine.location import absolute
        from engine.report import summary
        from engine.runs import find_run, read_run

        place = absolute(store)
        record = read_run(place, find_run(place, run))
        if as_json:
            typer.echo(record.model_dump_json())
            return
        table = Table("outer step", "objective", "validation", "test", "chosen")
        for iterate in record.iterates:
            losses = [f"{scores['loss']:.4f}" for scores in iterate.scores.values()]
            mark = "*" if iterate.outer_step == record.chosen else ""
            table.add_row(str(iterate.outer_step), *losses, mark)
        console = Console()
        console.print(table)
        for line in summary(record):
            console.print(line, highlight=False)
        console.print(f"Report: {report_url(place, record.run)}", highlight=False, soft_wrap=True)


def _run(
    load: "Callable[[str], Recipe]",
    store: str,
    seeds: str | None = None,
    *,
    as_json: bool,
    debug: bool,
) -> None:
    """Run the recipe that ``load`` finds, given the store, and say what came of it."""
    with _one_message(debug):
        _prepare_process(debug)
        from flows.local_server import connected, server_if_needed

        server = server_if_needed(show_log=debug)  # first: it takes longer than all that follows
        from engine.allocator import keep_freed_memory
        from engine.location import absolute
        from engine.recipes import read_seeds
        from engine.stages import prepare

        keep_freed_memory()
        place = absolute(store)
        recipe = load(place)
        # What is refused is refused here, in one message, before a flow starts.
        prepare(recipe, place)
        from flows.registry import FLOWS, REPLICAS

        chosen = None if seeds is None else read_seeds(seeds)
        with _progress(), connected(server):
            if chosen is None:
                records = [FLOWS[recipe.kind](recipe, place)]
            else:
                records = REPLICAS[recipe.kind](recipe, chosen, place)
        contents = [_tell(record, place, as_json) for record in records]
        if as_json:
            many = {"recipe": recipe.name, "store": place, "seeds": chosen, "runs": contents}
            typer.echo(json.dumps(contents[0] if chosen is None else many))


def _tell(record: "RunRecord", place: str, as_json: bool) -> dict[str, Any]:
    """Say what came of a run, and return it as the JSON object of ``--json``."""
    from engine.conclusion import report_url
    from engine.report import summary

    for line in summary(record):
        _say(line, as_json)
    report = report_url(place, record.run)
    _say(f"Report: {report}", as_json)
    _say(f"Run: {record.run} in {place}", as_json)
    return {
        "run": record.run,
        "recipe": record.recipe.name,
        "store": place,
        "seconds": round(record.seconds, 3),
        "objective": record.objective,
        "validation": record.before_and_after("validation"),
        "test": record.before_and_after("test"),
        "stages": record.stages.model_dump(),
        "digest": record.digest,
        "report": report,
    }


def _say(line: str, as_json: bool) -> None:
    typer.echo(line, err=as_json)


def _prepare_process(debug: bool) -> None:
    """Set what Prefect and the C library read at their start."""
    settings = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    if not debug:
        # Prefect would print each task and, on an error, tracebacks of what is told in one message.
        settings["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    # Python would end on the spot; this way what atexit stops (the server) is stopped.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


@contextmanager
def _one_message(debug: bool) -> Iterator[None]:
    """End with one message and an exit code instead of a traceback."""
    try:
        yield
    except Exception as error:
        from engine.errors import ConfigurationError, EngineError

        if debug or not isinstance(error, EngineError):
            raise
        typer.secho(str(error), err=True, fg=typer.colors.RED)
        raise typer.Exit(REFUSED if isinstance(error, ConfigurationError) else FAILED) from None


class _Lines(logging.Handler):
    """Prints a line for each iterate, and shows the last stage in a status line."""

    def __init__(self, console: Console, status: Status) -> None:
        super().__init__(logging.DEBUG)
        self.console, self.status = console, status

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.INFO:
            self.console.print(record.getMessage(), highlight=False)
        else:
            self.status.update(record.getMessage())


@contextmanager
def _progress() -> Iterator[None]:
    """Show a flow's progress on standard error while it runs."""
    from tasks.progress import TERMINAL

    console = Console(stderr=True)
    with console.status("Prefect starts") as status:
        lines = _Lines(console, status)
        TERMINAL.addHandler(lines)
        TERMINAL.setLevel(logging.DEBUG)
        try:
            yield
        finally:
            TERMINAL.removeHandler(lines)


if __name__ == "__main__":
    app()
