"""What the report of any run says, in its order.

The verdict; what was asked; the figures of the kind; what it cost; how sure it is; how to repeat
it; and folded, all that few people read. The kind says its own words by its record, and draws its
own sections.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from engine.errors import ConfigurationError
from engine.planning.forecast import read_forecast
from engine.preflight.verdict import Verdict
from engine.recipes.files import changes_of_shipped, load_recipe
from engine.recipes.names import run_name
from engine.reports.sections import Page, Section, Table
from engine.reports.settings_rows import all_rows, changed_rows
from engine.reports.units import write_duration, write_figure
from engine.runs.certificates import Certificate, read_certificate
from engine.runs.finished import FinishedRun
from engine.runs.overview import overview
from engine.runs.predicted import compare


@dataclass(frozen=True)
class Report:
    """What a kind of run adds to the page of every run.

    Attributes:
        title: What was done, and the name of the recipe.
        sections: Its figures, tables and examples, in order.
        folded: What few people read.
        files: Name of a file to its content, for the run's folder.
    """

    title: str
    sections: Sequence[Section] = ()
    folded: Sequence[Section] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)


def compose(store: str, record: FinishedRun, own: Report) -> Page:
    """Return the whole page of a run."""
    certificate = read_certificate(store, record.run)
    sections = [
        asked(record),
        *own.sections,
        cost(store, record),
        trust(record, certificate),
        repeating(record, own.files),
        *own.folded,
        Section("All settings", tables=[_settings(all_rows(record.recipe))], folded=True),
        Section("Where it was made", tables=[_pairs(record.environment)], folded=True),
    ]
    return head(record, own.title, sections)


def head(record: FinishedRun, title: str = "", sections: Sequence[Section] = ()) -> Page:
    """Return what stands at the top of a run's page, and some sections below it."""
    verdict = record.headline()
    return Page(
        title=title or record.recipe.name,
        run=f"{record.run}, started {datetime.fromisoformat(record.started):%Y-%m-%d %H:%M} UTC",
        verdict=verdict,
        numbers=record.numbers(),
        findings=[line for line in record.findings() if line != verdict],
        warnings=record.warnings(),
        sections=sections,
    )


def asked(record: FinishedRun) -> Section:
    """Return what was asked, and which settings are not the defaults."""
    rows = changed_rows(record.recipe)
    return Section(
        "What was asked",
        notes=[
            *filter(None, [record.recipe.description]),
            f"Of kind {record.recipe.kind}. These settings differ from the defaults; what they "
            "mean stands below, among all settings.",
        ],
        tables=[Table([{"key": k, "value": v} for k, v, _ in rows], code=frozenset({"key"}))],
    )


def cost(store: str, record: FinishedRun) -> Section:
    """Return what a run took over all of its starts, beside what was predicted."""
    ending, counts = record.ending, record.stages
    rows = {
        "Took": f"{write_duration(record.seconds)} in {ending.starts} "
        f"start{'s' * (ending.starts != 1)}",
        "Computing": f"{write_duration(ending.computing_seconds)} of its own stages",
    }
    if counts.total:
        rows["Stages"] = (
            f"{counts.total} in all, {counts.cached} used again from the store (cached), "
            f"{counts.retried} after more than one attempt (retried)"
        )
    tables, notes = [_pairs(rows)], []
    if read_forecast(store, record.run) is None:
        notes = ["No plan was kept with this run; mgd plan makes one before a run."]
    else:
        tables += [
            Table(
                [
                    {
                        "figure": each.what,
                        "predicted": f"{each.predicted:,.1f}",
                        "actual": f"{each.actual:,.1f}",
                    }
                    for each in compare(store, overview(store, record.run))
                ]
            )
        ]
    return Section("What it cost", notes=notes, tables=tables)


def trust(record: FinishedRun, certificate: Certificate | None) -> Section:
    """Return what was tried on twins before the run, and whether parts of it were made again."""
    lines = []
    if certificate is not None:
        lines.append(
            f"Verified at {certificate.made[:16].replace('T', ' ')} UTC with seed "
            f"{certificate.seed}: {certificate.verdict}."
        )
    elif record.verifiable:
        lines.append(
            f"Not verified yet: mgd verify {record.run} makes a random part of it again and "
            "compares the bits, and a metagradient with a central difference."
        )
    checks = [] if record.checks is None else record.checks.checks
    passed = sum(each.verdict is Verdict.PASS for each in checks)
    notes = ["No preflight belongs to this kind of run."]
    if checks:
        notes = [
            f"Preflight, on short twins of the run before it began: {passed} of {len(checks)} "
            "checks passed."
        ]
    table = Table(
        [
            {
                "check": each.name,
                "verdict": str(each.verdict),
                "found": write_figure(each.value),
                "limit": write_figure(each.limit),
                "meaning": f"{each.cause} {each.remedy}".strip(),
            }
            for each in checks
        ],
        marked={number: str(each.verdict) for number, each in enumerate(checks)},
    )
    return Section("How sure it is", notes=notes, lines=lines, tables=[table])


def repeating(record: FinishedRun, files: Mapping[str, bytes]) -> Section:
    """Return how to make a run again, and what to do with it."""
    commands = {
        f"mgd resume {record.run} --store STORE": "To go on where stages are missing, and to write "
        "this report anew; STORE is the folder that holds runs/",
    }
    command = from_nothing(record)
    if command is not None:
        commands[command] = "To make all of it again, from nothing, in another store"
    if record.verifiable:
        commands[f"mgd verify {record.run} --store STORE"] = "To make a random part of it again"
    notes = [f"Files beside this one: {', '.join(sorted(files))}."] if files else []
    return Section(
        "How to repeat it, and what next", notes=notes, lines=record.next_steps(), commands=commands
    )


def from_nothing(record: FinishedRun) -> str | None:
    """Return a command that makes the same run of the shipped recipe; None if that cannot be.

    The settings are those that people see in the report. The recipe that lies in the store is not
    named, because a recipe that is given as a file may load code.
    """
    recipe = record.recipe
    changes = changes_of_shipped(recipe)
    if changes is None:
        return None
    given = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    with suppress(ConfigurationError):
        if run_name(load_recipe(recipe.name, given).descent) == record.run:
            options = [word for change in given for word in ("--set", change)]
            return shlex.join(["mgd", "run", recipe.name, *options, "--store", "OTHER"])
    return None


def _pairs(content: Mapping[str, object]) -> Table:
    rows = [{"what": name, "": str(value)} for name, value in content.items() if value is not None]
    return Table(rows, pairs=True)


def _settings(rows: Sequence[tuple[str, str, str]]) -> Table:
    named = [{"key": key, "value": value, "meaning": meaning} for key, value, meaning in rows]
    return Table(named, code=frozenset({"key"}))
