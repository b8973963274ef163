"""Sections that the report of every run has, in order.

The headline; what was asked; the figures of the kind; what it cost; how sure it is; how to repeat
it; and folded, all that few people read. The kind says its own words by its record
(``FinishedRun.headline``, ``findings`` and ``warnings``), and draws its own sections.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from engine.errors import ConfigurationError
from engine.planning.forecast import STAGE_SECONDS, read_forecast
from engine.preflight.verdict import Check, CheckReport, Verdict
from engine.recipes.descent import DescentRecipe
from engine.recipes.files import (
    MEASURED,
    beside_shipped,
    changes_of_shipped,
    load_recipe,
    load_to_measure,
)
from engine.recipes.names import run_name
from engine.recipes.titles import run_title
from engine.reports.sections import Page, Section, Table
from engine.reports.settings_rows import all_rows, changed_rows, written
from engine.reports.units import write_duration, write_found
from engine.runs.certificates import Certificate, how_verified, read_certificate
from engine.runs.finished import FinishedRun
from engine.runs.overview import overview
from engine.runs.predicted import compare

TRUST = "How sure it is"
"""Title of the section that a verification writes anew."""


@dataclass(frozen=True)
class Report:
    """Sections and files that a kind of run adds to the report.

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
        changes_section(record.recipe),
        *own.sections,
        cost(store, record),
        trust(record, certificate),
        repeating(record, own.files),
        *own.folded,
        *filter(None, [all_checks(record.checks)]),
        Section(
            "All settings", tables=[_settings(all_rows(record.recipe, record.unread))], folded=True
        ),
        Section("Where it was made", tables=[_pairs(record.environment)], folded=True),
    ]
    return head(record, own.title, sections)


def head(record: FinishedRun, title: str = "", sections: Sequence[Section] = ()) -> Page:
    """Return the top of a run's page, with some sections below it."""
    headline, began = record.headline(), datetime.fromisoformat(record.started)
    return Page(
        title=title or record.recipe.name,
        run=f"{run_title(record.recipe)}; started {began:%Y-%m-%d %H:%M} UTC",
        headline=headline,
        numbers=record.numbers(),
        findings=[line for line in record.findings() if line != headline],
        warnings=record.warnings(),
        sections=sections,
    )


def changes_section(recipe: DescentRecipe) -> Section:
    """Return the section of settings that differ from the shipped recipe and the defaults."""
    notes = [recipe.description] if recipe.description else []
    changes, name = beside_shipped(recipe), recipe.name
    if changes is not None and recipe.kind == MEASURED:
        changes.pop("kind", None)  # the title says so
    if changes is None:
        notes.append(
            f"{name} is a recipe of your own, none that ships. It differs from the defaults in:"
        )
    elif changes:
        notes.append(
            f"Changed of the recipe {name} as it ships; below it, all that differs from the "
            "defaults:"
        )
    else:
        notes.append(
            f"These are the settings of the shipped recipe {name}. They differ from the defaults "
            "in:"
        )
    rows = [
        {
            "key": key,
            "here": written(here) or "not set",
            "as it ships": written(shipped) or "not set",
        }
        for key, (here, shipped) in (changes or {}).items()
    ]
    return Section(
        "Settings of the run",
        notes=notes,
        tables=[Table(rows, code=frozenset({"key"}))],
        chips={key: value or "not set" for key, value, _ in changed_rows(recipe)},
    )


def cost(store: str, record: FinishedRun) -> Section:
    """Return the section of costs: those of all starts of the run, and the predicted ones."""
    ending, counts = record.ending, record.stages
    rows = {
        "Took": f"{write_duration(record.seconds)} in {ending.starts} "
        f"start{'s' * (ending.starts != 1)}",
        "Computing": f"{write_duration(ending.computing_seconds)} of its own stages",
    }
    if counts.total:
        parts = [f"{counts.total} in all"]
        if counts.cached:
            parts.append(f"{counts.cached} used again from the store (cached)")
        if counts.retried:
            parts.append(f"{counts.retried} after more than one attempt (retried)")
        rows["Stages"] = ", ".join(parts)
    tables = [_pairs(rows)]
    notes = [
        "Predicted and actual seconds are those that the stages compute, one after the other, with "
        f"{STAGE_SECONDS:g} s around each, and without the preflight."
    ]
    if read_forecast(store, record.run) is None:
        notes = ["No plan was kept with this run; `mgd plan` says before a run what it will take."]
    else:
        tables += [
            Table(
                [
                    {
                        "number": each.what,
                        "predicted": f"{each.predicted:,.{digits}f}",
                        "actual": f"{each.actual:,.{digits}f}",
                    }
                    for each in compare(store, overview(store, record.run))
                    for digits in [1 if each.what.startswith("seconds") else 0]
                ]
            )
        ]
    return Section("What it cost", notes=notes, tables=tables)


def trust(record: FinishedRun, certificate: Certificate | None) -> Section:
    """Return the section of checks: those on twins before the run, and its verification."""
    lines = []
    if record.uncompared:
        steps = ", ".join(map(str, record.uncompared))
        lines.append(
            f"Second derivatives of later steps: no finite difference settles in step {steps} of "
            "the training, so none was compared there."
        )
    if certificate is not None:
        lines.append(
            f"Verified at {certificate.made[:16].replace('T', ' ')} UTC with seed "
            f"{certificate.seed}: {certificate.verdict}. {certificate.sentence()}"
        )
        lines += [_check_line(each) for each in certificate.checks]
    else:
        lines.append(how_verified(record.run, in_parts=record.verifiable))
    if record.checks is None or not record.checks.checks:
        return Section(TRUST, ["No preflight belongs to this kind of run."], lines)
    notes, chips = preflight_summary(record.checks)
    return Section(TRUST, notes, lines, chips=chips)


def preflight_summary(report: CheckReport) -> tuple[list[str], dict[str, str]]:
    """Return the result of a preflight: a sentence, and the number of each check by name."""
    checks = report.checks
    passed = sum(each.verdict is Verdict.PASS for each in checks)
    sentence = (
        f"Preflight, on short twins of the run before it began: {passed} of {len(checks)} checks "
        "passed. Each check is shown with its number and its limit; All checks of the preflight "
        "explains them."
    )
    return [sentence], {each.name: _verdict_and_limit(each) for each in checks}


def _check_line(check: Check) -> str:
    told = ", ".join(filter(None, [str(check.verdict), _measured(check)]))
    return f"{check.name}: {told}. {check.cause}".strip()


def _verdict_and_limit(check: Check) -> str:
    """Return the verdict on a check where it is not passed, its number, and the limit."""
    measured = _measured(check)
    if check.verdict is Verdict.PASS:
        return measured or "done"
    return f"{check.verdict}: {measured}" if measured else str(check.verdict)


def _measured(check: Check) -> str:
    """Return the number of a check and its limit; empty if it has no number."""
    found = write_found(check.value)
    bound = check.bound()
    return f"{found} ({bound})" if bound else found


def all_checks(report: CheckReport | None) -> Section | None:
    """Return every check of the preflight with its meaning; None if there are none."""
    checks = [] if report is None else report.checks
    if not checks:
        return None
    table = Table(
        [
            {
                "check": each.name,
                "verdict": str(each.verdict),
                "found": write_found(each.value),
                "limit": each.bound(),
                "meaning": f"{each.cause} {each.remedy}".strip(),
            }
            for each in checks
        ],
        marked={number: str(each.verdict) for number, each in enumerate(checks)},
    )
    return Section("All checks of the preflight", tables=[table], folded=True)


def repeating(record: FinishedRun, files: Mapping[str, bytes]) -> Section:
    """Return the section on how to repeat a run, and what to do with it."""
    commands = {
        f"mgd resume {record.run} --store STORE": "To go on where stages are missing, and to write "
        "this report if it is gone; STORE is the folder that holds runs/",
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
    """Return a command that repeats the run from the shipped recipe; None if none can.

    The settings are those that people see in the report. The recipe that lies in the store is not
    named, because a recipe that is given as a file may load code.
    """
    recipe = record.recipe
    changes = changes_of_shipped(recipe)
    if changes is None:
        return None
    verb = "run"
    if recipe.kind == MEASURED and changes.pop("kind", None):
        verb = "smoothness"
    given = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    with suppress(ConfigurationError):
        if verb == "run":
            again = load_recipe(recipe.name, given)
        else:
            again = load_to_measure(recipe.name, given, {})
        if run_name(again.descent) == record.run:
            options = [word for change in given for word in ("--set", change)]
            return shlex.join(["mgd", verb, recipe.name, *options, "--store", "OTHER"])
    return None


def _pairs(content: Mapping[str, object]) -> Table:
    rows = [{"what": name, "": str(value)} for name, value in content.items() if value is not None]
    return Table(rows, pairs=True)


def _settings(rows: Sequence[tuple[str, str, str]]) -> Table:
    named = [{"key": key, "value": value, "meaning": meaning} for key, value, meaning in rows]
    return Table(named, code=frozenset({"key"}))
