"""A clean beside runs that are at work, and one that is killed: nothing is lost or left."""

from datetime import UTC, datetime, timedelta

import pytest

from engine.errors import ConfigurationError
from engine.runs import starts
from engine.runs.clean import freeing
from engine.runs.clean.clean_plan import CleanRules
from engine.runs.clean.cleaning import plan_clean
from engine.runs.clean.freeing import carry_out
from engine.runs.inventory import take_inventory
from engine.stages.owner import this_process
from engine.storage.location import join, list_files
from engine.storage.places import runs_folder
from engine.storage.records import write_record
from tests.helpers.runs.tiny_stores import add_run, add_stage

AT_ONCE = {"grace_seconds": 0.0}


class KilledError(BaseException):
    """What a signal would be."""


def begun(store, word, *used, owner, **more):
    """A run that was started by a process, and holds the lease of no stage."""
    name = add_run(store, word, *used)
    started = datetime.now(UTC) - timedelta(hours=5)
    content = starts.Start(started=started, owner=owner, **more).model_dump(mode="json")
    write_record(join(runs_folder(store), name, "starts", "0" * 32 + ".json"), content)
    return name


@pytest.mark.parametrize("rules", [{"keep": 0}, {"older_than_seconds": 0.0}])
def test_a_run_between_two_stages_is_at_work(rules, store):
    """It loads its data for minutes, and holds no lease; its process can be asked for."""
    stage = add_stage(store, "train", "used")
    name = begun(store, "loading", stage, owner=this_process())

    plan = plan_clean(store, CleanRules(**rules, **AT_ONCE))

    assert plan.report.freed == []
    assert plan.report.kept_runs == [name]


def test_a_run_that_is_carried_out_is_not_freed_by_its_name(store):
    """The message names the process that has to be stopped first."""
    name = begun(store, "loading", owner=this_process())

    with pytest.raises(ConfigurationError, match=f"process {this_process().pid} .*Stop that"):
        plan_clean(store, CleanRules(runs=[name], **AT_ONCE))


@pytest.mark.parametrize("end", ["killed", "said so"])
def test_a_run_whose_process_is_gone_is_freed(end, store):
    """Nobody has to wait for it."""
    owner = this_process()
    if end == "killed":
        name = begun(store, "gone", owner=owner.model_copy(update={"pid": 2**22 - 1}))
    else:
        name = begun(store, "gone", owner=owner, stopped=datetime.now(UTC))

    carry_out(plan_clean(store, CleanRules(runs=[name], **AT_ONCE)))

    assert take_inventory(store).runs == []


@pytest.mark.parametrize("calls", range(12))
def test_a_clean_that_is_killed_is_completed_by_the_next_one(calls, store, monkeypatch):
    """Whatever was deleted by then, the rest is still known for the engine's."""
    used = [add_stage(store, kind, kind) for kind in ("initial", "train")]
    name = add_run(store, "going", *used, keeps=used)
    for file in ("budget.json", "report.html", "selection.csv"):
        write_record(join(runs_folder(store), name, file), {})
    remove, done = freeing.remove_files, []

    def remove_until_killed(url, paths):
        for path in paths:
            if len(done) == calls:
                raise KilledError
            done.append(path)
            remove(url, [path])

    monkeypatch.setattr(freeing, "remove_files", remove_until_killed)
    with pytest.raises(KilledError):
        carry_out(plan_clean(store, CleanRules(keep=0, **AT_ONCE)))
    monkeypatch.undo()

    carry_out(plan_clean(store, CleanRules(keep=0, **AT_ONCE)))

    found = take_inventory(store)
    assert (found.runs, found.stages, found.foreign) == ([], {}, [])
    assert list_files(join(runs_folder(store), name)) == []
