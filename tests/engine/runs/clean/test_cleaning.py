"""What a clean frees, and above all what it does not."""

import os
import time
import uuid
from itertools import product
from pathlib import Path

import fsspec
import pytest

from engine.errors import ConfigurationError
from engine.runs.clean import freeing
from engine.runs.clean.clean_plan import CleanRules
from engine.runs.clean.cleaning import plan_clean
from engine.runs.clean.freeing import carry_out
from engine.runs.inventory import stored_runs, take_inventory
from engine.runs.run import note_parts
from engine.runs.store_mark import mark_store
from engine.stages.claims import claim, claim_url, read_claims
from engine.storage.location import join, list_folders
from engine.storage.places import (
    stage_record_url,
)
from engine.storage.records import read_bytes, read_record, write_bytes, write_record
from tests.helpers.runs.tiny_stores import add_descent, add_run, add_stage, hold, key, named

NO_GRACE = CleanRules(grace_seconds=0)


def left(store):
    return set(take_inventory(store).stages)


def claimed(store, word):
    return {(each.stage, each.key) for each in read_claims(store, named(word))}


def made_old(store, *folders):
    """Set the times of what lies in these folders of a store back by a week."""
    files = fsspec.filesystem("file")
    for folder in folders:
        for path in files.find(join(store, folder)):
            os.utime(path, (time.time() - 7 * 86400,) * 2)


def test_what_nobody_refers_to_goes_and_what_a_run_uses_stays(store):
    """The rest of a changed recipe is found by no run any more, and fills the disk."""
    used, orphan = add_stage(store, "train", "used"), add_stage(store, "train", "orphan")
    add_run(store, "run", used)

    report = carry_out(plan_clean(store, NO_GRACE))

    assert left(store) == {used}
    assert [each.name for each in report.freed if each.what == "stage"] == ["/".join(orphan)]
    assert read_bytes(join(store, "results", "-".join(orphan))) is None
    assert read_bytes(join(store, "results", "-".join(used))) == b"{}"


def test_nothing_goes_without_carrying_it_out(store):
    """People look first: a plan must be free of consequences."""
    orphan = add_stage(store, "train", "orphan")

    report = plan_clean(store, NO_GRACE).report

    assert left(store) == {orphan}
    assert not report.deleted
    assert report.bytes > 10


def test_new_things_are_left_alone(store):
    """What nobody refers to now may be the stage that a run is about to commit."""
    add_stage(store, "train", "new")

    assert plan_clean(store, CleanRules()).report.freed == []


def test_result_without_a_stage_goes_when_it_is_old_and_not_before(local):
    """A result may be seen before its stage's record is, where a listing lags behind."""
    alone = [f"results/train-{key(word)}" for word in ("new", "old")]
    for name in alone:
        write_bytes(join(local, name), b"{}")
    made_old(local, alone[1])

    report = carry_out(plan_clean(local, CleanRules()))

    assert [(each.what, each.name) for each in report.freed] == [("result", f"train-{key('old')}")]
    assert [read_bytes(join(local, name)) for name in alone] == [b"{}", None]


def test_stage_of_two_runs_stays_when_one_of_them_goes(store):
    """Runs share what they have in common: z_0, and every training up to the first difference."""
    shared, own = add_stage(store, "train", "shared"), add_stage(store, "train", "own")
    add_run(store, "one", shared, own)
    add_run(store, "other", shared)

    carry_out(plan_clean(store, CleanRules(runs=[named("one")], grace_seconds=0)))

    assert left(store) == {shared}
    assert list_folders(join(store, "runs")) == [named("other")]


def test_run_at_work_stays_whatever_is_asked(store):
    """A clean that takes the ground from under a run costs hours, or worse."""
    used = add_stage(store, "train", "used")
    add_run(store, "busy", used)

    report = carry_out(plan_clean(store, CleanRules(keep=0, older_than_seconds=0)))

    assert left(store) == {used}
    assert report.kept_runs == [named("busy")]
    with pytest.raises(ConfigurationError, match="may be at work.*--grace"):
        plan_clean(store, CleanRules(runs=[named("busy")]))


@pytest.mark.parametrize("days", [-365, 365])
def test_run_whose_files_have_another_clocks_dates_can_be_freed(local, days):
    """The remedy that is named works, also for files that seem to be of the future."""
    add_run(local, "stopped", add_stage(local, "train", "used"))
    then = time.time() + days * 86400
    for file in (path for path in Path(local).rglob("*") if path.is_file()):
        os.utime(file, (then, then))

    plan = plan_clean(local, CleanRules(runs=[named("stopped")], grace_seconds=0))

    assert named("stopped") in [each.name for each in plan.report.freed if each.what == "run"]
    assert not plan_clean(local, CleanRules(older_than_seconds=400 * 86400)).report.freed


def test_finished_run_that_is_run_again_is_at_work(local):
    """It has a result, but the start that is under way has claimed stages since."""
    add_descent(local)
    made_old(local, "runs", "stages")
    claim(local, named("done"), "train", key("done-t0"), "train", cached=True)

    assert plan_clean(local, CleanRules(keep=0, intermediate=True)).report.freed == []


def test_result_keeps_what_it_needs_and_frees_the_rest(store):
    """States and adjoints of a finished run are most of its bytes; nobody reads them again."""
    parts = add_descent(store)

    carry_out(plan_clean(store, CleanRules(intermediate=True, grace_seconds=0)))

    assert left(store) == parts["kept"]
    assert claimed(store, "done") == parts["kept"]
    assert list_folders(join(store, "runs")) == [named("done")]


def test_intermediate_states_stay_while_another_run_uses_them(store):
    """A longer run goes on from the states of a shorter one."""
    parts = add_descent(store)
    add_run(store, "longer", *parts["spare"])

    carry_out(plan_clean(store, CleanRules(intermediate=True, grace_seconds=0)))

    assert left(store) == parts["kept"] | parts["spare"]


def test_claims_that_were_read_are_handed_on_and_not_read_again(store):
    """A list of many runs reads each claim once; what it knows is what stands."""
    add_descent(store)
    known = {}
    first = read_claims(store, named("done"), known)
    assert len(known) == len(first) > 0
    for url in known:
        files, path = fsspec.url_to_fs(url)
        files.pipe_file(path, b"{")

    assert read_claims(store, named("done"), known) == first


def test_result_without_claims_is_found_by_its_record(store):
    """Claims may be lost; what the record refers to, and what that was made from, stays."""
    parts = add_descent(store)
    for each in read_claims(store, named("done")):
        files, path = fsspec.url_to_fs(claim_url(store, named("done"), each.stage, each.key))
        files.rm_file(path)

    carry_out(plan_clean(store, NO_GRACE))

    assert left(store) == parts["kept"] | parts["spare"]


def test_runs_go_by_age(local):
    """The rule of a schedule: what nobody touched for a week."""
    add_run(local, "old", add_stage(local, "train", "old"))
    made_old(local, "runs", "stages")
    add_run(local, "new", add_stage(local, "train", "new"))

    carry_out(plan_clean(local, CleanRules(older_than_seconds=6 * 86400)))

    assert list_folders(join(local, "runs")) == [named("new")]
    assert left(local) == {("train", key("new"))}


def test_runs_go_by_count_and_both_rules_must_agree(local):
    """Who says both means the surplus that is old as well: a clean frees no more than asked."""
    for name in ("first", "second", "third"):
        add_run(local, name)
        made_old(local, f"runs/{named(name)}")
        time.sleep(0.01)

    by_count = plan_clean(local, CleanRules(keep=1)).report.kept_runs
    by_both = plan_clean(local, CleanRules(keep=1, older_than_seconds=30 * 86400)).report.kept_runs

    assert by_count == [named("third")]
    assert by_both == [named(name) for name in ("third", "second", "first")]


def test_run_that_starts_during_the_clean_keeps_what_it_claims(store):
    """Between the plan and the deletion a run may have found the stage, and read on from it."""
    wanted, orphan = add_stage(store, "train", "wanted"), add_stage(store, "train", "orphan")
    record = read_record(stage_record_url(store, *wanted))
    plan = plan_clean(store, NO_GRACE)
    add_run(store, "starting", wanted)

    report = carry_out(plan)

    assert left(store) == {wanted}
    assert read_record(stage_record_url(store, *wanted)) == record
    assert {each.name for each in report.freed} == {"/".join(orphan), "-".join(orphan)}


def test_run_that_is_freed_and_started_again_meanwhile_stays(store):
    """Its old claims are no reason to delete what it has claimed anew."""
    used = add_stage(store, "train", "used")
    add_run(store, "run", used)
    plan = plan_clean(store, CleanRules(runs=[named("run")], grace_seconds=0))
    add_run(store, "run", used)

    carry_out(plan)

    assert left(store) == {used}
    assert [run.name for run in stored_runs(store)] == [named("run")]


def test_stage_is_not_committed_while_its_rows_are_deleted(store, monkeypatch):
    """A clean that is killed half-way must not leave a commit without its rows."""
    orphan = add_stage(store, "train", "orphan")
    seen = []
    look = freeing.claims_now

    def look_at_both(place, victims):
        seen.append(read_bytes(stage_record_url(place, *orphan)))
        return look(place, victims)

    monkeypatch.setattr(freeing, "claims_now", look_at_both)

    carry_out(plan_clean(store, NO_GRACE))

    assert seen == [None]


RULES = [{"keep": 0}, {"older_than_seconds": 0}, {"intermediate": True}, {"runs": [named("busy")]}]


@pytest.mark.parametrize(("rule", "finished"), list(product(RULES, [False, True])))
def test_run_in_a_long_stage_is_at_work(local, rule, finished):
    """For days it writes nothing but its lease, and whoever cleans has another clock."""
    before, stage = add_stage(local, "initial", "z0"), add_stage(local, "train", "long")
    add_run(local, "busy", before, stage, keeps=[before] if finished else None)
    made_old(local, "runs", "stages")
    lease = hold(local, stage)
    os.utime(lease, (time.time() - 7 * 86400,) * 2)

    if "runs" in rule:
        with pytest.raises(ConfigurationError, match="is being computed.*lease.*Stop that process"):
            plan_clean(local, CleanRules(**rule, grace_seconds=0))
    else:
        report = carry_out(plan_clean(local, CleanRules(**rule, grace_seconds=0)))
        assert report.freed == []
    assert left(local) == {before, stage}


def test_stage_that_somebody_makes_without_a_run_stays(local):
    """The engine's stages may be called without a flow, and then no run claims them."""
    stage = add_stage(local, "train", "alone")
    hold(local, stage)
    made_old(local, "stages")

    assert plan_clean(local, NO_GRACE).report.freed == []


@pytest.mark.parametrize("ahead", [-3, 3])
def test_ages_are_told_by_the_clock_of_the_store(local, monkeypatch, ahead):
    """A cleaner whose clock is days ahead takes every run for an old one."""
    add_run(local, "busy", add_stage(local, "train", "used"))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + ahead * 86400)

    assert plan_clean(local, CleanRules(older_than_seconds=86400)).report.freed == []
    monkeypatch.undo()
    made_old(local, "runs", "stages")
    monkeypatch.setattr(time, "time", lambda: real() + ahead * 86400)
    assert plan_clean(local, CleanRules(older_than_seconds=6 * 86400)).report.freed != []


def test_finished_run_that_is_being_started_is_at_work(local):
    """Between its start and its first claim there is the reading of the data, which may be long."""
    parts = add_descent(local)
    made_old(local, "runs", "stages")
    url = join(local, "runs", named("done"), "starts", f"{uuid.uuid4().hex}.json")
    write_record(url, {"started": "2026-01-01T00:00:00+00:00"})

    assert plan_clean(local, CleanRules(keep=0, intermediate=True)).report.freed == []
    made_old(local, "runs")
    report = carry_out(plan_clean(local, CleanRules(intermediate=True)))
    assert {tuple(each.name.split("/")) for each in report.freed if each.what == "stage"} == (
        parts["spare"]
    )


def searched(store):
    """Leave two runs, and after them a search with three parts; return the names."""
    names = ["one", "other", "part0", "part1", "part2", "search"]
    for word in names:
        used = add_stage(store, "train", word)
        add_run(store, word, used, keeps=[used])
    note_parts(store, named("search"), {named(f"part{number}"): "" for number in range(3)})
    for age, word in enumerate(reversed(names)):
        for path in fsspec.filesystem("file").find(join(store, "runs", named(word))):
            os.utime(path, (time.time() - (age + 1) * 86400,) * 2)
    return {named(word) for word in names}


@pytest.mark.parametrize(
    ("rules", "goes"),
    [
        ({"keep": 3}, []),  # the list shows three
        ({"keep": 2}, ["one"]),
        ({"keep": 1}, ["one", "other"]),
        ({"keep": 0}, ["one", "other", "part0", "part1", "part2", "search"]),
        ({"older_than_seconds": 2.5 * 86400}, ["one", "other"]),  # two parts are older as well
        ({"runs": [named("part0")]}, ["part0"]),
        ({"runs": [named("search")]}, ["search"]),
    ],
    ids=["keep 3", "keep 2", "keep 1", "keep 0", "older", "a part", "the whole"],
)
def test_parts_are_not_counted_and_stay_as_long_as_their_whole(local, rules, goes):
    """To keep three runs freed two of the three in the list, as a search's parts were newer."""
    names = searched(local)

    report = carry_out(plan_clean(local, CleanRules(**rules, grace_seconds=0)))

    gone = {named(word) for word in goes}
    assert {each.name for each in report.freed if each.what == "run"} == gone
    assert set(list_folders(join(local, "runs"))) == names - gone


def test_parts_of_a_run_at_work_stay(local):
    """It goes on from what they have computed."""
    names = searched(local)
    claim(local, named("search"), "train", key("search"), "train", cached=True)

    report = plan_clean(local, CleanRules(keep=0, grace_seconds=3600)).report

    assert set(report.kept_runs) == names - {named("one"), named("other")}


@pytest.mark.slow
def test_object_store_is_cleaned_like_a_folder(bucket):
    """It tells times in whole seconds, and deletes what is not there without a word."""
    store = join(bucket, uuid.uuid4().hex)
    mark_store(store)
    parts = add_descent(store)
    plan = plan_clean(store, CleanRules(intermediate=True, grace_seconds=0))
    again = next(iter(parts["spare"]))
    add_run(store, "starting", again)

    carry_out(plan)
    assert left(store) == parts["kept"] | {again}

    plan = plan_clean(store, CleanRules(runs=[named("starting")], grace_seconds=0))
    add_run(store, "starting", again)
    carry_out(plan)
    assert left(store) == parts["kept"] | {again}
