"""Keys of one stage, setting by setting; what depends on a stage is in ``test_keys.py``."""

from dataclasses import replace

import pytest

from engine.problems.built import build_problem
from engine.schedules.segments import Segment
from engine.stages import keys, run
from engine.stages import training as stages
from engine.stages.references import Ref
from engine.stages.run import Run
from tests.helpers.runs.tiny_stages import kind, recipe


def train_key(tiny, **inputs):
    given = {"segment": Segment(start=0, stop=4), "value": None, "start": None}
    return stages.train_segment.key(Run(tiny, ""), **given | inputs)


def key(stage, tiny):
    return keys.stage_key(stage.declared, Run(tiny, ""), {})


INNER = [
    ("arguments", "num_train", 61),
    ("arguments", "num_objective", 31),
    ("arguments", "num_validation", 11),
    ("arguments", "num_test", 11),
    ("arguments", "flip_fraction", 0.1),
    ("arguments", "seed", 1),
    ("arguments", "model", "name", "resnet"),
    ("arguments", "model", "width", 6),
    ("arguments", "model", "depth", 2),
    ("arguments", "model", "activation", "tanh"),
    ("arguments", "model", "norm", "layer"),
    ("arguments", "model", "output_scale", 0.5),
    ("arguments", "model", "dropout", 0.0),
    ("optimizer", "name", "adam"),
    ("optimizer", "weight_decay", 0.2),
    ("optimizer", "beta1", 0.8),
    ("optimizer", "beta2", 0.99),
    ("optimizer", "eps", 1e-7),
    ("optimizer", "eps_root", 1e-7),
    ("training", "num_steps", 13),
    ("training", "batch_size", 8),
    ("training", "learning_rate", 0.03),
    ("training", "rate_schedule", "one-cycle"),
    ("training", "warmup_steps", 3),
    ("training", "shards", 2),
    ("optimizer", "clip_norm", 1.0),
    ("optimizer", "clip_value", 1.0),
    ("optimizer", "ema_decay", 0.9),
    ("optimizer", "groups", ({"max_axes": 1, "weight_decay": 0.0},)),
    ("training", "seed", 1),
    ("training", "dtype", "float64"),
    ("training", "threads", 2),
    ("metaparameters", "injection_step", 6),
]


@pytest.mark.slow
@pytest.mark.parametrize("change", INNER, ids=lambda change: ".".join(change[:-1]))
def test_key_changes_with_every_inner_setting(change):
    """A changed learning rate must never reuse a state that another one made."""
    assert train_key(recipe(change)) != train_key(recipe())


def test_key_changes_with_the_kind_of_metaparameter():
    """Weights and counts of the same examples train alike, and are differentiated otherwise."""
    counts = recipe(("metaparameters", "injection_step", None))

    assert train_key(recipe(*kind("weights"))) != train_key(counts)


@pytest.mark.parametrize(
    "change",
    [
        ("outer", "num_steps", 9),
        ("outer", "step_size", 0.1),
        ("outer", "update", "sign"),
        ("outer", "seed", 5),
        ("replay", "schedule", "store-all"),
        ("replay", "arity", 7),
        ("replay", "steps_per_segment", 3),
    ],
    ids=lambda change: ".".join(change[:-1]),
)
def test_key_does_not_change_with_what_cannot_change_a_state(change):
    """One more outer step, or more memory, must find all the work that is done."""
    assert train_key(recipe(change)) == train_key(recipe())


@pytest.mark.parametrize("changes", [{"name": "other"}, {"description": "Another sentence."}])
def test_key_does_not_change_with_words_for_people(changes):
    """Renaming a recipe is not a reason to train it again."""
    assert train_key(recipe().model_copy(update=changes)) == train_key(recipe())


@pytest.mark.parametrize(
    "inputs",
    [
        {"segment": Segment(start=0, stop=5)},
        {"value": Ref(stage="update", key="a" * 32, content="b" * 16)},
        {"start": Ref(stage="train", key="a" * 32, content="b" * 16)},
    ],
    ids=["segment", "z", "start"],
)
def test_key_changes_with_every_input(inputs):
    """Another z or another upstream stage is another state."""
    assert train_key(recipe(), **inputs) != train_key(recipe())


def test_key_changes_with_the_bits_of_an_input_and_with_the_stage():
    """The content of an upstream stage counts, not only how it was asked for."""
    one, other = (Ref(stage="train", key="a" * 32, content=content * 16) for content in "bc")

    assert train_key(recipe(), start=one) != train_key(recipe(), start=other)
    assert key(stages.seed, recipe()) != key(stages.evaluate, recipe())


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        (("outer", "num_steps", 9), True),
        (("replay", "arity", 7), True),
        (("outer", "step_size", 0.1), False),
        (("outer", "step_decay", 0.5), False),
        (("outer", "update", "sign"), False),
        (("outer", "probability", 0.5), False),
        (("outer", "seed", 5), False),
    ],
    ids=lambda case: str(case[1]) if isinstance(case, tuple) else "",
)
def test_key_of_an_update_counts_the_outer_settings(change, is_same):
    """A longer descent goes on where it stopped; another step size moves z elsewhere."""
    found = key(stages.update, recipe(change))

    assert (found == key(stages.update, recipe())) is is_same


def test_key_of_an_update_is_that_of_the_rule_that_an_empty_setting_stands_for():
    """Whoever writes out what a default is starts no move again."""
    empty = recipe(("outer", "update", None), ("outer", "step_size", None))
    written = recipe(("outer", "update", "masked-sign"), ("outer", "step_size", 1.0))

    assert empty.outer.update is None
    assert key(stages.update, written) == key(stages.update, empty)


def test_key_of_a_reverse_stage_alone_counts_how_a_step_is_reversed():
    """Its last digits depend on it, and the states of the run do not."""
    lean = recipe(("replay", "vjp", "forward-over-reverse"), ("replay", "micro_batch", 3))

    assert key(stages.reverse_segment, lean) != key(stages.reverse_segment, recipe())
    assert key(stages.train_segment, lean) == key(stages.train_segment, recipe())


def test_key_depends_on_the_environment(monkeypatch):
    """Two threads have other bits than one, so their stages are not mixed."""
    before = train_key(recipe())

    monkeypatch.setattr(keys, "environment", lambda *arguments: {"threads": 99})

    assert train_key(recipe()) != before


def test_other_clusters_of_the_same_settings_are_other_stages(monkeypatch):
    """A library finds them, and a run that goes on with another version of it must not mix two."""
    tiny = recipe(*kind("group-weights"))
    problem = build_problem(tiny)
    ((name, found),) = problem.routine.metaparameters.items()
    moved = {name: replace(found, groups=found.groups.roll(1))}
    other = replace(problem, routine=replace(problem.routine, metaparameters=moved))
    before = train_key(tiny)

    monkeypatch.setattr(run, "build_problem", lambda _, store: other)

    assert train_key(tiny) != before
