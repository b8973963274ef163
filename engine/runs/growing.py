"""The report of a run that goes on, in the store: written anew now and then, never last."""

from collections.abc import Callable

from engine.reports.page import REPORT, as_html, with_section
from engine.reports.sections import Page, Section
from engine.runs.certificates import read_certificate
from engine.runs.finished import FinishedRun
from engine.runs.report import trust
from engine.storage.location import join
from engine.storage.places import RUN, run_folder
from engine.storage.records import read_bytes, write_bytes


def write_so_far(store: str, run: str, make: Callable[[], Page]) -> Page | None:
    """Write the report of a run that goes on, and return it.

    The report of a run that has ended stays as it is, also while a later start of it goes on.

    Args:
        store: fsspec URL of the store.
        run: Its whole name.
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


def write_certified(store: str, record: FinishedRun) -> bool:
    """Write into the report of a finished run what its certificate says.

    Returns:
        Whether there is a report whose section could be written anew.
    """
    url = join(run_folder(store, record.run), REPORT)
    written = read_bytes(url)
    if written is None:
        return False
    section: Section = trust(record, read_certificate(store, record.run))
    page = with_section(written.decode(errors="replace"), section)
    if page is None:
        return False
    write_bytes(url, page.encode())
    return True
