"""The table of kinds: every kind of recipe is there, with a record that says what it must."""

import subprocess
import sys

import pytest

from engine.applications.kinds import keep_plan_of, keep_product, plan_recipe
from engine.planning import plan as planning
from engine.planning.expected import Expected
from engine.planning.forecast import Forecast, Seconds, read_forecast
from engine.planning.plan import followed, settled
from engine.progress.time_left import PULL
from engine.recipes.files import KINDS, validate_recipe
from engine.recipes.kinds import find, kinds
from engine.recipes.names import run_name
from engine.recipes.replay import ReplaySettings, ScheduleName, VjpMode
from engine.runs.finished import FinishedRun
from engine.runs.overview import overview
from engine.runs.predicted import compare
from engine.runs.run import begin_run
from tests.helpers.runs.kinds import recipe_of


@pytest.mark.parametrize("kind", KINDS)
def test_kind_says_by_its_name_what_validates_it(kind):
    """A recipe that says another kind would be validated as that one."""
    assert KINDS[kind].model_fields["kind"].default == kind


@pytest.mark.parametrize("kind", KINDS)
def test_record_of_a_kind_says_all_that_is_asked_of_it(kind):
    """And holds settings of that very kind, so that no other record passes for it."""
    record = find(kinds()[kind].record)

    assert issubclass(record, FinishedRun)
    assert not record.__abstractmethods__
    assert record.model_fields["recipe"].annotation is KINDS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_check_and_works_of_a_kind_are_functions(kind):
    """``mgd check`` and ``mgd plan`` find them by the same table."""
    assert callable(find(kinds()[kind].check))
    assert callable(find(kinds()[kind].works))


MEASURED = Forecast(
    schedule=ScheduleName.STORE_ALL,
    segments=1,
    unroll=1,
    forward_steps=12,
    reverse_steps=6,
    peak_bytes={},
    written_bytes=0,
    seconds=Seconds(
        outer_step=5.0, run=11.0, step=1 / 6, train=1.0, evaluate=0.0, seed=0.0, reverse=4.0,
        update=0.0,
    ),
    settings={"replay.schedule": "store-all"},
    alternatives=[],
)  # fmt: skip
"""Of a training that takes a second, and whose reverse sweep takes four."""


@pytest.mark.parametrize(
    ("kind", "changes", "is_longer"),
    [
        ("attribution", {"attribution": {"num_subsets": 200}}, True),
        ("attribution", {"attribution": {"num_queries": 9}}, True),
        ("canaries", {"outer": {"update": "Adam", "num_steps": 50}}, True),
        ("canaries", {"canaries": {"num_audits": 64}}, True),
        ("metasmoothness", {"smoothness": {"directions": 9}}, True),
        ("metasmoothness", {"outer": {"update": "sign", "num_steps": 50}}, False),
        ("smooth-search", {"search": {"learning_rates": [0.1 * n for n in range(1, 9)]}}, True),
    ],
)
def test_a_plan_is_as_long_as_what_the_kind_does(kind, changes, is_longer, monkeypatch):
    """An attribution of half a minute was planned as a descent of five seconds."""
    monkeypatch.setattr("engine.applications.kinds.plan", lambda *_: MEASURED)
    base = recipe_of(kind)
    content = base.model_dump(mode="json")
    for name, group in changes.items():
        content[name] = content[name] | group
    changed = validate_recipe(content, "test")

    before, after = (plan_recipe(each, "nowhere", 3600.0) for each in (base, changed))

    assert (after.seconds.run > before.seconds.run) == is_longer
    assert before.seconds.run > 2.0  # one training at least, and more
    assert before.price == pytest.approx(before.seconds.run)
    assert kind in before.note


def test_a_sweep_of_many_outputs_is_longer_by_their_products():
    """The plan has measured one output; K cost 1 + 2 K plain steps, and no more replays."""
    recipe = recipe_of("attribution").descent

    one, nine = (Expected(recipe, MEASURED, outputs).sweep() for outputs in (1, 9))

    replays = sum(work.forward for work in one)
    assert sum(work.weight for work in one) == pytest.approx(4.0)
    assert sum(work.weight for work in nine) == pytest.approx(
        4.0 * (replays + 6 * 19) / (replays + 6 * PULL)
    )


@pytest.mark.parametrize("kind", ["attribution", "canaries", "metasmoothness"])
def test_a_plan_that_is_kept_with_another_kind_decides_no_bit(kind, tmp_path):
    """The product of a step that the recipe leaves to a planner stays the reference."""
    changes = {"vjp": "auto", "max_device_bytes": 1}
    if kind == "canaries":
        changes |= {"schedule": "store-all"}
    content = recipe_of(kind).model_dump(mode="json")
    recipe = validate_recipe({**content, "replay": {**content["replay"], **changes}}, "test")
    store = str(tmp_path)
    begin_run(recipe, store)
    before = settled(recipe.descent, store), followed(recipe.descent, store)

    keep_plan_of(recipe, store)

    assert (settled(recipe.descent, store), followed(recipe.descent, store)) == before
    found = compare(store, overview(store, run_name(recipe.descent)))
    assert [each.what for each in found] == ["seconds of the run"]
    assert found[0].predicted > 0
    kept = read_forecast(store, run_name(recipe.descent))
    keep_plan_of(recipe, store)  # another measurement would have other seconds
    assert read_forecast(store, run_name(recipe.descent)) == kept


def test_a_descent_is_planned_as_it_was(monkeypatch):
    """Nothing is said twice of it."""
    monkeypatch.setattr("engine.applications.kinds.plan", lambda *_: MEASURED)

    assert plan_recipe(recipe_of("descent"), "nowhere") is MEASURED


def test_product_of_an_attribution_is_chosen_for_all_of_its_outputs_and_kept(tmp_path, monkeypatch):
    """It kept no plan, so that what was left open was always the reference."""
    base, asked = recipe_of("attribution"), []
    content = base.model_dump(mode="json")
    content["replay"] |= {"vjp": "auto"}
    recipe, store = validate_recipe(content, "test"), str(tmp_path)

    def fastest(each, problem, num_outputs):
        asked.append(num_outputs)
        return VjpMode.BATCHED

    monkeypatch.setattr(planning, "fastest_product", fastest)
    keep_product(recipe, store)
    keep_product(recipe, store)
    keep_product(base, store)

    assert asked == [base.attribution.num_queries]
    assert planning.settled(recipe.descent, store).replay.vjp is VjpMode.BATCHED
    kept = read_forecast(store, run_name(recipe.descent))
    assert kept.product is VjpMode.BATCHED
    assert kept.seconds.run > kept.seconds.outer_step
    assert read_forecast(store, run_name(base.descent)) is None


def test_a_plan_that_keeps_graphs_is_followed_where_the_product_was_open_too():
    """Graphs and ``vjp: auto`` exclude each other, so a run with both left open was a traceback."""
    settings = {**MEASURED.settings, "replay.unroll": 4, "replay.steps_per_segment": 4}
    kept = MEASURED.model_copy(update={"settings": settings})

    found = kept.resolved(ReplaySettings(schedule=ScheduleName.AUTO, vjp=VjpMode.AUTO))

    assert (found.unroll, found.vjp) == (4, VjpMode.REVERSE_OVER_REVERSE)


def test_a_record_that_does_not_say_what_it_keeps_cannot_be_made():
    """What it forgets to keep would be cleaned away."""

    class Forgetful(FinishedRun):
        """A kind whose author forgot everything."""

    with pytest.raises(TypeError, match="refs_to_keep"):
        Forgetful.model_validate({"run": "r", "started": "", "seconds": 0, "recipe": {"name": "r"}})


def test_what_keeps_house_loads_no_application():
    """``mgd show`` and ``mgd clean`` name no kind, and load none."""
    code = """
import sys
import engine.runs.clean.cleaning, engine.runs.overview, flows.cli.showing
print(*(name for name in sys.modules if name.startswith("engine.applications") or name == "torch"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == []
