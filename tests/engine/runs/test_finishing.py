"""When a run is finished, what its record ends and counts, and what a repeated start changes."""

import os
import shutil
from datetime import UTC, datetime, timedelta

import pytest

from engine.errors import BudgetSpentError
from engine.recipes.descent import DescentRecipe
from engine.recipes.execution import BudgetSettings
from engine.reports.sections import Section
from engine.runs.budget import Budget
from engine.runs.clean.clean_plan import CleanRules
from engine.runs.clean.cleaning import plan_clean
from engine.runs.clean.freeing import carry_out
from engine.runs.endings import Ending
from engine.runs.finishing import finish
from engine.runs.growing import write_so_far
from engine.runs.inventory import stored_run, take_inventory
from engine.runs.overview import Standing, list_overviews, overview
from engine.runs.report import Report
from engine.runs.run import Stages
from engine.runs.starts import begin_start, own_start, read_starts
from engine.runs.store_mark import mark_store
from engine.stages.claims import claim, claim_url, read_claims
from engine.stages.references import Ref
from engine.storage.location import join
from engine.storage.places import stage_record_url
from engine.storage.records import read_bytes, read_record, write_bytes, write_record
from tests.helpers.runs.tiny_stores import hold, key, named
from tests.helpers.runs.toy_kind import Record

RUN = named("run")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Clock:
    """What time it is in a story."""

    def __init__(self):
        self.now = NOON

    def wait(self, seconds):
        """Let time pass."""
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock(monkeypatch):
    """A clock that finishing reads."""
    made = Clock()
    monkeypatch.setattr("engine.runs.finishing.datetime", _Fake(made))
    return made


class _Fake:
    def __init__(self, clock):
        self._clock = clock
        self.fromisoformat = datetime.fromisoformat

    def now(self, zone):
        return self._clock.now.astimezone(zone)


class Run:
    """One start of a run of two stages, on a clock of its own."""

    def __init__(self, store, clock):
        self.store, self.clock = store, clock
        self.began = clock.now
        mark_store(store)
        begin_start(store, RUN, clock.now)
        write_record(join(store, "runs", RUN, "recipe.json"), {"name": "run"})
        self.total = self.cached = 0

    def stage(self, kind, word, seconds=10.0, run=RUN):
        """Ask for a stage, and compute it if it is not there."""
        url = stage_record_url(self.store, kind, key(word))
        cached = read_bytes(url) is not None
        claim(self.store, RUN, kind, key(word), word, cached=cached)
        self.total += 1
        self.cached += cached
        if not cached:
            started = self.clock.now
            self.clock.wait(seconds)
            ref = {"stage": kind, "key": key(word), "content": "c"}
            made = {"started": started.isoformat(), "seconds": seconds, "bytes": 100, "run": run}
            write_record(url, {"ref": ref, "inputs": {}, "attempt": f"1-{self.clock.now}", **made})
        return Ref(stage=kind, key=key(word), content="c" * 16)

    def end(self, *results, **changes):
        """End the run, and return what it says."""
        record = Record(
            run=RUN,
            started=self.began.isoformat(),
            seconds=(self.clock.now - self.began).total_seconds(),
            stages=Stages(total=self.total, cached=self.cached),
            recipe=DescentRecipe(name="run"),
            kept=results,
            **changes,
        )
        return finish(self.store, record, self._report)

    def _report(self, record):
        text = f"took {record.seconds}, computing {record.ending.computing_seconds}"
        return Report("Six by nine", [Section(text)], files={"scores.csv": b"a"})


def whole(store, clock):
    """Start a run and let it end."""
    run = Run(store, clock)
    run.stage("initial", "z0")
    run.stage("train", "t0")
    return run.end()


def url(store, name="run.json"):
    return join(store, "runs", RUN, name)


def finished(store):
    return stored_run(store, RUN).finished


def test_run_says_what_it_ends_and_keeps(tmp_path, clock):
    """Whoever keeps house needs to know no more, whatever the kind of run."""
    store = str(tmp_path)
    run = Run(store, clock)
    run.stage("initial", "z0")
    run.stage("train", "spare")
    best = run.stage("train", "best")
    assert not finished(store)

    record = run.end(best)

    assert finished(store)
    assert Ending.model_validate(read_record(url(store))["ending"]) == record.ending
    assert record.ending.claims == sorted(each.token for each in read_claims(store, RUN))
    assert record.ending.keeps == sorted([f"initial/{key('z0')}", f"train/{key('best')}"])
    carry_out(plan_clean(store, CleanRules(intermediate=True, grace_seconds=0)))
    assert finished(store)
    assert read_bytes(stage_record_url(store, "train", key("spare"))) is None


def test_finished_depends_on_no_time(tmp_path, clock):
    """Notes, editors, copies without times and clocks that step change nothing of a result."""
    store = str(tmp_path / "store")
    whole(store, clock)

    write_bytes(url(store, "notes.md"), b"mine")
    assert finished(store)
    far = datetime(2030, 1, 1, tzinfo=UTC).timestamp()
    for name in ("report.html", "recipe.json", "run.json", f"stages/train-{key('t0')}.json"):
        for moment in (far, 0):
            os.utime(url(store, name), (moment, moment))
            assert finished(store)
    copy = str(tmp_path / "copy")
    shutil.copytree(store, copy, copy_function=shutil.copyfile)
    (moved,) = list_overviews(copy)
    assert moved.standing is Standing.FINISHED
    Run(store, clock).stage("train", "t0")
    os.utime(claim_url(store, RUN, "train", key("t0")), (0, 0))
    assert not finished(store)


def test_repeated_start_computes_nothing_and_changes_nothing(tmp_path, clock):
    """The report goes on saying what the run took, and not what looking it up took."""
    store = str(tmp_path)
    first = whole(store, clock)
    before, page = read_record(url(store)), read_bytes(url(store, "report.html"))
    clock.wait(3600)

    again = whole(store, clock)

    after = read_record(url(store))
    tokens = after["ending"].pop("claims")
    assert tokens != before["ending"].pop("claims")
    assert after.pop("seal") != before.pop("seal")  # of the tokens, too
    assert after == before
    assert read_bytes(url(store, "report.html")) == page
    assert b"took 20.0, computing 20.0" in page
    assert (again.seconds, again.started) == (first.seconds, first.started)
    assert again.stages == Stages(total=2, cached=2)
    assert again.nothing_computed
    assert not first.nothing_computed
    assert finished(store)
    assert not list((tmp_path / "runs" / RUN).glob("starts/*"))


@pytest.mark.slow
def test_lost_report_is_written_again(tmp_path, clock):
    """With the figures of the run, and not those of the start that wrote it."""
    store = str(tmp_path)
    whole(store, clock)
    os.remove(url(store, "report.html"))

    whole(store, clock)

    assert b"took 20.0, computing 20.0" in read_bytes(url(store, "report.html"))


def test_a_page_of_half_a_run_never_counts_as_the_report_of_a_finished_one(tmp_path, clock):
    """The record is written first; a kill before the page would leave the one that grew."""
    store = str(tmp_path)
    run = Run(store, clock)
    run.stage("initial", "z0")
    write_bytes(url(store, "report.html"), b"half a run")
    run._report = lambda record: 1 / 0

    with pytest.raises(ZeroDivisionError):
        run.end()
    again = Run(store, clock)
    again.stage("initial", "z0")
    again.end()

    assert b"computing 10.0" in read_bytes(url(store, "report.html"))


def test_a_page_that_grows_takes_the_place_of_no_finished_one(tmp_path, clock):
    """A later start of a finished run goes through the same iterates once more."""
    store = str(tmp_path)
    whole(store, clock)
    before = read_bytes(url(store, "report.html"))

    assert write_so_far(store, RUN, lambda: 1 / 0) is None

    assert read_bytes(url(store, "report.html")) == before


@pytest.mark.slow
def test_other_result_replaces_the_record(tmp_path, clock):
    """E.g. of a larger budget: nothing was computed, and the settings are others all the same."""
    store = str(tmp_path)
    whole(store, clock)
    run = Run(store, clock)
    run.stage("initial", "z0")
    run.stage("train", "t0")

    record = run.end(answer=43)

    assert read_record(url(store))["answer"] == 43
    assert (record.seconds, record.ending.starts) == (20.0, 1)


@pytest.mark.slow
def test_all_starts_are_counted(tmp_path, clock):
    """A killed start says nothing of its end; it lasted until the last stage that it committed."""
    store = str(tmp_path)
    Run(store, clock).stage("initial", "z0")  # 10 s, and killed
    clock.wait(1000)
    shown = overview(store, RUN).spent
    assert (shown.starts, shown.seconds, shown.computing_seconds) == (1, 10.0, 10.0)
    clock.wait(1000)
    Run(store, clock)  # killed before it did anything
    assert overview(store, RUN).spent == shown
    clock.wait(1000)

    record = whole(store, clock)

    assert record.started == NOON.isoformat()
    assert record.seconds == 20.0
    assert record.ending.computing_seconds == 20.0
    assert record.ending.starts == 2
    assert overview(store, RUN).spent.model_dump() == {
        "starts": 2,
        "started": NOON.isoformat(),
        "seconds": 20.0,
        "computing_seconds": 20.0,
    }
    os.remove(stage_record_url(store, "train", key("t0")))
    clock.wait(1000)
    more = whole(store, clock)
    assert (more.seconds, more.ending.computing_seconds, more.ending.starts) == (30.0, 30.0, 3)


def test_start_of_another_process_at_the_same_instant_is_not_taken_for_an_older_one(
    tmp_path, clock
):
    """It is at work beside this one: its file says so, and goes when it ends."""
    store = str(tmp_path)
    begin_start(store, RUN, clock.now)  # the other one's file stays, this process makes its own
    other = own_start(store, RUN)

    record = whole(store, clock)

    assert list(read_starts(store, RUN)) == [other.file]
    assert record.ending.starts == 1
    clock.wait(10)
    whole(store, clock)
    assert read_starts(store, RUN) == {}


def test_stages_of_other_runs_are_not_its_computing(tmp_path, clock):
    """They were paid for by whoever computed them."""
    store = str(tmp_path)
    run = Run(store, clock)
    run.stage("initial", "z0", run=named("other"))
    run.stage("train", "t0")

    assert run.end().ending.computing_seconds == 10.0


def test_clock_that_steps_back_makes_no_negative_time(tmp_path, clock):
    """A machine whose clock is set while a run goes on."""
    run = Run(str(tmp_path), clock)
    run.stage("initial", "z0")
    clock.wait(-7200)

    assert run.end().seconds == 0.0
    assert finished(str(tmp_path))


def change_engine(store, clock):
    """Start a finished run again after a change of the engine, which gives stages other keys."""
    whole(store, clock)
    run = Run(store, clock)
    run.stage("initial", "new-z0")
    run.stage("train", "new-t0")
    return run


@pytest.mark.slow
def test_engine_change_does_not_keep_both_sets(tmp_path, clock):
    """The old stages are found by no run any more, and would never be freed."""
    store = str(tmp_path)

    change_engine(store, clock).end()

    assert {each.key for each in read_claims(store, RUN)} == {key("new-z0"), key("new-t0")}
    carry_out(plan_clean(store, CleanRules(grace_seconds=0)))
    assert set(take_inventory(store).stages) == {
        ("initial", key("new-z0")),
        ("train", key("new-t0")),
    }


def test_bytes_of_older_stages_are_no_part_of_a_budget(tmp_path, clock):
    """A run that may take so much must not stop for what an older engine left."""
    store = str(tmp_path)
    whole(store, clock)
    budget = Budget(BudgetSettings(max_bytes=250), store, RUN)
    run = Run(store, clock)

    for word in ("new-z0", "new-t0"):
        budget.spend(run.stage("train", word), 1, 3)

    assert budget.spent.bytes == 200
    assert budget.spent.seconds == 40.0


def test_stages_of_another_run_spend_no_budget(tmp_path, clock):
    """What is found in the store was paid for; the next start counts what this one computed."""
    store = str(tmp_path)
    run = Run(store, clock)
    theirs = [run.stage("train", word, run=named("other")) for word in ("t0", "t1")]
    limits = BudgetSettings(max_seconds=15, max_bytes=150)

    budget = Budget(limits, store, RUN)
    for ref in theirs:
        budget.spend(ref, 1, 9)
    budget.spend(run.stage("train", "t2"), 3, 9)

    assert budget.spent.model_dump() == {"stages": 1, "seconds": 10.0, "bytes": 100}
    assert (again := Budget(limits, store, RUN)).spent.seconds == 10.0
    for word in ("t0", "t2"):
        again.spend(run.stage("train", word), 3, 9)
    with pytest.raises(BudgetSpentError, match=r"took 20\.0 s and .* take 200"):
        again.spend(run.stage("train", "t3"), 4, 9)


@pytest.mark.slow
def test_older_stages_stay_while_an_older_engine_is_at_work_on_them(tmp_path, clock):
    """Two versions may be at work on one run; neither may take the ground from under the other."""
    store = str(tmp_path)
    run = change_engine(store, clock)
    lease = hold(store, ("train", key("t0")))

    run.end()
    assert len(read_claims(store, RUN)) == 4

    os.remove(lease)
    whole(store, clock)
    assert {each.key for each in read_claims(store, RUN)} == {key("z0"), key("t0")}


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"ending": 3}', b'{"ending": {}}'])
def test_damaged_record_is_written_anew(tmp_path, clock, content):
    """And until then the run is one that can go on."""
    store = str(tmp_path)
    first = whole(store, clock)
    write_bytes(url(store), content)
    assert not finished(store)

    again = whole(store, clock)

    assert finished(store)
    assert again.ending.computing_seconds == first.ending.computing_seconds
