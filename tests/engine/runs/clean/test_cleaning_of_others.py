"""What a clean leaves alone: what is damaged, of another version, or not the engine's."""

import errno
import os
from pathlib import Path

import pytest

from engine.errors import ConfigurationError
from engine.runs import store_mark
from engine.runs.clean.clean_plan import CleanRules
from engine.runs.clean.cleaning import plan_clean
from engine.runs.clean.freeing import carry_out
from engine.runs.inventory import take_inventory
from engine.runs.store_mark import mark_store
from engine.stages.claims import claim_url, read_claims
from engine.storage.location import join
from engine.storage.names import STAGE_KINDS
from engine.storage.places import MARK, stage_record_url
from engine.storage.records import read_bytes, read_record, write_bytes, write_record
from tests.helpers.runs.tiny_stores import add_descent, add_run, add_stage, key, named

NO_GRACE = CleanRules(grace_seconds=0)

FOREIGN = [
    "results/table.csv",
    "results/figs/fig1.png",
    "results/train-notes",
    "results/figs/train-" + "a" * 32,
    "stages/one/two/notes.txt",
    "stages/notes.txt",
    "stages/mykind/" + "a" * 32 + "/record.json",
    "stages/train/" + "A" * 32 + "/record.json",
    "runs/exp1/events.out.tfevents.1",
    "runs/paper/draft.tex",
    "runs/exp-0123abcd/model.pt",
    "runs/notes.txt",
    "store.json.bak",
    "notes.md",
]


def left(store):
    return set(take_inventory(store).stages)


def test_damaged_claim_protects_its_stage(store):
    """A stage in doubt is in use, whatever its kind: some kinds have a hyphen."""
    for kind in sorted(STAGE_KINDS):
        used = add_stage(store, kind, kind)
        name = add_run(store, kind, used)
        write_bytes(claim_url(store, name, *used), bytes(40))
        assert [(each.stage, each.key) for each in read_claims(store, name)] == [used]

    assert plan_clean(store, NO_GRACE).report.freed == []


def test_empty_place_is_refused(store):
    """A mistyped store must not look like a clean one."""
    with pytest.raises(ConfigurationError, match="--store"):
        plan_clean(join(store, "other"), CleanRules())


@pytest.mark.parametrize("content", [None, b"", bytes(40), b"{}", b'{"name": "an app"}'])
def test_folder_without_the_mark_of_a_store_is_not_touched(store, content):
    """A mistyped --store may be a project folder, whose runs/ and results/ are somebody's own."""
    place = join(store, "project")
    kept = add_stage(place, "train", "orphan")
    if content is not None:
        write_bytes(join(place, MARK), content)

    with pytest.raises(ConfigurationError, match=r"store\.json"):
        plan_clean(place, CleanRules(keep=0, grace_seconds=0))

    assert left(place) == {kept}


def test_store_of_a_newer_layout_is_not_touched(store):
    """What this version takes for rubbish may be what the newer one needs."""
    mark = read_record(join(store, MARK))
    write_record(join(store, MARK), mark | {"version": mark["version"] + 1})

    with pytest.raises(ConfigurationError, match="newer"):
        plan_clean(store, CleanRules())


@pytest.mark.parametrize(
    "rules",
    [
        CleanRules(grace_seconds=0),
        CleanRules(grace_seconds=0, intermediate=True),
        CleanRules(grace_seconds=0, keep=0),
        CleanRules(grace_seconds=0, older_than_seconds=0),
        CleanRules(grace_seconds=0, runs=[named("done")]),
    ],
)
def test_only_what_the_engine_made_goes(store, rules):
    """Users keep their tables, TensorBoard runs and notes beside, and inside, a store."""
    add_descent(store)
    add_run(store, "unfinished", add_stage(store, "train", "unfinished"))
    orphan = "/".join(add_stage(store, "train", "orphan"))
    inside = [
        f"stages/{orphan}/notes.txt",
        f"stages/{orphan}/attempts/00000001-0badcafe/params/notes.txt",
        f"runs/{named('done')}/notes.md",
        f"runs/{named('done')}/stages/notes.json",
        f"runs/{named('done')}/figures/report.html",
    ]
    for path in [*FOREIGN, *inside]:
        write_bytes(join(store, path), b"mine")

    report = carry_out(plan_clean(store, rules))

    assert all(read_bytes(join(store, path)) == b"mine" for path in [*FOREIGN, *inside])
    below = {path for path in [*FOREIGN, *inside] if "/" in path}
    assert set(report.left) == below
    assert read_bytes(stage_record_url(store, *orphan.split("/"))) is None
    assert read_bytes(join(store, MARK)) is not None
    assert plan_clean(store, rules.model_copy(update={"runs": []})).report.freed == []


@pytest.mark.parametrize("asked", ["", " ", "don", "done", "*", "../runs", "/etc", ".", MARK])
def test_runs_go_by_their_whole_name(store, asked):
    """An unset variable, or the beginning of a name, must not free what nobody meant."""
    add_descent(store)

    with pytest.raises(ConfigurationError, match=r"No run.*is named"):
        plan_clean(store, CleanRules(runs=[asked], grace_seconds=0))


def test_record_that_cannot_be_understood_frees_nothing(store):
    """One of another version, or a damaged one, says nothing of what its run keeps."""
    add_descent(store)
    url = join(store, "runs", named("done"), "run.json")
    for content in (b"{", b"[]", b"{}", b'{"ending": {"keeps": 3}}', b'{"iterates": []}'):
        write_bytes(url, content)
        assert plan_clean(store, CleanRules(intermediate=True, grace_seconds=0)).report.freed == []


@pytest.mark.parametrize("folder", ["stages", "runs", "results", "code"])
def test_a_folder_that_is_a_link_is_not_cleaned(folder, local, tmp_path_factory):
    """Two stores may share it, and neither sees the other's claims: all of it was freed."""
    used = add_stage(local, "train", "used")
    add_run(local, "mine", used)
    other = tmp_path_factory.mktemp("other")
    mark_store(str(other))
    place = Path(local, folder)
    place.mkdir(exist_ok=True)
    before = plan_clean(local, NO_GRACE)
    (other / folder).symlink_to(place)

    with pytest.raises(ConfigurationError, match=f"{folder} -> .* is a link, and runs of another"):
        plan_clean(str(other), NO_GRACE)
    place.rename(tmp_path_factory.mktemp("larger") / folder)
    place.symlink_to(other)
    with pytest.raises(ConfigurationError, match="is a link"):  # put there since it was looked at
        carry_out(before)


def test_a_store_that_is_a_link_is_cleaned(local, tmp_path_factory):
    """It is one store, whatever name it is called by."""
    add_stage(local, "train", "unused")
    link = tmp_path_factory.mktemp("link") / "store"
    link.symlink_to(local)

    freed = carry_out(plan_clean(str(link), NO_GRACE)).freed
    assert "stage" in {each.what for each in freed}
    assert left(local) == set()


def test_what_a_clean_would_free_is_told_of_a_store_that_may_only_be_read(local, monkeypatch):
    """Whoever asks deletes nothing, and is shown what there is."""
    add_stage(local, "train", "unused")

    def refuse(*arguments):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(store_mark, "write_bytes", refuse)

    assert "stage" in {each.what for each in plan_clean(local, NO_GRACE).report.freed}


@pytest.mark.parametrize("is_full", ["of blocks", "of names"])
def test_a_full_disk_is_cleaned(is_full, local, monkeypatch):
    """It is what a clean is for, and one that first wrote a file to learn the time could not be."""
    add_stage(local, "train", "unused")
    name = add_run(local, "kept", add_stage(local, "train", "used"))
    write = store_mark.write_bytes

    def refuse(url, content, *more):
        if content or is_full == "of names":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(url, content, *more)

    monkeypatch.setattr(store_mark, "write_bytes", refuse)
    freed = carry_out(plan_clean(local, NO_GRACE)).freed

    assert "stage" in {each.what for each in freed}
    assert left(local) == {("train", key("used"))}
    # A client whose clock is ahead has dated a file; the disk cannot say what time it is.
    os.utime(Path(local, "runs", name, "recipe.json"), (4e9, 4e9))
    # Of what may be at work nothing goes, however old the last file is that could be written.
    assert plan_clean(local, CleanRules(older_than_seconds=3600)).report.freed == []
    assert plan_clean(local, NO_GRACE).report.kept_runs == [name]
