"""Declarations of stages: what a key is made of follows from the parameters of the function."""

import ast
import inspect
import pickle
import re
import textwrap

import pytest
import torch

from engine.errors import ConfigurationError
from engine.recipes.training import Retraining
from engine.stages import commits, keys
from engine.stages import stage as declarations
from engine.stages.references import Ref
from engine.stages.run import Run
from engine.stages.stage import stage
from engine.storage.names import STAGE_KINDS
from tests.helpers.runs.every_stage import every_stage
from tests.helpers.runs.tiny_stages import recipe


@pytest.fixture(autouse=True)
def own_stages(monkeypatch):
    """Stages of these tests are not those of the engine."""
    monkeypatch.setattr(declarations, "STAGES", {**declarations.STAGES})


@pytest.fixture
def run(tmp_path):
    return Run(recipe(), str(tmp_path))


def test_a_new_parameter_is_a_part_of_the_key(run):
    """Whoever adds an input can forget nothing: another value of it must not find the old bits."""

    def before():
        @stage("some")
        def some(run: Run, one: int):
            return {}, {}

        return some.key(run, 1)

    @stage("some-more")
    def some_more(run: Run, one: int, two: int = 0):
        return {}, {}

    keys = {some_more.key(run, 1), some_more.key(run, 1, 1), some_more.key(run, 2)}

    assert len({before(), *keys}) == 4
    assert some_more.key(run, 1) == some_more.key(run, one=1, two=0)


def test_what_only_costs_is_no_part_of_the_key(run):
    """States that another worker has made are the same bits, so the stage is found again."""

    @stage("some", cost_only={"ahead"})
    def some(run: Run, one: int, *, ahead: Ref | None = None):
        return {}, {"one": one}

    ref = Ref(stage="train", key="a" * 32, content="b" * 16)

    assert some.key(run, 1) == some.key(run, 1, ahead=ref)
    assert some.input_names == ["one"]
    assert commits.read_inputs(run.store, some(run, 1, ahead=ref)) == {"one": 1}


def test_a_stage_is_made_once_and_found_again(run):
    """The function computes; to call the stage is to ask for what it makes."""
    made = []

    @stage("some")
    def some(run: Run, one: int):
        made.append(one)
        return {"row": torch.full((3,), float(one))}, {"one": one}

    first, again, other = some(run, 1), some(run, one=1), some(run, 2)

    assert made == [1, 2]
    assert first == again != other
    assert some.committed(run, 1) == first
    assert some.committed(run, 3) is None
    assert commits.read_rows(run.store, other)["row"].tolist() == [2.0, 2.0, 2.0]


def test_the_number_of_rows_follows_from_the_inputs(run):
    """The rows of a stage are laid out before the first of them is made."""

    @stage("some", num_rows=lambda number, **_: number)
    def some(run: Run, number: int):
        return ({"row": torch.full((2,), float(i))} for i in range(number)), {}

    ref = some(run, 3)

    assert len(commits.intact_record(commits.committed_folder(run.store, ref)).fingerprints) == 3


def test_a_second_stage_of_the_same_name_is_refused():
    """Each would find what the other has made, and take it for its own."""

    @stage("some")
    def some(run: Run):
        return {}, {}

    with pytest.raises(ConfigurationError, match="other is declared as the stage some, and"):

        @stage("some")
        def other(run: Run):
            return {}, {}

    assert declarations.STAGES["some"] is some


def test_a_module_that_is_loaded_again_declares_its_stages_again():
    """A notebook reloads what was edited."""
    declared = []
    for _ in range(2):

        @stage("some")
        def some(run: Run):
            return {}, {}

        declared.append(some)

    assert declarations.STAGES["some"] is declared[1]


@pytest.mark.parametrize(
    ("function", "cost_only", "words"),
    [
        (lambda: None, set(), "its first parameter is missing"),
        (lambda one: None, set(), "its first parameter is one"),
        (lambda run, *rest: None, set(), "rest stands for any number"),
        (lambda run, **rest: None, set(), "rest stands for any number"),
        (lambda run, one: None, {"two"}, "cost_only names two"),
        (lambda run, one: None, {"run"}, "cost_only names run"),
        (lambda run, store: None, set(), "it has a parameter store"),
    ],
)
def test_a_function_whose_inputs_cannot_be_named_is_refused(function, cost_only, words):
    """What is not bound to a name would be missing in the key."""
    with pytest.raises(ConfigurationError, match=f"cannot be the stage some: {words}"):
        stage("some", cost_only=cost_only)(function)


@pytest.mark.parametrize("name", ["Some", "some_more", "some-", "../some", "some\n", ""])
def test_a_name_that_is_no_folder_is_refused(name):
    """It is a folder of the store and a part of every record, after hours of computing."""
    with pytest.raises(ConfigurationError, match="small letters"):
        stage(name)(lambda run: ({}, {}))


def test_an_input_that_is_no_value_is_refused(run):
    """A tensor travels as the reference of the stage that made it, and a set has no order."""

    @stage("some")
    def some(run: Run, one: object):
        return {}, {}

    for value in (torch.ones(2), {"a", "b"}, [torch.ones(2)]):
        with pytest.raises(ConfigurationError, match=r"An input of a stage is a (Tensor|set)"):
            some.key(run, value)


def test_inputs_are_kept_as_they_are_digested(run):
    """Settings, references, names and lists of them are written as JSON, and read back alike."""

    @stage("some")
    def some(run: Run, one: object):
        return {}, {}

    ref = Ref(stage="train", key="a" * 32, content="b" * 16)
    value = [Retraining.LOOP, (ref, None), {"rate": 0.1}]

    made = some(run, value)

    kept = commits.read_inputs(run.store, made)["one"]
    assert kept == [Retraining.LOOP.value, [ref.model_dump(), None], {"rate": 0.1}]
    assert some.key(run, kept) == made.key


EVERY = every_stage()


def test_every_stage_is_declared_once_and_known_to_the_store():
    """A stage of a kind that is not in the list would never be freed, nor counted."""
    assert len(EVERY) > 20
    assert EVERY.keys() == STAGE_KINDS


@pytest.mark.parametrize("name", sorted(EVERY))
def test_inputs_are_all_parameters_but_those_that_only_cost(name):
    """Read from the source, with nothing of the decorator's."""
    made = EVERY[name]
    (function,) = ast.parse(textwrap.dedent(inspect.getsource(made.compute))).body
    arguments = function.args
    named = [each.arg for each in (*arguments.args, *arguments.kwonlyargs)]
    only_cost = {"trajectory"} if name == "reverse" else set()

    assert arguments.vararg is arguments.kwarg is None
    assert named[0] == "run"
    assert made.input_names == [each for each in named[1:] if each not in only_cost]
    assert made.cost_only == only_cost


@pytest.mark.parametrize("name", sorted(EVERY))
def test_every_parameter_is_read(name):
    """One that is not makes stages others for nothing, or stands for what is read elsewhere."""
    (function,) = ast.parse(textwrap.dedent(inspect.getsource(EVERY[name].compute))).body
    read = {
        node.id
        for statement in function.body
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }

    assert {*EVERY[name].signature.parameters} <= read


@pytest.mark.parametrize("name", sorted(EVERY))
def test_settings_that_are_read_are_in_the_key(name):
    """A setting that is left out of a key because it cannot change a state is not to be read."""
    made = EVERY[name]
    counted = {
        *(["replay"] if made.declared.reverses else []),
        *(["outer"] if made.declared.moves else []),
    }
    source = inspect.getsource(made.compute)

    read = {each for each in keys.NOT_INNER if re.search(rf"\brecipe\.{each}\b", source)}

    assert read <= counted


@pytest.mark.parametrize("name", sorted(EVERY))
def test_a_stage_travels_as_its_name(name):
    """A worker imports the engine; code that travels would not be the one that its key names."""
    assert pickle.loads(pickle.dumps(EVERY[name])) is EVERY[name]
