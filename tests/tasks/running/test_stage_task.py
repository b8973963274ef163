"""Tasks of stages: made from the engine's, and able to travel."""

import inspect
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import cloudpickle
import pytest
from prefect import Task
from prefect.cache_policies import NO_CACHE

import engine
import tasks
from engine.errors import ConfigurationError
from engine.stages.keys import engine_version
from engine.storage.names import STAGE_KINDS
from tasks import training
from tasks.running.stage_task import ENGINE, stage_name, stage_of
from tests.helpers.runs.every_stage import ROOT, every_stage
from tests.helpers.runs.tiny_recipe import small

MODULES = [import_module(f"tasks.{each.name}") for each in pkgutil.iter_modules(tasks.__path__)]
FOUND = {
    (module.__name__, name): value
    for module in MODULES
    for name, value in vars(module).items()
    if isinstance(value, Task) and stage_of(value) is not None
}
named = pytest.mark.parametrize("place", sorted(FOUND), ids=".".join)


def test_every_stage_has_one_task():
    """A stage without one cannot be a part of a flow."""
    assert sorted(stage_name(each) for each in FOUND.values()) == sorted(STAGE_KINDS)


@pytest.mark.slow
@named
def test_a_task_says_what_its_stage_says(place):
    """Name, words and parameters come from the engine; JSON takes the place of the run."""
    made, stage = FOUND[place], stage_of(FOUND[place])
    taken = list(inspect.signature(made.fn).parameters.values())

    assert stage is every_stage()[stage.name]
    assert made.name == place[1] == stage.compute.__name__
    assert made.description == inspect.getdoc(stage.compute)
    assert [each.name for each in taken[:2]] == ["recipe", "store"]
    assert taken[2:-1] == list(inspect.signature(stage.compute).parameters.values())[1:]
    assert (taken[-1].name, taken[-1].default) == (ENGINE, "")


def test_a_worker_with_another_engine_refuses_before_it_looks_into_the_store(tmp_path):
    """Its stages would lie under keys of their own, made by rules that may be others."""
    recipe, store = small(), str(tmp_path / "store")

    with pytest.raises(ConfigurationError) as caught:
        training.initial_value.fn(recipe, store, engine="0123456789abcdef")

    assert str(Path(engine.__file__).parent) in str(caught.value)
    assert "has the digest " + engine_version() in str(caught.value)
    assert "0123456789abcdef" in str(caught.value)
    assert not (tmp_path / "store").exists()


@named
def test_a_task_is_tried_again_and_keeps_no_result(place):
    """What is committed is found by the engine; Prefect's own records would be code to run."""
    made = FOUND[place]

    assert (made.retries, made.persist_result, made.cache_policy) == (6, False, NO_CACHE)


def test_tasks_have_keys_of_their_own():
    """Prefect tells tasks apart by them, also where all are made by one function."""
    assert len({each.task_key for each in FOUND.values()}) == len(FOUND)


@pytest.mark.slow
def test_tasks_travel_to_a_process_that_has_loaded_nothing(tmp_path):
    """Dask and Ray hand a task to a worker as it is pickled here; the worker imports the rest."""
    (tmp_path / "tasks").write_bytes(cloudpickle.dumps([FOUND[place] for place in sorted(FOUND)]))
    code = """
import sys, pickle
made = pickle.load(open(sys.argv[1], "rb"))
from engine.stages.stage import STAGES
print(*(each.fn.stage.name for each in made if each.fn.stage is STAGES[each.fn.stage.name]))
"""

    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "tasks")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert run.stdout.split() == [stage_name(FOUND[place]) for place in sorted(FOUND)]
