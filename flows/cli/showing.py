"""Output of ``mgd show`` and ``mgd clean``: tables for people, JSON for programs."""

import json
from typing import Any

from rich.filesize import decimal
from rich.table import Column, Table

from engine.planning.forecast import Forecast
from engine.recipes.replay import ReplaySettings, VjpMode
from engine.reports.page import REPORT
from engine.reports.units import write_duration
from engine.runs.certificates import Certificate, how_verified, read_certificate
from engine.runs.clean.clean_plan import CleanReport, Freed
from engine.runs.endings import Ending, read_ending, told_damaged, told_renamed
from engine.runs.outer_steps import outer_steps
from engine.runs.overview import Part, RunOverview, describe, list_overviews
from engine.runs.predicted import Comparison, compare
from engine.runs.run import find_run, no_report
from engine.storage.location import list_files
from engine.storage.places import run_file, run_folder
from flows.cli.terminal.colours import WARN
from flows.cli.terminal.screen import Screen, names, right, say, tell

SHOWN = 40
"""Rows of a long table; JSON has them all."""

_LINES_AND_BLANKS = 7
"""Columns that a table of two columns takes besides their texts."""

_LEAST = 20
"""Columns that a sentence gets beside a name."""

SHOWN_NAMES = 10
"""Names in a sentence; JSON has them all."""


def show_runs(store: str, *, as_json: bool) -> None:
    """List the runs of a store with what came of them, the one that was active last first."""
    runs = list_overviews(store)
    if as_json:
        say(json.dumps([run.model_dump(mode="json") for run in runs]))
        return
    console = Screen()
    shown: list[tuple[str, str]] = []
    for run in runs:
        if run.part_of:
            continue
        took = "" if run.seconds is None else f", took {write_duration(run.seconds)}"
        lines = [run.run, *([run.changes] if run.changes else []), f"{_minute(run.active)}{took}"]
        said = run.verdict or run.stopped or run.goes_on or str(run.standing)
        if run.renamed:
            said = f"{told_renamed(run.run, run.renamed)}\n{said}"
        if run.is_damaged:
            said = told_damaged(run.run, store)
        if run.parts:
            said += f"\n{run.parts} of its parts are runs: mgd show {run.run}"
        shown.append(("\n".join(lines), said))
    if shown:
        console.print(_two_columns(shown, console.width))
    else:
        tell(f"There is no run in {store}.")


def _two_columns(rows: list[tuple[str, str]], width: int) -> Table:
    """Return a table of runs, in which a name is cut only where it is all that has room.

    A name that is broken could not be copied into the next command. A column of a fixed width is
    left as it is, where Rich would make the table wider than the terminal for a least width.
    """
    lines = [each.split("\n") for each, _ in rows]
    name, longest = max(len(each[0]) for each in lines), max(map(len, sum(lines, [])))
    room = max(width - _LINES_AND_BLANKS, 2)
    wanted = max(name, min(longest, room * 2 // 5))
    table = Table(
        Column("run", overflow="fold", width=min(wanted, max(room - _LEAST, room // 2))),
        Column("what came of it", overflow="fold"),
        show_lines=True,
    )
    for row in rows:
        table.add_row(*row)
    return table


def show_run(store: str, run: str, *, as_json: bool) -> None:
    """Show a run of any kind: what came of it, how it got there, its stages, and how to go on."""
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
    if view.renamed:
        console.tell(told_renamed(name, view.renamed), WARN)
    ending = read_ending(record)
    if view.is_damaged:
        console.tell(told_damaged(name, store), WARN)
    elif ending is None:
        _show_so_far(console, store, view)
    else:
        _show_result(console, ending, f"{name}: {view.changes}" if view.changes else name)
    if view.parts:
        _show_parts(console, view.parts)
    if view.stages:
        tell(_spent(view))
        if compared:
            _show_forecast(console, compared, "so far" if record is None else "actual")
        console.print(_stages(view))
        tell(_totals(view))
    if ending is not None:
        _tell_what_is_kept(store, name, ending, certificate)


def _show_parts(console: Screen, parts: list[Part]) -> None:
    """Print what came of the runs that are parts of a run."""
    shown = parts[:SHOWN]
    table = Table(
        "part", names("run", [each.run for each in shown], console.width), "what came of it"
    )
    for each in shown:
        table.add_row(each.part, each.run, each.verdict or str(each.standing))
    if len(parts) > SHOWN:
        table.caption = f"the first {SHOWN} of {len(parts)}; --json has them all"
    console.print(table)


def _show_forecast(console: Screen, compared: list[Comparison], actual: str) -> None:
    """Print what was predicted beside what it took."""
    table = Table("number", right("predicted"), right(actual))
    for each in compared:
        digits = 1 if each.what.startswith("seconds") else 0
        table.add_row(each.what, f"{each.predicted:,.{digits}f}", f"{each.actual:,.{digits}f}")
    console.print(table)


def _tell_what_is_kept(
    store: str, name: str, ending: Ending, certificate: Certificate | None
) -> None:
    """Print whether a finished run was verified, and where its report is."""
    if certificate is not None:
        told = f"Verified at {_minute(certificate.made)}: {certificate.verdict}."
        tell(f"{told} {certificate.sentence()}")
    else:
        tell(how_verified(name, in_parts=ending.verifiable))
    if REPORT in list_files(run_folder(store, name)):
        tell(f"Report: {run_file(store, name, REPORT)} (`mgd open {name}`)")
    else:  # it was stopped while that was written
        tell(str(no_report(store, name)))


def _show_result(console: Screen, ending: Ending, title: str) -> None:
    """Print the verdict, the numbers that stand at the top of the report, and the result."""
    verdict = ending.verdict or next(iter(ending.summary), "")
    console.tell(verdict, "bold")
    tell(title)
    for each in ending.numbers:
        note = f" ({each['note']})" if each.get("note") else ""
        tell(f"{each.get('label')}: {each.get('value')}{note}")
    if ending.table:
        console.table(ending.table)
    for line in ending.summary:
        if line != verdict:
            tell(line)


def _show_so_far(console: Screen, store: str, view: RunOverview) -> None:
    """Print that a run has not finished, how it goes on, and the outer steps that it has scored."""
    changed = f" ({view.changes})" if view.changes else ""
    command = f"`mgd resume {view.run} --store {store}`"
    said = view.stopped or view.goes_on
    tell(f"Run {view.run}{changed} has not finished. {said}".rstrip())
    tell(f"It wrote something last at {_minute(view.active)}.")
    if view.stopped or not view.goes_on:
        tell(f"Finished stages are kept. Continue it: {command}")
    else:
        tell(f"Once it has ended, what is finished is kept, and this lets it go on: {command}")
    rows = [
        {"outer step": number} | {name: _loss(each) for name, each in step.scores.items()}
        for number, step in enumerate(outer_steps(store, view.run))
    ]
    if rows:
        console.table(rows)


def _minute(time: str) -> str:
    """Return a time of a store, in UTC and ISO 8601, as users read it."""
    return f"{time.removesuffix('+00:00').replace('T', ' ')[:16]} UTC"


def _loss(scores: Any) -> str:  # noqa: ANN401 (any JSON value)
    loss = scores.get("loss") if isinstance(scores, dict) else None
    return f"{loss:.4f}" if isinstance(loss, int | float) else "-"


def show_plan(
    forecast: Forecast,
    replay: ReplaySettings | None = None,
    *,
    as_json: bool = False,
    quiet: bool = False,
) -> None:
    """Show what a planner chose, what it costs, and what else there was.

    Args:
        forecast: What it found.
        replay: The recipe's own settings, whose row is marked.
        as_json: Print one JSON object instead.
        quiet: Leave out what else there was.
    """
    if as_json:
        say(json.dumps(forecast.content()))
        return
    if not quiet:
        _show_alternatives(forecast, replay)
    chosen = dict(forecast.settings)
    if forecast.product is not VjpMode.REVERSE_OVER_REVERSE:
        chosen["replay.vjp"] = forecast.product.value
    options = [f"--set {name}={value}" for name, value in chosen.items()]
    # A shell goes on after a backslash, so that all of them can be copied at once.
    changes = [*(f"{each} \\" for each in options[:-1]), *options[-1:]]
    written = forecast.written_bytes
    tell(
        f"Fastest: {forecast.schedule}, {write_duration(forecast.seconds.run)} for the run"
        f"{'' if written is None else f', {decimal(written)} written'}."
    )
    if forecast.note:
        tell(forecast.note)
    if forecast.price is not None:
        tell(f"Price of the run: {forecast.price:.3g}, in the currency of --price.")
    say("\n".join(["To use it:", *(f"  {each}" for each in changes)]))


def _show_alternatives(forecast: Forecast, replay: ReplaySettings | None) -> None:
    """Print a row for each schedule, the fastest first.

    Args:
        forecast: What a planner found.
        replay: The recipe's own settings, whose row is marked.
    """
    console = Screen()
    own = _settings_of(replay) if replay is not None else {}
    rows: list[dict[str, str]] = []
    for each in [forecast, *forecast.alternatives]:
        peak = each.peak_bytes
        is_own = each.settings.items() <= own.items()
        rows.append(
            {
                "schedule": f"{each.schedule}*" if is_own else each.schedule,
                "parts": str(each.segments),
                "unroll": str(each.unroll),
                "steps": f"{each.forward_steps} + {each.reverse_steps}",
                "memory": decimal(peak["graphs"] + peak["device"] + peak["host"]),
                "store": decimal(peak["store"]),
                "outer step": write_duration(each.seconds.outer_step),
                "run": write_duration(each.seconds.run),
            }
        )
    console.table(rows)
    tell(
        "The fastest first, * is the recipe's own; parts are the segments of the training that are "
        "stages each, unroll the steps whose graphs are kept at once; steps are those of one outer "
        "step, forward + reversed; memory is that of states and graphs."
    )


def _settings_of(replay: ReplaySettings) -> dict[str, Any]:
    return {f"replay.{key}": value for key, value in replay.model_dump(mode="json").items()}


def show_clean(report: CleanReport, *, as_json: bool) -> None:
    """Show what a clean frees, a line for each run, largest first; JSON has every place."""
    if as_json:
        say(json.dumps(report.model_dump(mode="json")))
        return
    console = Screen()
    lines = _lines_of(report.freed)
    if lines:
        heads = ("run", "size", "stages", "why")
        console.table([dict(zip(heads, each, strict=True)) for each in lines[:SHOWN]])
    if len(lines) > SHOWN:
        tell(f"... and {len(lines) - SHOWN} smaller ones; --json has them all.")
    verb, remedy = ("Freed", "") if report.deleted else ("Would free", " Say --yes to delete.")
    tell(
        f"{verb} {decimal(report.bytes)} in {len(report.freed)} places of {report.store}; "
        f"{decimal(report.kept_bytes)} and {len(report.kept_runs)} "
        f"run{'s' * (len(report.kept_runs) != 1)} stay."
        f"{remedy if lines else ''}"
    )
    if report.left:
        more = len(report.left) - SHOWN_NAMES
        tell(
            f"Not made by the engine, and left alone: {', '.join(report.left[:SHOWN_NAMES])}"
            f"{f' and {more} more' if more > 0 else ''}."
        )


def _lines_of(freed: list[Freed]) -> list[tuple[str, str, str, str]]:
    """Return run, size, stages and reason for each run of which something goes, largest first.

    What several runs used together has a line of its own, and so has what nobody refers to.
    """
    groups: dict[tuple[str, ...], list[Freed]] = {}
    for each in freed:
        groups.setdefault(tuple(each.runs), []).append(each)
    lines: list[tuple[int, tuple[str, str, str, str]]] = []
    for runs, parts in groups.items():
        size = sum(each.bytes for each in parts)
        stages = sum(each.what == "stage" for each in parts)
        whole = [each.reason for each in parts if each.what == "run"]
        reasons = whole or list(dict.fromkeys(each.reason for each in parts))
        name = "\n".join(runs[:3]) + (f"\nand {len(runs) - 3} more" if len(runs) > 3 else "")
        lines.append(
            (size, (name or "(of no run)", decimal(size), str(stages), "; ".join(reasons)))
        )
    return [line for _, line in sorted(lines, key=lambda pair: -pair[0])]


def _stages(view: RunOverview) -> Table:
    on_gpu = ["GPU-seconds"] if view.totals.gpu_seconds else []
    numbers = [right(name) for name in ("attempts", "size", "seconds", *on_gpu)]
    table = Table(Column("stage", overflow="fold"), "result", *numbers)
    shown = view.stages if len(view.stages) <= SHOWN else view.stages[-SHOWN:]
    for line in shown:
        result = "cached" if line.cached else "computed"
        table.add_row(
            line.name,
            result if line.committed else "not there",
            str(line.attempts),
            decimal(line.bytes),
            f"{line.seconds:.2f}",
            *([f"{line.gpu_seconds:.2f}"] if on_gpu else []),
        )
    if shown is not view.stages:
        table.caption = f"the last {SHOWN} of {len(view.stages)}; --json has them all"
    return table


def _totals(view: RunOverview) -> str:
    total = view.totals
    on_gpu = f", {total.gpu_seconds:.1f} GPU-seconds" if total.gpu_seconds else ""
    return (
        f"{total.committed} of {total.stages} stages are there, {total.cached} were cached at the "
        f"last start; {decimal(total.bytes)}, {write_duration(total.seconds)} of computing"
        f"{on_gpu}."
    )


def _spent(view: RunOverview) -> str:
    spent = view.spent
    times = "once" if spent.starts == 1 else f"{spent.starts} times"
    return (
        f"Over all starts: {write_duration(spent.computing_seconds)} of its own computing, "
        f"{write_duration(spent.seconds)} of wall clock, started {times}."
    )
