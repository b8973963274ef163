"""What a clean frees, and above all what it does not."""

import os
import time
import uuid

import fsspec
import pytest

from engine import housekeeping
from engine.claims import claim, read_claims
from engine.errors import ConfigurationError
from engine.housekeeping import CleanRules, carry_out, plan_clean
from engine.inventory import stage_record_url, stored_runs, stored_stages
from engine.location import join, list_folders
from engine.records import read_bytes, read_record, write_bytes, write_record

NO_GRACE = CleanRules(grace_seconds=0)


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    """An empty store on each kind of filesystem that needs no server."""
    return str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def local(tmp_path):
    """An empty store in a folder, where files can be made old."""
    return str(tmp_path)


def add_stage(store, kind, key, **inputs):
    """Commit a stage whose result is ten bytes; inputs are the stages that it was made from."""
    record = {
        "ref": ref((kind, key)),
        "inputs": {name: ref(each) for name, each in inputs.items()},
    }
    folder = join(store, "stages", kind, key)
    write_bytes(join(folder, "rows", "0"), b"0123456789")
    write_bytes(join(store, "results", f"{kind}-{key}"), b"{}")
    write_record(join(folder, "record.json"), record)
    return kind, key


def ref(name):
    return {"stage": name[0], "key": name[1], "content": "c"}


def add_run(store, name, *used, finished=None):
    """Write a run that has claimed stages; ``finished``: (value, final, gradient) of iterates."""
    write_record(join(store, "runs", name, "recipe.json"), {"name": name})
    for kind, key in used:
        claim(store, name, kind, key, kind, cached=False)
    if finished is not None:
        iterates = [
            {"value": ref(value), "final": ref(final), "gradient": gradient and ref(gradient)}
            for value, final, gradient in finished
        ]
        record = {"iterates": iterates, "chosen": len(iterates) - 1}
        write_record(join(store, "runs", name, "run.json"), record)


def add_descent(store, name="done"):
    """Write a finished descent of one outer step, whose last iterate was chosen; name its parts."""
    z0 = add_stage(store, "initial", "z0")
    t0 = add_stage(store, "train", f"{name}-t0", value=z0)
    t1 = add_stage(store, "train", f"{name}-t1", value=z0, start=t0)
    seed = add_stage(store, "seed", f"{name}-seed", value=z0, final=t1)
    half = add_stage(store, "reverse", f"{name}-half", value=z0, start=t0, adjoint=seed)
    gradient = add_stage(store, "reverse", f"{name}-gradient", value=z0, adjoint=half)
    z1 = add_stage(store, "update", f"{name}-z1", value=z0, gradient=gradient)
    t2 = add_stage(store, "train", f"{name}-t2", value=z1)
    t3 = add_stage(store, "train", f"{name}-t3", value=z1, start=t2)
    scores = add_stage(store, "evaluate", f"{name}-scores", value=z1, final=t3)
    used = (z0, t0, t1, seed, half, gradient, z1, t2, t3, scores)
    add_run(store, name, *used, finished=[(z0, t1, gradient), (z1, t3, None)])
    return {"spare": {t0, t1, seed, half}, "kept": {z0, gradient, z1, t2, t3, scores}}


def left(store):
    return set(stored_stages(store))


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
    assert read_bytes(join(store, "results", "train-orphan")) is None
    assert read_bytes(join(store, "results", "train-used")) == b"{}"


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


def test_stage_of_two_runs_stays_when_one_of_them_goes(store):
    """Runs share what they have in common: z_0, and every training up to the first difference."""
    shared, own = add_stage(store, "train", "shared"), add_stage(store, "train", "own")
    add_run(store, "one", shared, own)
    add_run(store, "other", shared)

    carry_out(plan_clean(store, CleanRules(runs=["one"], grace_seconds=0)))

    assert left(store) == {shared}
    assert list_folders(join(store, "runs")) == ["other"]


def test_run_at_work_stays_whatever_is_asked(store):
    """A clean that takes the ground from under a run costs hours, or worse."""
    used = add_stage(store, "train", "used")
    add_run(store, "busy", used)

    report = carry_out(plan_clean(store, CleanRules(keep=0, older_than_seconds=0)))

    assert left(store) == {used}
    assert report.kept_runs == ["busy"]
    with pytest.raises(ConfigurationError, match="may be at work.*--grace"):
        plan_clean(store, CleanRules(runs=["busy"]))


def test_finished_run_that_is_run_again_is_at_work(local):
    """It has a result, but the start that is under way has claimed stages since."""
    add_descent(local)
    made_old(local, "runs", "stages")
    claim(local, "done", "train", "done-t0", "train", cached=True)

    assert plan_clean(local, CleanRules(keep=0, intermediate=True)).report.freed == []


def test_result_keeps_what_it_needs_and_frees_the_rest(store):
    """States and adjoints of a finished run are most of its bytes; nobody reads them again."""
    parts = add_descent(store)

    carry_out(plan_clean(store, CleanRules(intermediate=True, grace_seconds=0)))

    assert left(store) == parts["kept"]
    assert {(each.stage, each.key) for each in read_claims(store, "done")} == parts["kept"]
    assert list_folders(join(store, "runs")) == ["done"]


def test_intermediate_states_stay_while_another_run_uses_them(store):
    """A longer run goes on from the states of a shorter one."""
    parts = add_descent(store)
    add_run(store, "longer", *parts["spare"])

    carry_out(plan_clean(store, CleanRules(intermediate=True, grace_seconds=0)))

    assert left(store) == parts["kept"] | parts["spare"]


def test_result_without_claims_is_found_by_its_record(store):
    """Claims may be lost; what the record refers to, and what that was made from, stays."""
    parts = add_descent(store)
    for each in read_claims(store, "done"):
        files, path = fsspec.url_to_fs(join(store, "runs", "done", "stages"))
        files.rm_file(f"{path}/{each.stage}-{each.key}.json")

    carry_out(plan_clean(store, NO_GRACE))

    # Scores are in the record itself.
    assert left(store) == (parts["kept"] | parts["spare"]) - {("evaluate", "done-scores")}


def test_runs_go_by_age(local):
    """The rule of a schedule: what nobody touched for a week."""
    add_run(local, "old", add_stage(local, "train", "old"))
    made_old(local, "runs", "stages")
    add_run(local, "new", add_stage(local, "train", "new"))

    carry_out(plan_clean(local, CleanRules(older_than_seconds=6 * 86400)))

    assert list_folders(join(local, "runs")) == ["new"]
    assert left(local) == {("train", "new")}


def test_runs_go_by_count_and_both_rules_must_agree(local):
    """Who says both means the surplus that is old as well: a clean frees no more than asked."""
    for name in ("first", "second", "third"):
        add_run(local, name)
        made_old(local, f"runs/{name}")
        time.sleep(0.01)

    by_count = plan_clean(local, CleanRules(keep=1)).report.kept_runs
    by_both = plan_clean(local, CleanRules(keep=1, older_than_seconds=30 * 86400)).report.kept_runs

    assert by_count == ["third"]
    assert by_both == ["third", "second", "first"]


def test_run_that_starts_during_the_clean_keeps_what_it_claims(store):
    """Between the plan and the deletion a run may have found the stage, and read on from it."""
    wanted, orphan = add_stage(store, "train", "wanted"), add_stage(store, "train", "orphan")
    record = read_record(stage_record_url(store, *wanted))
    plan = plan_clean(store, NO_GRACE)
    add_run(store, "starting", wanted)

    report = carry_out(plan)

    assert left(store) == {wanted}
    assert read_record(stage_record_url(store, *wanted)) == record
    assert {each.name for each in report.freed} == {"/".join(orphan), "train-orphan"}


def test_run_that_is_freed_and_started_again_meanwhile_stays(store):
    """Its old claims are no reason to delete what it has claimed anew."""
    used = add_stage(store, "train", "used")
    add_run(store, "run", used)
    plan = plan_clean(store, CleanRules(runs=["run"], grace_seconds=0))
    add_run(store, "run", used)

    carry_out(plan)

    assert left(store) == {used}
    assert [run.name for run in stored_runs(store)] == ["run"]


def test_stage_is_not_committed_while_its_rows_are_deleted(store, monkeypatch):
    """A clean that is killed half-way must not leave a commit without its rows."""
    add_stage(store, "train", "orphan")
    seen = []
    look = housekeeping._claims_now

    def look_at_both(place, victims):
        seen.append(read_bytes(stage_record_url(place, "train", "orphan")))
        return look(place, victims)

    monkeypatch.setattr(housekeeping, "_claims_now", look_at_both)

    carry_out(plan_clean(store, NO_GRACE))

    assert seen == [None]


def test_damaged_claim_protects_its_stage(store):
    """A stage in doubt is in use."""
    used = add_stage(store, "train", "used")
    add_run(store, "run", used)
    write_bytes(join(store, "runs", "run", "stages", "train-used.json"), b"{")

    assert plan_clean(store, NO_GRACE).report.freed == []


def test_empty_place_is_refused(store):
    """A mistyped store must not look like a clean one."""
    with pytest.raises(ConfigurationError, match="--store"):
        plan_clean(store, CleanRules())


@pytest.mark.slow
def test_object_store_is_cleaned_like_a_folder(bucket):
    """It tells times in whole seconds, and deletes what is not there without a word."""
    store = join(bucket, uuid.uuid4().hex)
    parts = add_descent(store)
    plan = plan_clean(store, CleanRules(intermediate=True, grace_seconds=0))
    again = next(iter(parts["spare"]))
    add_run(store, "starting", again)

    carry_out(plan)
    assert left(store) == parts["kept"] | {again}

    plan = plan_clean(store, CleanRules(runs=["starting"], grace_seconds=0))
    add_run(store, "starting", again)
    carry_out(plan)
    assert left(store) == parts["kept"] | {again}
