"""What every kind that a recipe can name has to keep, whatever it is."""

from dataclasses import fields, replace

import matplotlib.figure
import pytest
import torch

from engine import metagradient
from engine.applications.descent.charts import draw_chart
from engine.metaparameters.base import Metaparameter
from engine.metaparameters.by_name import kind_of
from engine.metaparameters.charts import Histogram, Pictures
from engine.problems.built import build_problem
from engine.recipes.comparisons import BaselineName
from engine.recipes.descent import DescentRecipe, OuterSettings, OuterUpdate
from engine.recipes.metaparameters import KINDS, MetaparameterName, MetaparametersSettings
from engine.reports.pictures import changes
from engine.witness.twins import exact_run

SIZES = {"num_train": 200, "num_objective": 40, "num_validation": 20, "num_test": 20}
CHANGED = {
    "injection_step": 3,
    "injection_steps": (2, 5),
    "kept": 0.5,
    "num_key_points": 4,
    "scalars": ("momentum",),
    "fraction": 0.1,
    "groups": "cluster",
    "num_groups": 3,
    "own": "temperature",
}
"""Another value of each setting of a kind."""


def recipe(name, **settings):
    return DescentRecipe.model_validate(
        {
            "name": "kinds",
            "arguments": {**SIZES, "model": {"width": 4, "depth": 1}},
            "training": {"num_steps": 12, "batch_size": 10, "dtype": "float64", "threads": 1},
            "optimizer": {"weight_decay": 0.01},
            "outer": {"update": "sign"},
            "metaparameters": {"name": name, **settings},
        }
    )


@pytest.fixture(scope="module", params=[each for each in MetaparameterName if each.value != "own"])
def of_kind(request):
    """A recipe of each kind, and its problem."""
    made = recipe(request.param)
    return made, build_problem(made)


def test_every_name_is_described():
    """A name without a description was an error in the report of a run of hours."""
    assert set(KINDS) == set(MetaparameterName)
    for about in KINDS.values():
        assert about.title
        assert about.caption.format(start="as it was")


def test_every_setting_is_read_by_a_kind():
    """One that nobody reads would be asked for in the form and change nothing."""
    read = frozenset().union(*(about.reads for about in KINDS.values()))

    assert read | {"name", "seed"} == set(MetaparametersSettings.model_fields)
    assert read <= set(CHANGED)


@pytest.mark.parametrize("name", MetaparameterName)
@pytest.mark.parametrize("setting", CHANGED)
def test_a_setting_that_the_kind_does_not_read_is_refused(name, setting):
    """Who sets it believes that it does something."""
    content = {"name": name, setting: CHANGED[setting]}
    if setting in KINDS[name].reads:
        assert getattr(MetaparametersSettings.model_validate(content), setting) == CHANGED[setting]
        return

    readers = [each.value for each, about in KINDS.items() if setting in about.reads]
    message = rf"metaparameters.{setting} is .*{name.value}, which does not read it.*{readers[0]}"
    with pytest.raises(ValueError, match=message):
        MetaparametersSettings.model_validate(content)


@pytest.mark.parametrize("name", MetaparameterName)
@pytest.mark.parametrize("baseline", BaselineName)
def test_baselines_are_those_of_the_kind(name, baseline):
    """A set-up that answers another question is refused by what the kind says of itself."""
    content = recipe(name).model_dump(mode="json") | {"baselines": [baseline]}
    if baseline in KINDS[name].baselines:
        assert DescentRecipe.model_validate(content).baselines == (baseline,)
        return

    with pytest.raises(ValueError, match=rf"{baseline}, which is not a set-up of {name.value}"):
        DescentRecipe.model_validate(content)


@pytest.mark.parametrize("name", MetaparameterName)
@pytest.mark.parametrize("update", [OuterUpdate.MASKED_SIGN, OuterUpdate.RANKED_EXCHANGE])
def test_updates_by_whole_examples_suit_what_says_so(name, update):
    """Half an example is no count, and a whole one no step of a learning rate."""
    content = recipe(name).model_dump(mode="json") | {"outer": {"update": update}}
    if KINDS[name].moves_by_whole:
        assert DescentRecipe.model_validate(content).outer.update is update
        return

    with pytest.raises(ValueError, match=rf"name is {name.value}, but .* by whole examples"):
        DescentRecipe.model_validate(content)


@pytest.mark.parametrize("name", MetaparameterName)
def test_what_the_recipe_leaves_out_of_the_outer_step_follows_the_kind(name):
    """A recipe that says what z is, and nothing else, is a recipe that runs."""
    made = DescentRecipe.model_validate({"name": "bare", "metaparameters": {"name": name}})

    whole = KINDS[name].moves_by_whole
    assert made.rule.update is (OuterUpdate.MASKED_SIGN if whole else OuterUpdate.SIGN)
    assert made.rule.step_size == (1.0 if whole else 0.1)
    assert made.outer.update is None  # so that a form that changes the kind changes the rule


def test_what_the_recipe_says_of_the_outer_step_is_done():
    """A default takes the place of nothing that was written; a half exchange is one of a tenth."""
    said = {"update": "Adam", "step_size": 0.5, "maximize": True, "seed": 3}
    made = DescentRecipe.model_validate({"name": "said", "outer": said})
    exchange = made.model_copy(update={"outer": OuterSettings(update="ranked-exchange")})

    assert made.rule.model_dump(include=set(said)) == said
    assert exchange.rule.step_size == 0.1


def test_the_start_is_a_feasible_value_of_the_kind(of_kind):
    """A descent begins there, so projecting it must not move it."""
    made, problem = of_kind
    kind = problem.kind

    assert type(kind) is kind_of(made.metaparameters.name)
    torch.testing.assert_close(kind.project(kind.value), kind.value, rtol=1e-12, atol=1e-12)
    assert type(kind.with_value(kind.value)) is type(kind)
    if KINDS[made.metaparameters.name].selects_examples:
        assert kind.value.shape == (SIZES["num_train"],)


def test_a_kind_enters_the_run(of_kind):
    """One that enters nowhere has a metagradient of zero, or an error in its place."""
    _, problem = of_kind
    (name,) = problem.routine.metaparameters

    found = metagradient(problem.routine, problem.output)[name]

    assert found.shape == problem.kind.point().shape
    assert torch.isfinite(found).all()
    assert found.any()


def test_a_shorter_run_has_the_same_kind(of_kind):
    """The preflight tries it on a twin; a kind that does not fit there stops the real run."""
    _, problem = of_kind

    twin = exact_run(problem.routine)
    ((name, kind),) = twin.metaparameters.items()
    found = metagradient(twin, problem.output)[name]

    assert type(kind) is type(problem.kind)
    assert twin.num_steps < problem.routine.num_steps
    assert found.any()


def test_only_a_class_that_says_so_itself_is_cut_to_the_first_examples(of_kind):
    """A subclass may hold more for each example than its base knows of."""
    _, problem = of_kind
    ((name, kind),) = problem.routine.metaparameters.items()
    heir = type("Heir", (type(kind),), {})
    other = heir(**{each.name: getattr(kind, each.name) for each in fields(kind)})
    says_so = "of_first" in vars(type(kind)) and kind.of_first(128) is not None

    cut = exact_run(problem.routine)
    whole = exact_run(replace(problem.routine, metaparameters={name: other}))

    assert len(cut) == (128 if says_so else SIZES["num_train"])
    assert len(whole) == SIZES["num_train"]


def test_a_kind_can_be_drawn(of_kind):
    """A report that cannot draw z was an error at the end of a run."""
    made, problem = of_kind
    before = problem.kind.value
    after = problem.kind.with_value(before + 0.3).value

    for wrong in (torch.zeros(200, dtype=torch.bool), torch.arange(200) < 20):
        chart = type(problem.kind).chart(made, before, after)
        if isinstance(chart, Pictures):  # which are cards of the page
            assert len(changes(chart.before, chart.after)) == len(after)
            continue
        figure = draw_chart(chart, [("before", "grey"), ("after", "blue")], wrong)

        assert isinstance(figure, matplotlib.figure.Figure)
        assert figure.axes


def test_a_kind_without_a_chart_of_its_own_shows_how_far_it_moved():
    """So a new kind is in the report at once."""
    made = recipe("weights")
    chart = Metaparameter.chart(made, torch.ones(3), torch.tensor([1.0, 2.0, 4.0]))

    assert isinstance(chart, Histogram)
    assert chart.values.tolist() == [0, 1, 3]
