"""Commands about what a store holds: show, export, clean."""

from typing import Annotated

import typer

from flows.cli.commands.declaring import command
from flows.cli.completing import complete_run
from flows.cli.options import (
    DEFAULT_STORE,
    CleanOptions,
    ResultOptions,
    RunArgument,
    StoreOption,
    TrustOption,
)


@command
def show(
    run: Annotated[
        str | None,
        typer.Argument(
            help="Name of a run, or the beginning of its name; without one, all runs are listed.",
            autocompletion=complete_run,
        ),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    *,
    output: ResultOptions,
) -> None:
    """Show a run: its iterates, the cost of its stages, and how to continue it."""
    from engine.storage.location import absolute, store_errors
    from engine.storage.readable import check_readable
    from flows.cli import showing

    place = absolute(store)
    check_readable(place)
    with store_errors(place):
        if run is None:
            showing.show_runs(place, as_json=output.as_json)
        else:
            showing.show_run(place, run, as_json=output.as_json)


@command
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="Names of two or more runs, or the beginnings of their names.",
            autocompletion=complete_run,
        ),
    ],
    store: StoreOption = DEFAULT_STORE,
    page: Annotated[
        str | None,
        typer.Option(
            "--page",
            help="File that the page is written to; mgd-compare.html in this folder by default.",
        ),
    ] = None,
    *,
    output: ResultOptions,
) -> None:
    """Compare runs: the settings that differ, the results, and a page with their curves."""
    from flows.cli import comparing

    comparing.compare(runs, store, page, as_json=output.as_json)


@command
def send(
    run: RunArgument,
    to: Annotated[
        str,
        typer.Option("--to", help="tensorboard:DIR, mlflow:URI, wandb:PROJECT or trackio:PROJECT."),
    ],
    store: StoreOption = DEFAULT_STORE,
    *,
    output: ResultOptions,
) -> None:
    """Send the settings, curves and numbers of a run, finished or not, to a tracker."""
    from engine.applications.trackers import check_target

    check_target(to)
    from flows.cli import sending

    sending.send(run, to, store, as_json=output.as_json)


@command
def open_report(
    run: RunArgument,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Open the report of a run in the browser."""
    from flows.cli import opening

    opening.open_report(run, store)


@command
def export(
    run: RunArgument,
    file: Annotated[str, typer.Argument(help="File to write: *.safetensors or *.pt.")],
    step: Annotated[
        int | None,
        typer.Option(
            "--step", help="Outer step whose model is written; the chosen one by default.", min=0
        ),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    trusted: TrustOption = False,
    *,
    output: ResultOptions,
) -> None:
    """Write the trained model of a run into a file that torch reads without this project."""
    from flows.cli import exporting

    exporting.export(run, file, store, step, trusted=trusted, as_json=output.as_json)


@command
def clean(
    store: StoreOption = DEFAULT_STORE,
    yes: Annotated[
        bool, typer.Option("--yes", help="Delete; without this option, nothing is deleted.")
    ] = False,
    *,
    freed: CleanOptions,
    output: ResultOptions,
) -> None:
    """List what no run needs, and delete it with --yes.

    Runs are chosen by age, by count (if both are given, by both together) or by name.

    Files that no run refers to are always freed. Runs at work, and stages that another run uses,
    are kept.
    """
    from engine.recipes.files import validated
    from engine.reports.units import parse_duration
    from engine.runs.clean.clean_plan import CleanRules
    from engine.runs.clean.cleaning import plan_clean
    from engine.runs.clean.freeing import carry_out
    from engine.storage.location import absolute, store_errors
    from engine.storage.readable import check_readable
    from flows.cli import showing

    rules = validated(
        CleanRules,
        older_than_seconds=None if freed.older_than is None else parse_duration(freed.older_than),
        keep=freed.keep,
        runs=freed.run or [],
        intermediate=freed.intermediate,
        grace_seconds=parse_duration(freed.grace),
    )
    place = absolute(store)
    check_readable(place)
    with store_errors(place):
        plan = plan_clean(place, rules)
        report = carry_out(plan) if yes else plan.report
    showing.show_clean(report, as_json=output.as_json)
