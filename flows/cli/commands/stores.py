"""Commands about what a store holds: show, export, clean."""

from typing import Annotated

import typer

from flows.cli.completing import complete_run
from flows.cli.options import (
    AgeOption,
    DebugOption,
    GraceOption,
    IntermediateOption,
    JsonOption,
    KeepOption,
    RunArgument,
    RunsOption,
    StoreOption,
    TrustOption,
)
from flows.cli.terminal.one_message import one_message


def show(
    run: Annotated[
        str | None,
        typer.Argument(
            help="Name of a run, or the beginning of it; none lists them.",
            autocompletion=complete_run,
        ),
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


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="Names of two or more runs, or the beginnings of them.",
            autocompletion=complete_run,
        ),
    ],
    store: StoreOption = "mgd-store",
    page: Annotated[
        str | None,
        typer.Option("--page", help="File for the page; mgd-compare.html here by default."),
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show runs side by side: what differs, what came of each, and a page with their curves."""
    with one_message(debug):
        from flows.cli import comparing

        comparing.compare(runs, store, page, as_json=as_json)


def send(
    run: RunArgument,
    to: Annotated[
        str,
        typer.Option("--to", help="tensorboard:DIR, mlflow:URI, wandb:PROJECT or trackio:PROJECT."),
    ],
    store: StoreOption = "mgd-store",
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Send settings, curves and numbers of a run, finished or not, to a tracker."""
    with one_message(debug):
        from engine.applications.trackers import check_target

        check_target(to)
        from flows.cli import sending

        sending.send(run, to, store, as_json=as_json)


def open_report(
    run: RunArgument,
    store: StoreOption = "mgd-store",
    debug: DebugOption = False,
) -> None:
    """Open the report of a run in the browser."""
    with one_message(debug):
        from flows.cli import opening

        opening.open_report(run, store)


def export(  # noqa: PLR0913 (the options of one command)
    run: RunArgument,
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

    Runs go by age, by count (if both are given, those to which both apply) or by name.

    What no run refers to goes always. A run at work, and what another run uses, stay.
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
