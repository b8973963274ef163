"""What a clean makes of source that runs keep in a store."""

import time

import pytest

from engine.problems.kept_code import code_key
from engine.runs.clean import freeing
from engine.runs.clean.clean_plan import CleanRules
from engine.runs.clean.cleaning import plan_clean
from engine.runs.clean.freeing import carry_out
from engine.storage.location import join, list_files
from engine.storage.names import kept_code
from engine.storage.places import code_folder, deployed_code_url, kept_code_url, run_file
from engine.storage.records import write_bytes, write_record
from tests.helpers.runs.tiny_stores import add_run, add_stage, named

NO_GRACE = CleanRules(grace_seconds=0)
SOURCE = {"mine.py": "0" * 32}


def keep_source(store, code, *, deployed=False):
    """Keep source as the start of a run does; return the digest that it is named by."""
    name = code_key(code)
    write_record(kept_code_url(store, name), {"files": {each: "x = 1" for each in code}})
    if deployed:
        write_record(deployed_code_url(store, name), {})
    return name


def kept_sources(store):
    return {name for name, _ in map(kept_code, list_files(code_folder(store)))}


def test_source_that_no_run_names_goes(store):
    """Each edit of a problem leaves another one in the store."""
    used, old = keep_source(store, SOURCE), keep_source(store, {"mine.py": "1" * 32})
    name = add_run(store, "run", add_stage(store, "train", "a"))
    write_record(run_file(store, name, "recipe.json"), {"name": "run", "code": SOURCE})
    write_record(join(store, "code", "notes.json"), {})

    assert plan_clean(store, CleanRules()).report.freed == []  # all is new
    report = carry_out(plan_clean(store, NO_GRACE))

    assert [(each.what, each.name) for each in report.freed] == [("source", old)]
    assert list_files(code_folder(store)) == sorted([f"{used}.json", "notes.json"])
    assert report.left == ["code/notes.json"]


def test_source_goes_with_the_last_run_that_names_it(store):
    """It may be named by several runs, which differ in settings only."""
    keep_source(store, SOURCE)
    for word in ("one", "other"):
        name = add_run(store, word, add_stage(store, "train", word))
        write_record(run_file(store, name, "recipe.json"), {"name": word, "code": SOURCE})

    first = carry_out(plan_clean(store, CleanRules(runs=[named("one")], grace_seconds=0)))
    assert not [each for each in first.freed if each.what == "source"]
    last = carry_out(plan_clean(store, CleanRules(runs=[named("other")], grace_seconds=0)))

    (source,) = [each for each in last.freed if each.what == "source"]
    assert source.runs == [named("other")]
    assert not kept_sources(store)


def test_source_of_a_deployment_and_of_a_run_in_doubt_stays(store):
    """Nothing in a store says which deployments there are; a damaged recipe may name any source."""
    deployed = keep_source(store, SOURCE, deployed=True)
    carry_out(plan_clean(store, NO_GRACE))
    assert kept_sources(store) == {deployed}

    other = keep_source(store, {"mine.py": "1" * 32})
    name = add_run(store, "run", add_stage(store, "train", "a"))
    write_bytes(run_file(store, name, "recipe.json"), b"{damaged")
    carry_out(plan_clean(store, NO_GRACE))

    assert kept_sources(store) == {deployed, other}


@pytest.mark.parametrize("way", ["kept anew", "named"])
def test_source_of_a_run_that_starts_during_a_clean_is_there_afterwards(store, way, monkeypatch):
    """Whatever the order of the two: before the source is taken away, or just after it."""
    name = keep_source(store, SOURCE)
    plan = plan_clean(store, NO_GRACE)

    def start():
        run = add_run(store, "new", add_stage(store, "train", "a"))
        write_record(run_file(store, run, "recipe.json"), {"name": "new", "code": SOURCE})

    if way == "kept anew":
        time.sleep(0.01)
        keep_source(store, SOURCE)
        start()
    else:
        remove = freeing.remove_files

        def removed_while_a_run_starts(*given):
            if "/code" in given[0]:
                start()  # its machine has not the files, so it keeps nothing itself
            remove(*given)

        monkeypatch.setattr(freeing, "remove_files", removed_while_a_run_starts)
    report = carry_out(plan)

    assert kept_sources(store) == {name}
    assert not [each for each in report.freed if each.what == "source"]
