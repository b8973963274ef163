"""What ``mgd show`` and ``mgd clean`` print of a store: tables for people, JSON for programs."""

import json
from typing import Any

from rich.filesize import decimal
from rich.table import Column, Table

from engine.planning.forecast import Forecast
from engine.reports.page import REPORT
from engine.reports.units import write_duration
from engine.runs.certificates import read_certificate
from engine.runs.clean_plan import CleanReport
from engine.runs.endings import read_ending
from engine.runs.overview import RunOverview, describe, list_overviews
from engine.runs.predicted import compare
from engine.runs.run import find_run
from engine.storage.places import run_file
from flows.cli.screen import Screen, say

SHOWN = 40
"""Rows of a long table; JSON has them all."""

SHOWN_NAMES = 10
"""Names in a sentence; JSON has them all."""


def show_runs(store: str, *, as_json: bool) -> None:
    """List the runs of a store, the one that was active last first."""
    runs = list_overviews(store)
    if as_json:
        say(json.dumps([run.model_dump(mode="json") for run in runs]))
        return
    # A name that is cut off could not be copied into the next command.
    table = Table(Column("run", overflow="fold"), "standing", "last active (UTC)", "stages")
    for run in runs:
        active = run.active.removesuffix("+00:00").replace("T", " ")
        table.add_row(run.run, run.standing, active, str(run.stages))
    console = Screen()
    console.print(table if runs else f"There is no run in {store}.", highlight=False)


def show_run(store: str, run: str, *, as_json: bool) -> None:
    """Show a run of any kind: what it did so far, its stages, and how to go on."""
    name = find_run(store, run)
    view, record = describe(store, name)
    compared, certificate = compare(store, view), read_certificate(store, name)
    if as_json:
        work = view.model_dump(mode="json", exclude={"run", "recipe"})
        work["forecast"] = [each.model_dump() for each in compared]
        found = {**(record or {"run": name}), "standing": work.pop("standing"), "work": work}
        if certificate is not None:
            found["certificate"] = certificate.model_dump(mode="json")
        say(json.dumps(found))
        return
    console = Screen()
    console.print(_stages(view))
    console.print(_totals(view), highlight=False)
    console.print(_spent(view), highlight=False)
    if compared:
        table = Table("figure", "predicted", "so far" if record is None else "actual")
        for each in compared:
            table.add_row(each.what, f"{each.predicted:,.1f}", f"{each.actual:,.1f}")
        console.print(table)
    ending = read_ending(record)
    if ending is None:
        console.print(
            f"Run {name} has not finished; it was active last at {view.active}. Let it go on: "
            f"mgd resume {name} --store {store}",
            highlight=False,
            soft_wrap=True,
        )
        return
    if ending.table:
        console.print(_rows(ending.table))
    for line in ending.summary:
        console.print(line, highlight=False, soft_wrap=True)
    if certificate is not None:
        console.print(
            f"Verified at {certificate.made[:19]} UTC: {certificate.verdict}.", highlight=False
        )
    elif ending.verifiable:
        console.print(f"Not verified yet: mgd verify {name}", highlight=False, soft_wrap=True)
    console.print(f"Report: {run_file(store, name, REPORT)}", highlight=False, soft_wrap=True)


def show_plan(forecast: Forecast, *, as_json: bool) -> None:
    """Show what a planner chose, what it costs, and what else there was."""
    if as_json:
        say(json.dumps(forecast.content()))
        return
    console = Screen()
    table = Table(
        *("schedule", "parts", "unroll", "steps", "memory", "store", "outer step", "run"),
    )
    for each in [forecast, *forecast.alternatives]:
        peak = each.peak_bytes
        table.add_row(
            each.schedule,
            str(each.segments),
            str(each.unroll),
            f"{each.forward_steps} + {each.reverse_steps}",
            decimal(peak["graphs"] + peak["device"] + peak["host"]),
            decimal(peak["store"]),
            write_duration(each.seconds.outer_step),
            write_duration(each.seconds.run),
        )
    table.caption = (
        "the fastest first; steps are those of one outer step; device: states and graphs"
    )
    console.print(table)
    changes = " ".join(f"--set {name}={value}" for name, value in forecast.settings.items())
    console.print(
        f"Fastest: {forecast.schedule}, {write_duration(forecast.seconds.run)} for the run, "
        f"{decimal(forecast.written_bytes)} written.",
        highlight=False,
    )
    if forecast.note:
        console.print(forecast.note, highlight=False)
    if forecast.price is not None:
        console.print(f"Price of the run: {forecast.price:.3g}", highlight=False)
    console.print(f"To use it: {changes}", highlight=False, soft_wrap=True)


def show_clean(report: CleanReport, *, as_json: bool) -> None:
    """Show what a clean frees, largest first."""
    if as_json:
        say(json.dumps(report.model_dump(mode="json")))
        return
    console = Screen()
    largest = sorted(report.freed, key=lambda each: each.bytes, reverse=True)
    if largest:
        table = Table("what", "name", "size", "why")
        for each in largest[:SHOWN]:
            table.add_row(each.what, each.name, decimal(each.bytes), each.reason)
        console.print(table)
    if len(largest) > SHOWN:
        console.print(f"... and {len(largest) - SHOWN} smaller ones; --json has them all.")
    verb, remedy = ("Freed", "") if report.deleted else ("Would free", " Say --yes to delete.")
    console.print(
        f"{verb} {decimal(report.bytes)} in {len(largest)} places of {report.store}; "
        f"{decimal(report.kept_bytes)} and {len(report.kept_runs)} runs stay."
        f"{remedy if largest else ''}",
        highlight=False,
        soft_wrap=True,
    )
    if report.left:
        more = len(report.left) - SHOWN_NAMES
        console.print(
            f"Not made by the engine, and left alone: {', '.join(report.left[:SHOWN_NAMES])}"
            f"{f' and {more} more' if more > 0 else ''}.",
            highlight=False,
            soft_wrap=True,
        )


def _stages(view: RunOverview) -> Table:
    table = Table("stage", "result", "attempts", "size", "seconds", "GPU-seconds")
    shown = view.stages if len(view.stages) <= SHOWN else view.stages[-SHOWN:]
    for line in shown:
        result = "cached" if line.cached else "computed"
        table.add_row(
            line.name,
            result if line.committed else "not there",
            str(line.attempts),
            decimal(line.bytes),
            f"{line.seconds:.2f}",
            f"{line.gpu_seconds:.2f}",
        )
    if shown is not view.stages:
        table.caption = f"the last {SHOWN} of {len(view.stages)}; --json has them all"
    return table


def _totals(view: RunOverview) -> str:
    total = view.totals
    return (
        f"{total.committed} of {total.stages} stages are there, {total.cached} were cached at the "
        f"last start; {decimal(total.bytes)}, {write_duration(total.seconds)} of computing, "
        f"{total.gpu_seconds:.1f} GPU-seconds."
    )


def _spent(view: RunOverview) -> str:
    spent = view.spent
    times = "once" if spent.starts == 1 else f"{spent.starts} times"
    return (
        f"Over all starts: {write_duration(spent.computing_seconds)} of its own computing, "
        f"{write_duration(spent.seconds)} of wall clock, started {times}."
    )


def _rows(rows: list[dict[str, Any]]) -> Table:
    """Return rows of the same columns as a table."""
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(str(row.get(name, "")) for name in rows[0]))
    return table
