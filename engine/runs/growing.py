"""The report of a run that goes on, in the store: written anew now and then, never last."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from engine.preflight.verdict import CheckReport
from engine.progress.names import about
from engine.progress.snapshot import Snapshot
from engine.recipes.descent import DescentRecipe
from engine.recipes.titles import run_title
from engine.reports.page import REPORT, as_html, with_section
from engine.reports.sections import Number, Page, Section, Table
from engine.reports.units import write_duration
from engine.runs.certificates import read_certificate
from engine.runs.finished import FinishedRun
from engine.runs.report import TRUST, all_checks, changes_section, preflight_summary, trust
from engine.storage.location import join
from engine.storage.places import RUN, run_folder
from engine.storage.records import read_bytes, write_bytes

REFRESH = 20
"""Seconds after which a browser loads a page again that grows."""

_TIME_GONE = "Time gone"

_FINDINGS = 30
"""Findings that a page shows, the newest ones."""


def page_of_stages(
    recipe: DescentRecipe,
    title: str,
    seen: Snapshot | None,
    findings: Sequence[str],
    checks: CheckReport | None,
) -> Page:
    """Return a page on the stages of an unfinished run of any kind.

    Args:
        recipe: The set-up.
        title: Title of its report.
        seen: Where it stands; None if its parts are runs of their own.
        findings: What it has found, in sentences, the first one first.
        checks: What its preflight found, once that is there.
    """
    numbers: list[Number] = []
    sections = [changes_section(recipe)]
    if seen is not None:
        left = "" if seen.left is None else f"{about(seen.left)} left"
        numbers = [
            Number("Stages done", f"{seen.done} of {seen.total}"),
            Number(_TIME_GONE, write_duration(seen.elapsed), left),
        ]
        rows = [{"stages": what, "done": f"{done} of {all_}"} for what, done, all_ in seen.parts]
        sections.append(Section("What is done", tables=[Table(rows)]))
    if checks is not None:
        notes, chips = preflight_summary(checks)
        sections.append(Section(TRUST, notes, chips=chips))
    sections += [each for each in [all_checks(checks)] if each is not None]
    return Page(
        title=title,
        run=f"{run_title(recipe)}; {goes_on()}",
        headline=seen.sentence() if seen is not None else ["It has begun.", *findings][-1],
        numbers=numbers,
        findings=list(findings)[-_FINDINGS:],
        warnings=[] if checks is None else checks.warnings(),
        sections=sections,
        refresh=REFRESH,
    )


def goes_on() -> str:
    """Say that a page grows, and when it did last: a run that was killed takes nothing back."""
    return f"it goes on, and this page with it; written {_now()}"


def stopped(page: Page, cause: str, command: str, *, tells: bool, is_refused: bool = False) -> Page:
    """Return the last page of a start that ended before its run was finished.

    Args:
        page: What there was to show.
        cause: Why it ended: lines of sentences.
        command: Lets it go on; empty if nothing of it is in the store.
        tells: Whether the page's headline says what came of the run so far, and not only where it
            stood.
        is_refused: Whether it did not fail, but was refused for what was asked.
    """
    first, *others = [line.strip() for line in cause.splitlines() if line.strip()]
    return replace(
        page,
        run=f"{page.run.partition(';')[0]}; stopped {_now()}",
        headline="It was refused." if is_refused else "It stopped before its end.",
        numbers=[
            replace(each, note="") if each.label == _TIME_GONE else each for each in page.numbers
        ],
        findings=[*([page.headline] if tells else []), *page.findings],
        warnings=[*dict.fromkeys([first, *others, *page.warnings])],
        sections=[
            *(each for each in page.sections if not each.folded),
            _how_it_goes_on(command, is_refused=is_refused),
            *(each for each in page.sections if each.folded),
        ],
        refresh=0,
    )


def _how_it_goes_on(command: str, *, is_refused: bool) -> Section:
    if is_refused:
        note = "The same settings will be refused again: change them before the next start."
        meaning = "If what was refused has changed outside of them, as data can"
    elif command:
        note = (
            "Finished stages are kept and are not computed again. If the run stopped because of "
            "its settings, change them first: the same ones will stop it again."
        )
        meaning = "To go on where it stopped"
    else:
        note, meaning = "It had not begun, so nothing is kept. Start it again.", ""
    return Section("How it goes on", notes=[note], commands={command: meaning} if command else {})


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"


def write_so_far(store: str, run: str, make: Callable[[], Page]) -> Page | None:
    """Write the report of a run that goes on, and return it.

    The report of a run that has ended stays as it is, also while a later start of it goes on.

    Args:
        store: fsspec URL of the store.
        run: Full name of the run.
        make: Draws what there is to show; not asked if the run has ended.

    Returns:
        The page; None if nothing was written.
    """
    folder = run_folder(store, run)
    if read_bytes(join(folder, RUN)) is not None:
        return None
    page = make()
    write_bytes(join(folder, REPORT), as_html(page).encode())
    return page


def write_certified(store: str, record: FinishedRun) -> None:
    """Write into the report of a finished run what its certificate says, if it has such a section.

    A report without one is left as it is: the certificate lies beside it.
    """
    url = join(run_folder(store, record.run), REPORT)
    written = read_bytes(url)
    if written is None:
        return
    section = trust(record, read_certificate(store, record.run))
    page = with_section(written.decode(errors="replace"), section)
    if page is not None:
        write_bytes(url, page.encode())
