"""The report of a run that goes on, in the store: written anew now and then, never last."""

from collections.abc import Callable

from engine.reports.page import REPORT, as_html, with_section
from engine.reports.sections import Page
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
