"""Keys: every input changes the names of what depends on it, and of nothing else."""

import inspect
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.numerics.fingerprint import fingerprint
from engine.problems import shipped
from engine.problems.built import build_problem
from engine.problems.data.splits import examples_fingerprint
from engine.problems.segments import segments
from engine.recipes.descent import DescentRecipe
from engine.recipes.files import load_recipe
from engine.recipes.settings import Settings
from engine.recipes.training import TrainingSettings
from engine.stages import keys, run, training
from engine.stages.references import Ref
from engine.stages.run import Run

TINY = load_recipe(
    "digits-selection",
    [
        "arguments.num_train=20",
        "arguments.num_objective=10",
        "arguments.num_validation=10",
        "arguments.num_test=10",
        "training.num_steps=6",
        "training.threads=1",
        "metaparameters.injection_step=2",
        "replay.steps_per_segment=2",
        "outer.num_steps=2",
    ],
)

STAGES = {
    each.name: each
    for each in (
        *(training.initial_value, training.train_segment, training.evaluate),
        *(training.seed, training.reverse_segment, training.update),
    )
}

INNER = {
    ("arguments", "seed"): 1,
    ("arguments", "num_train"): 21,
    ("arguments", "flip_fraction"): 0.5,
    ("arguments", "model", "width"): 6,
    ("optimizer", "momentum"): 0.8,
    ("training", "learning_rate"): 0.03,
    ("training", "seed"): 1,
    ("training", "dtype"): "float64",
    ("training", "skip_idle"): True,
    ("training", "threads"): 2,
    ("training", "batch_size"): 7,
    ("metaparameters", "injection_step"): 4,
}
OUTER = {
    ("outer", "step_size"): 0.5,
    ("outer", "step_decay"): 0.5,
    ("outer", "probability"): 0.5,
    ("outer", "update"): "sign",
    ("outer", "maximize"): True,
    ("outer", "seed"): 3,
}
COST = {
    ("outer", "num_steps"): 9,
    ("outer", "choose_by"): "accuracy",
    ("outer", "choose"): "lowest",
    ("replay", "arity"): 7,
    ("replay", "schedule"): "store-all",
    ("budget", "max_seconds"): 5,
    ("workers", "lookahead"): 3,
    ("workers", "runner"): "dask",
}


def changed(recipe, changes):
    content = recipe.model_dump(mode="json")
    for (*groups, name), value in changes.items():
        place = content
        for group in groups:
            place = place[group]
        place[name] = value
    return DescentRecipe.model_validate(content)


def chain(recipe, contents=None, borders=None):
    """Return the key of each stage of two outer steps, by name, as a run would ask for it.

    Args:
        recipe: The set-up.
        contents: What some stages made, by name; the others make what their key says.
        borders: Segments; those of the recipe by default.
    """
    contents, found = contents or {}, {}

    def made(name, **inputs):
        stage = STAGES[name.split()[0]]
        key = stage.key(Run(recipe, ""), **inputs)
        found[name] = key
        return Ref(stage=stage.name, key=key, content=contents.get(name, key[:16]))

    value = made("initial 0")
    for outer in range(2):
        states = [None]
        parts = borders or segments(recipe)
        for index, part in enumerate(parts):
            name = f"train {outer} {index}"
            states.append(made(name, segment=part, value=value, start=states[-1]))
        adjoint = made(f"seed {outer}", value=value, final=states[-1])
        made(f"evaluate {outer}", final=states[-1])
        for index in range(len(parts) - 1, 0, -1):
            adjoint = made(
                f"reverse {outer} {index}",
                segment=parts[index],
                value=value,
                start=states[index],
                end=states[index + 1],
                adjoint=adjoint,
            )
        value = made(f"update {outer}", outer_step=outer, value=value, gradient=adjoint)
    return found


def differing(one, other):
    assert one.keys() == other.keys()
    return {name for name in one if one[name] != other[name]}


BEFORE = chain(TINY)
ALL = set(BEFORE)
AFTER_UPDATE = {"update 0", "update 1"} | {name for name in ALL if name.split()[1] == "1"}


@pytest.mark.slow
@settings(max_examples=12)
@given(st.dictionaries(st.sampled_from(sorted(INNER)), st.none(), min_size=1, max_size=3))
def test_inner_settings_rename_every_stage(chosen):
    """A changed seed, rate, format or number of threads makes all states others."""
    recipe = changed(TINY, {name: INNER[name] for name in chosen})

    assert differing(chain(recipe, borders=segments(TINY)), BEFORE) == ALL


@pytest.mark.slow
@settings(max_examples=8)
@given(st.dictionaries(st.sampled_from(sorted(OUTER)), st.none(), min_size=1, max_size=3))
def test_outer_settings_rename_the_updates_and_what_follows_them(chosen):
    """Training and reversal before the first update have never heard of the outer descent."""
    recipe = changed(TINY, {name: OUTER[name] for name in chosen})

    assert differing(chain(recipe), BEFORE) == AFTER_UPDATE


@pytest.mark.slow
@settings(max_examples=8)
@given(st.dictionaries(st.sampled_from(sorted(COST)), st.none(), min_size=1, max_size=4))
def test_settings_of_cost_rename_nothing(chosen):
    """More memory, more workers, more money or one more outer step find all the work done."""
    recipe = changed(TINY, {name: COST[name] for name in chosen})

    assert differing(chain(recipe), BEFORE) == set()


@pytest.mark.slow
@settings(max_examples=30)
@given(st.sampled_from(sorted(ALL)))
def test_other_bits_of_a_stage_rename_what_depends_on_it(name):
    """The keys downstream are found by following the inputs, and compared with those that moved."""
    after = differing(chain(TINY, {name: "f" * 16}), BEFORE)

    assert after == downstream(name)


def downstream(name):
    """Return the stages that depend on one, from the order of a descent and not from its keys."""
    stage, outer, *index = name.split()
    later = {other for other in ALL if int(other.split()[1]) > int(outer)}
    update = {f"update {outer}"} | later
    reverse = {f"reverse {outer} {number}" for number in (1, 2)}
    if stage == "initial":
        return ALL - {name}
    if stage == "update":
        return later | ({"update 1"} if outer == "0" else set())
    if stage == "evaluate":
        return set()
    if stage == "seed":
        return reverse | update
    number = int(index[0])
    if stage == "reverse":
        return {f"reverse {outer} {other}" for other in range(1, number)} | update
    trained = {f"train {outer} {other}" for other in range(number + 1, 3)}
    return trained | {f"seed {outer}", f"evaluate {outer}"} | reverse | update


def test_segment_border_renames_what_comes_after_it():
    """The segments before a border that moved are the same work."""
    first, second, third = segments(TINY)
    moved = [
        first,
        second.model_copy(update={"stop": second.stop + 1}),
        third.model_copy(update={"start": third.start + 1}),
    ]

    assert differing(chain(TINY, borders=moved), BEFORE) == ALL - {"initial 0", "train 0 0"}


def test_one_label_renames_every_stage(monkeypatch):
    """Data are known by their bits, whatever the recipe calls them."""
    problem = build_problem(TINY)
    splits = dict(problem.data.splits)
    labels = splits["train"].labels.clone()
    labels[7] = (labels[7] + 1) % 10
    splits["train"] = replace(splits["train"], labels=labels)
    assert fingerprint(labels) != fingerprint(problem.data.splits["train"].labels)
    data = replace(problem.data, splits=splits, fingerprint=examples_fingerprint(splits))
    monkeypatch.setattr(run, "build_problem", lambda recipe, store: replace(problem, data=data))

    assert differing(chain(TINY), BEFORE) == ALL


@pytest.mark.parametrize(
    ("name", "other"), [("engine_version", "other"), ("environment", {"torch": "other"})]
)
def test_engine_and_environment_rename_every_stage(name, other, monkeypatch):
    """Other code or another torch may have other bits."""
    monkeypatch.setattr(keys, name, lambda *arguments: other)

    assert differing(chain(TINY), BEFORE) == ALL


class NextTraining(TrainingSettings):
    """Next year's settings of training."""

    clip_norm: float = 1.0
    """Added later."""


def next_digits(**arguments):
    """Next year's problem, with one more argument."""


old = inspect.signature(shipped.digits)
added = inspect.Parameter("language", inspect.Parameter.KEYWORD_ONLY, default="en", annotation=str)
next_digits.__signature__ = old.replace(parameters=[*old.parameters.values(), added])


class Extra(Settings):
    """A group that does not exist yet."""

    strength: float = 1.0
    """Added later."""


class NextRecipe(DescentRecipe):
    """Next year's recipe."""

    training: NextTraining = NextTraining()
    """With one more field."""

    regularizer: Extra = Extra()
    """A new group."""


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("training", "clip_norm", 2.0),
        ("arguments", "language", "de"),
        ("regularizer", "strength", 2.0),
    ],
)
def test_field_that_does_not_exist_yet_renames_every_stage(group, name, value, monkeypatch):
    """Whoever adds a setting and forgets the cache must not get the old numbers."""
    problem = build_problem(TINY)
    monkeypatch.setattr(run, "build_problem", lambda recipe, store: problem)
    monkeypatch.setattr(shipped, "digits", next_digits)
    content = TINY.model_dump(mode="json")
    now = chain(NextRecipe.model_validate(content), borders=segments(TINY))
    content.setdefault(group, {})[name] = value

    later = chain(NextRecipe.model_validate(content), borders=segments(TINY))

    assert differing(later, now) == ALL


@given(st.integers(0, 19), st.sampled_from([2**-20, -1.0, 1.0]))
@settings(max_examples=20)
def test_one_value_of_z_is_another_reference(index, change):
    """Z travels by reference, so the reference must tell any two apart."""
    value = torch.ones(20)
    moved = value.clone()
    moved[index] += change

    assert fingerprint(moved) != fingerprint(value)
    after = differing(chain(TINY, {"update 0": fingerprint(moved)[:16]}), BEFORE)
    assert after == downstream("update 0")
