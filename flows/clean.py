"""House-keeping of a store: frees what no run needs, by hand or on a schedule."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from engine.runs.clean.clean_plan import CleanReport, CleanRules
from engine.storage.location import StoreUrl, absolute
from tasks import cleaning

DAY_SECONDS, HOUR_SECONDS = 86400.0, 3600.0


@flow(name="clean")
def clean(
    store: StoreUrl,
    older_than_days: Annotated[float | None, Field(ge=0)] = None,
    keep: Annotated[int | None, Field(ge=0)] = None,
    intermediate: bool = False,
    grace_hours: Annotated[float, Field(ge=0)] = 24.0,
    delete: bool = False,
) -> CleanReport:
    """Free what no run needs; see ``engine.runs.clean.cleaning`` for what always stays.

    Args:
        store: Folder of the runs: a path, or a URL such as s3://bucket/folder.
        older_than_days: Free runs that have written nothing for so long; empty frees none by age.
        keep: Free all but so many runs, the ones that were active last; empty frees none by count.
        intermediate: Free what finished runs keep only to be repeated or continued.
        grace_hours: What wrote something within this time is left alone.
        delete: Delete; otherwise only say what would go.
    """
    age = None if older_than_days is None else older_than_days * DAY_SECONDS
    rules = CleanRules(
        older_than_seconds=age,
        keep=keep,
        intermediate=intermediate,
        grace_seconds=grace_hours * HOUR_SECONDS,
    )
    return cleaning.clean(absolute(store), rules, delete)
