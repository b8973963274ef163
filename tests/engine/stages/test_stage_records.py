"""What commits a stage counts only as it was committed."""

import pytest

from engine.errors import CheckpointCorruptError
from engine.recipes.settings import digest
from engine.stages.stage_records import any_record, intact_record
from engine.storage.records import write_record

CONTENT = {
    "ref": {"stage": "train", "key": "a" * 32, "content": "b" * 16},
    "attempt": "00000001-0badcafe",
    "scalars": {"losses": [0.5]},
    "inputs": {},
    "started": "2025-11-23T13:30:00+00:00",
    "seconds": 1.5,
    "bytes": 8,
    "run": "tiny-0badcafe",
    "fingerprints": [],
    "environment": {},
    "machine": {},
    "engine": "0.1.0",
}


def written(folder, **changes):
    """A record that was committed, of which some values are others now."""
    committed = CONTENT | {"digest": digest(CONTENT)}
    write_record(str(folder / "record.json"), committed | changes)
    return str(folder)


def test_a_record_is_read_as_it_was_committed(tmp_path):
    """The digest is of everything else."""
    found = intact_record(written(tmp_path))

    assert found.model_dump(mode="json", exclude={"digest"}) == CONTENT


@pytest.mark.parametrize(
    "changes",
    [{"scalars": {"losses": [0.4]}}, {"bytes": 9}, {"digest": "c" * 64}, {"machine": {"cpu": "x"}}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_value_that_is_another_now_is_damage(changes, tmp_path):
    """A loss that was edited would be a result that nobody computed."""
    folder = written(tmp_path, **changes)

    with pytest.raises(CheckpointCorruptError, match=r"record.json is damaged: it has the digest"):
        intact_record(folder)


def test_whoever_only_looks_takes_what_can_be_read(tmp_path):
    """A list of runs says what lies there; what does not is none."""
    assert any_record(str(tmp_path / "nowhere")) is None
    assert any_record(written(tmp_path)).bytes == 8
    assert any_record(written(tmp_path, seconds=-1)) is None
