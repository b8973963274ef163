"""What a look at a run reads, and what it says of a store with damage."""

import os
import sys
from datetime import UTC, datetime

import pytest

from engine.errors import EngineError
from engine.recipes.files import load_recipe
from engine.runs import inventory, overview
from engine.runs.overview import Standing, describe, list_overviews
from engine.runs.run import note_parts
from engine.runs.starts import begin_start, read_starts
from engine.runs.store_mark import mark_store
from engine.stages.claims import claim_url
from engine.stages.owner import this_process
from engine.storage.location import join
from engine.storage.places import stage_record_url
from engine.storage.records import read_record, write_bytes, write_record
from tests.helpers.runs.tiny_stores import add_descent, add_run, add_stage, named


@pytest.fixture
def store(tmp_path):
    """A store of two runs that share z_0."""
    place = str(tmp_path)
    mark_store(place)
    add_descent(place, "one")
    add_descent(place, "other")
    return place


def test_a_look_at_one_run_reads_no_other(store, monkeypatch):
    """In a store of 200 runs all others would be read for nothing."""
    seen = []
    tree, records = inventory.list_tree, inventory.read_records

    def noted(call):
        def note(asked, **options):
            seen.extend([asked] if isinstance(asked, str) else asked)
            return call(asked, **options)

        return note

    monkeypatch.setattr(inventory, "list_tree", noted(tree))
    monkeypatch.setattr(inventory, "read_records", noted(records))
    monkeypatch.setattr(overview, "read_records", noted(records))

    view, record = describe(store, named("one"))

    own = {f"{each.stage}/{each.key}" for each in view.stages}
    assert view.standing is Standing.FINISHED
    assert record is not None
    assert len(own) == 10
    for url in seen:
        rest = url.removeprefix(f"{store}/")
        where = rest.split("/")
        assert named("one") in where or "/".join(where[1:3]) in own, rest
    assert view.totals.attempts == 0
    assert view.totals.bytes == sum(line.bytes for line in view.stages) > 0


def test_both_ways_of_looking_agree(store):
    """The list reads all runs at once, the view of a run only that one."""
    add_run(store, "unfinished", add_stage(store, "train", "more"))

    for line in list_overviews(store):
        view = describe(store, line.run)[0]
        assert (view.standing, view.active, len(view.stages)) == (
            line.standing,
            line.active,
            line.stages,
        )


DAMAGE = [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b"{}", b"[" * 100]
WRONG = b'{"seconds": "x", "bytes": [], "environment": 3, "run": {}, "inputs": 3, "ref": []}'


@pytest.mark.parametrize("content", [*DAMAGE, WRONG])
def test_damage_of_any_document_is_survived(store, content):
    """Of one bad file in a store, or one of another version, only its own run may suffer."""
    (stage,) = (each for each in describe(store, named("one"))[0].stages if each.stage == "seed")
    name = stage.stage, stage.key
    run = join(store, "runs", named("one"))
    places = [
        stage_record_url(store, *name),
        claim_url(store, named("one"), *name),
        *(join(run, each) for each in ("recipe.json", "run.json", "budget.json", "plan.json")),
        join(run, "parts.json"),
        join(run, "starts", "a" * 32 + ".json"),
        join(store, "stages", *name, "leases", "00000001.json"),
    ]
    for place in places:
        write_bytes(place, content)

    assert {line.run for line in list_overviews(store)} == {named("one"), named("other")}
    try:
        view, _ = describe(store, named("one"))
    except EngineError:
        return
    assert len(view.stages) == 10


def start(store, run, number, day, **ended):
    """Leave the file of a start."""
    content = {"started": f"2026-01-0{day}T12:00:00+00:00", **ended}
    write_record(join(store, "runs", run, "starts", f"{number * 32}.json"), content)


STOPPED = {
    "stopped": "2026-01-02T12:30:00+00:00",
    "cause": "The loss of step 3 is not finite.",
    "refused": False,
}


@pytest.mark.parametrize(
    ("ended", "again", "said"),
    [
        (STOPPED, False, "It stopped before its end, at 2026-01-02 12:30 UTC. The loss of step 3"),
        (STOPPED | {"refused": True}, False, "It was refused, at 2026-01-02 12:30 UTC. The loss"),
        (STOPPED, True, ""),
        ({}, False, ""),
        ({"stopped": "yesterday"}, False, ""),
    ],
)
def test_the_last_start_of_an_unfinished_run_says_how_it_ended(store, ended, again, said):
    """A run that diverged before anything was committed was `unfinished`, and nothing else."""
    run = named("begun")
    add_run(store, "begun", add_stage(store, "train", "some"))
    start(store, run, "a", 1)
    start(store, run, "b", 2, **ended)
    if again:
        start(store, run, "c", 3)

    (line,) = (each for each in list_overviews(store) if each.run == run)

    assert line.stopped == describe(store, run)[0].stopped
    assert line.stopped.startswith(said)
    assert bool(line.stopped) is bool(said)


HERE = this_process().model_dump()
GONE = {**HERE, "pid": 2**22 - 1}


@pytest.mark.parametrize(
    ("owner", "stopped", "goes_on"),
    [
        (GONE, "It was killed: process 4194303, which began at 2026-01-01 12:00 UTC, is gone", ""),
        ({**HERE, "start": 1}, "It was killed: process", ""),
        (HERE, "", f"It is at work, in process {os.getpid()} since 2026-01-01 12:00 UTC."),
        ({**GONE, "machine": "another"}, "", "Its last start, at 2026-01-01 12:00 UTC, left no"),
        (None, "", "Its last start, at 2026-01-01 12:00 UTC, left no"),
    ],
    ids=["gone", "number-used-again", "at-work", "elsewhere", "unknown"],
)
def test_a_start_that_says_nothing_more_is_asked_for(store, owner, stopped, goes_on):
    """One that was killed before its first stage left nothing at all, as if nobody had begun."""
    run = named("begun")
    add_run(store, "begun")
    start(store, run, "a", 1, owner=owner)

    view = describe(store, run)[0]
    (line,) = (each for each in list_overviews(store) if each.run == run)

    assert (line.stopped, line.goes_on) == (view.stopped, view.goes_on)
    for said, begin in ((view.stopped, stopped), (view.goes_on, goes_on)):
        assert said.startswith(begin)
        assert bool(said) is bool(begin)


def test_a_run_that_begins_notes_its_process(tmp_path):
    """Whoever looks at it can ask for it."""
    store = str(tmp_path)
    begin_start(store, named("begun"), datetime.now(UTC))

    (start_of,) = read_starts(store, named("begun")).values()

    assert start_of.owner == this_process()
    assert start_of.goes_on().startswith(f"It is at work, in process {os.getpid()}")


def test_a_finished_run_has_not_stopped(store):
    """Whatever an earlier start of it said."""
    start(store, named("one"), "a", 1, **STOPPED)

    assert describe(store, named("one"))[0].stopped == ""


def test_parts_are_told_by_the_run_that_they_are_parts_of(store):
    """Forty rows of a search stood beside the three runs that somebody had started."""
    whole = named("search")
    add_run(store, "search", add_stage(store, "train", "some"))
    parts = {named("other"): "activation gelu", named("missing"): "activation tanh", "../x": "no"}
    note_parts(store, whole, parts)

    lines = {each.run: each for each in list_overviews(store)}

    assert lines[named("other")].part_of == [whole]
    assert lines[named("one")].part_of == lines[whole].part_of == []
    assert {name: each.parts for name, each in lines.items()} == {
        whole: 1, named("other"): 0, named("one"): 0,
    }  # fmt: skip
    (part,) = describe(store, whole)[0].parts
    assert (part.run, part.part, part.standing) == (
        named("other"), "activation gelu", Standing.FINISHED,
    )  # fmt: skip


def part_of(store):
    return {each.run: sorted(each.part_of) for each in list_overviews(store)}


def test_runs_that_are_parts_of_one_another_are_listed(store):
    """A list leaves parts out: of two that name each other it would show none."""
    one, other, third = named("one"), named("other"), add_run(store, "third")
    note_parts(store, one, {other: "a part", one: "itself"})
    note_parts(store, other, {one: "a part", third: "a part"})

    assert part_of(store) == {
        one: [], other: [], third: [],
    }  # fmt: skip
    top = add_run(store, "top")
    note_parts(store, top, {one: "a part"})
    assert part_of(store) == {
        one: sorted([other, top]), other: [one], third: [other], top: [],
    }  # fmt: skip


def test_what_a_store_says_of_starts_and_parts_is_cut_off(store):
    """A megabyte in either is pages on the terminal, of a list as well."""
    unfinished = add_run(store, "stopped", add_stage(store, "train", "some"))
    start(store, unfinished, "a", 1, **(STOPPED | {"cause": "y " * 400_000}))
    note_parts(store, unfinished, {named("other"): "x" * 400_000})

    view, _ = describe(store, unfinished)
    lines = {each.run: each for each in list_overviews(store)}

    assert len(view.stopped) < 4100
    assert lines[unfinished].stopped == view.stopped
    assert [len(each.part) for each in view.parts] == [200]


def test_seconds_beyond_all_numbers_are_added_up(store):
    """Each is a number, and their sum is none that a document can hold."""
    run = named("one")
    for stage in describe(store, run)[0].stages:
        url = stage_record_url(store, stage.stage, stage.key)
        write_record(url, read_record(url) | {"seconds": 1.7e308})

    view, _ = describe(store, run)

    assert overview.total(view.stages).seconds == sys.float_info.max


def test_runs_of_an_own_recipe_are_told_apart_by_what_differs(tmp_path):
    """Nothing of their recipe ships, and a digest tells nobody which one had the other rate."""
    contents = [
        {"kind": "descent", "name": "flowers", "training": {"learning_rate": rate, "num_steps": 9}}
        for rate in (0.05, 0.02)
    ]
    shipped = load_recipe("digits-selection", ["outer.num_steps=3"]).model_dump(mode="json")
    alone = {"kind": "descent", "name": "trees", "training": {"learning_rate": 0.1}}

    said = overview._changes([contents[0], shipped, contents[1], alone, {}])

    assert said == [
        "training.learning_rate=0.05",
        "outer.num_steps=3",
        "training.learning_rate=0.02",
        "",
        "",
    ]
