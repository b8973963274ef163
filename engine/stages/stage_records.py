"""``record.json``, which commits a stage: what it says, where it lies, and whether it is intact.

The digest in it finds accidental damage. It is not a signature: whoever can write to a store can
make it anew. So what a record names is checked like anything else that comes from a store.

A folder that was renamed holds a record that is intact and of another stage. So whoever wants what
a certain stage made asks for that stage, bits included, and never for whatever a folder holds.
"""

from typing import Annotated, Any

from pydantic import Field

from engine.errors import CheckpointCorruptError, CheckpointMissingError
from engine.recipes.settings import Document, digest
from engine.stages.references import Ref
from engine.storage.location import join
from engine.storage.places import RECORD, stage_folder
from engine.storage.records import read_model, read_record, understood
from engine.storage.safe_names import AttemptName


class StageRecord(Document):
    """``record.json``: what commits an attempt of a stage."""

    ref: Ref
    """The stage, and the digest of its bits."""

    attempt: AttemptName
    """Folder of the rows."""

    scalars: dict[str, Any]
    """Numbers that it made."""

    inputs: dict[str, Any]
    """What it was made from: references and plain values."""

    started: str
    """UTC, ISO 8601."""

    seconds: Annotated[float, Field(ge=0)]
    """Computing time."""

    bytes: Annotated[int, Field(ge=0)]
    """Bytes of its rows."""

    run: str
    """Run that made it."""

    fingerprints: list[dict[str, str]]
    """Those of the vectors of each row."""

    environment: dict[str, Any]
    """What its bits depend on besides its inputs."""

    machine: dict[str, Any]
    """Where it was made."""

    engine: str
    """Version of the engine."""

    digest: str
    """Digest of all of the above."""


class Recorded(dict[str, Any]):
    """The content of a record; a missing entry is reported as damage of the store."""

    def __init__(self, ref: Ref, content: dict[str, Any]) -> None:
        super().__init__(content)
        self._ref = ref

    def __missing__(self, name: str) -> Any:  # noqa: ANN401 (never returns)
        raise CheckpointCorruptError(
            f"The record of {self._ref.stage} {self._ref.key[:8]} does not say {name!r}. It was "
            "written by another version of this program, or is damaged. Run the stage again."
        )


def intact_record(folder: str) -> StageRecord:
    """Return the record that commits a stage, if every value is the one that was committed."""
    url = join(folder, RECORD)
    content = read_record(url)
    expected = content.get("digest")
    found = digest({name: value for name, value in content.items() if name != "digest"})
    if found != expected:
        raise CheckpointCorruptError(
            f"The record at {url} is damaged: it has the digest {found}, and {str(expected)[:64]} "
            "was committed. Run the stage again."
        )
    return understood(url, content, StageRecord)


def record_of(store: str, ref: Ref) -> StageRecord:
    """Return the record that commits a certain stage with the bits that a reference names.

    Raises:
        CheckpointMissingError: If nothing does.
        CheckpointCorruptError: If the record is damaged, or that of another stage or of other bits.
    """
    folder = stage_folder(store, ref.stage, ref.key)
    record = intact_record(folder)
    if record.ref != ref:
        found = record.ref
        raise CheckpointCorruptError(
            f"{folder} should hold what {ref.stage} {ref.key[:8]} has made, with the digest "
            f"{ref.content}, and holds {found.stage} {found.key[:8]} with {found.content}: it was "
            "renamed, copied or replaced from outside. Put the old folder back, or delete this one "
            "and let the run go on with `mgd resume`, which makes the stage again."
        )
    return record


def any_record(folder: str) -> StageRecord | None:
    """Return the record that commits a stage, or None if there is none or it is damaged."""
    try:
        return read_model(join(folder, RECORD), StageRecord)
    except (CheckpointMissingError, CheckpointCorruptError):
        return None
