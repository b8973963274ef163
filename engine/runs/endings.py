"""The part of a finished run's record that is the same for every kind, by which runs are cleaned.

What a result needs, and what people read of it, is up to each kind of run, see
``engine.runs.finished``. Code that cleans, shows or lists runs reads no more than this part, and
this module does not load torch.

``run.json`` has a seal, the digest of everything else in it: its numbers are shown and compared as
they stand, and a document in which a disk, a copy or an editor has changed a digit can be read all
the same. Like the digest of a stage it is no signature, see ``engine.stages.stage_records``.
"""

from typing import Any

from pydantic import AwareDatetime, ValidationError

from engine.recipes.settings import Document, digest
from engine.storage.places import RUN

_SEAL = "seal"

_LONGEST = 100
"""Letters of a name that is repeated."""


class Ending(Document):
    """How a run ended."""

    claims: list[str] = []
    """Tokens of the claims that it ends. A claim with another token is one of a later start, so
    the run is under way again."""

    keeps: list[str] = []
    """Stages that the result needs, as stage/key: all others of the run only repeat or continue
    it."""

    starts: int = 1
    """Times that it was started and computed something."""

    computing_seconds: float = 0.0
    """Computing time of the stages that it computed itself, over all starts."""

    ended: AwareDatetime | None = None
    """When it did: UTC."""

    verdict: str = ""
    """What came of it, in one sentence."""

    numbers: list[dict[str, str]] = []
    """The numbers that stand at the top of the report: label, value and note of each."""

    summary: list[str] = []
    """What the numbers mean, in sentences."""

    table: list[dict[str, Any]] = []
    """The result as rows of the same columns; may be none."""

    files: list[str] = []
    """Files that are in the run's folder from its end on, beside its report."""

    verifiable: bool = False
    """Whether ``mgd verify`` can make parts of it again."""


class Outline(Document):
    """Fields that the records of all finished runs share, ``run.json``."""

    run: str
    """Name of the run."""

    started: str
    """When it was first started: UTC, ISO 8601."""

    seconds: float
    """Wall clock of the flow, over all starts that computed something."""

    ending: Ending = Ending()
    """What house-keeping and ``mgd show`` read."""


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with its seal, as it is written.

    Raises:
        ValueError: If a value has no JSON form.
    """
    return {**record, _SEAL: digest(record)}


def intact(record: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a run's record without its seal if it is the one that was written; else None.

    One without a seal is of an earlier version, and cannot tell.
    """
    if record is None or _SEAL not in record:
        return record
    content = {name: value for name, value in record.items() if name != _SEAL}
    return content if record[_SEAL] == digest(content) else None


def told_damaged(run: str, store: str) -> str:
    """Say of a run that its record is not the one that was written, and what to do."""
    return (
        f"The result of run {run} is damaged: its {RUN} is not what was written. Nothing of it is "
        f"shown. `mgd resume {run} --store {store}` writes it again, from the stages."
    )


def read_outline(record: dict[str, Any]) -> Outline | None:
    """Return the fields that records of all kinds share; None if they cannot be read."""
    try:
        return Outline.model_validate({name: record.get(name) for name in Outline.model_fields})
    except ValidationError:
        return None


def read_ending(record: dict[str, Any] | None) -> Ending | None:
    """Return the ending that a run's record describes; None if it cannot be read."""
    try:
        return Ending.model_validate((record or {})["ending"])
    except (KeyError, ValidationError):
        return None


def renamed(run: str, record: dict[str, Any] | None) -> str:
    """Return the run that a record is of, if it is not the run in whose folder it lies.

    Args:
        run: Name of the folder.
        record: What its ``run.json`` holds; None if there is nothing that can be read.

    Returns:
        Empty if the two agree, or the record does not say.
    """
    found = (record or {}).get("run")
    return found[:_LONGEST] if isinstance(found, str) and found != run else ""


def told_renamed(run: str, other: str) -> str:
    """Say of a folder that it holds the result of another run, and what to do."""
    return (
        f"The folder {run} holds the result of run {other}: it was renamed or copied from outside. "
        f"Name it {other} again, or delete it: as it is, no other command takes it."
    )
