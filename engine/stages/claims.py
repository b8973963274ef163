"""Which run uses which stage. Cleaning never frees a stage that has a claim, one small file each.

A claim is written before the stage is looked for. ``engine.runs.clean.cleaning`` takes a stage's
commit away before it looks at the claims for the last time. So whatever the order of the two, a run
that starts during a clean either keeps the stage or does not find it, and then makes it again.

Layout: ``<store>/runs/<run>/stages/<stage>-<key>.json``.
"""

import uuid
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from engine.recipes.settings import Document
from engine.storage.location import join, list_files
from engine.storage.names import claimed_label, label
from engine.storage.places import claims_folder
from engine.storage.records import SMALL, read_records, write_record


class Claim(Document):
    """The claim of a run to a stage, which says that the run uses it."""

    stage: str
    """Kind of stage, e.g. train."""

    key: str
    """Digest of everything that shaped it."""

    name: str
    """What the run calls it, e.g. train[0] 0-60."""

    cached: bool
    """Whether its committed result was found when the run last asked for it."""

    claimed: str
    """When that was: UTC, ISO 8601."""

    token: str
    """New in every claim, so that one made anew is told from an old one."""


def claim(store: str, run: str, stage: str, key: str, name: str, *, cached: bool) -> Claim:
    """Claim a stage for a run, in place of an earlier claim of the same run."""
    made = Claim(
        stage=stage,
        key=key,
        name=name,
        cached=cached,
        claimed=datetime.now(UTC).isoformat(),
        token=uuid.uuid4().hex,
    )
    write_record(claim_url(store, run, stage, key), made.model_dump())
    return made


def read_claims(
    store: str, run: str, known: dict[str, dict[str, Any] | None] | None = None
) -> list[Claim]:
    """Return the stages that a run uses, in the order in which it last asked for them.

    Args:
        store: fsspec URL of the store.
        run: Full name of the run.
        known: What an earlier call has read, by location, which is not read again; what this call
            reads is added to it.
    """
    folder = claims_folder(store, run)
    urls = [join(folder, name) for name in list_files(folder) if claimed_label(name)]
    found = {} if known is None else known
    found |= read_records([url for url in urls if url not in found], largest=SMALL)
    return understand_claims({url: found[url] for url in urls if url in found})


def understand_claims(records: dict[str, dict[str, Any] | None]) -> list[Claim]:
    """Return the claims that documents hold, by location, in the order of their making."""
    found = [_understood(url, record) for url, record in records.items()]
    return sorted(found, key=lambda each: each.claimed)


def read_claim(store: str, run: str, stage: str, key: str) -> Claim | None:
    """Return a run's claim to a stage, or None."""
    url = claim_url(store, run, stage, key)
    found = read_records([url], largest=SMALL)
    return _understood(url, found[url]) if url in found else None


def claim_url(store: str, run: str, stage: str, key: str) -> str:
    """Return where a run's claim to a stage lies."""
    return join(claims_folder(store, run), f"{label(stage, key)}.json")


def _understood(url: str, record: dict[str, Any] | None) -> Claim:
    with suppress(ValueError):
        return Claim.model_validate(record)
    # Damaged: whose stage it is stands in the name, and a stage in doubt is in use.
    stage, _, key = url.rsplit("/", 1)[-1].removesuffix(".json").rpartition("-")
    return Claim(stage=stage, key=key, name=stage, cached=False, claimed="", token="")
