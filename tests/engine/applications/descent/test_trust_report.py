"""What a report says against a run's metagradients: the preflight, the growth, the sweep."""

import pytest

from engine.applications.descent.figures import training
from engine.applications.descent.figures.sweep import MOST_NAMES, draw_sweep
from engine.preflight.verdict import Check, CheckReport, Verdict
from engine.reports.canvas import NARROW, WIDTH, drawn_at, png
from tests.helpers.runs.made_records import make_curves, make_record, render, size_of


def checked(verdict):
    found = Check(
        name="adjoint", verdict=verdict, value=1.5, limit=1.2, cause="It grows.", remedy="Slow it."
    )
    return make_record().model_copy(update={"checks": CheckReport.of([found])})


@pytest.mark.slow
@pytest.mark.parametrize("verdict", Verdict)
def test_page_has_a_row_for_each_check(verdict):
    """With figure, limit, cause and remedy, in a colour of its own where it did not pass."""
    page = render(checked(verdict))

    assert f'<tr class="{verdict}">' in page
    assert "It grows. Slow it." in page
    assert "Preflight, on short twins" in page


@pytest.mark.parametrize("verdict", [Verdict.WARN, Verdict.REFUSE])
def test_what_did_not_pass_stands_in_the_summary(verdict):
    """A run that went on all the same is never silent about it."""
    assert "Preflight, adjoint: It grows. Slow it." in checked(verdict).sentences()
    assert not [line for line in checked(Verdict.PASS).sentences() if "Preflight" in line]


@pytest.mark.parametrize(("growth", "sounds"), [([1.02, 1.1], False), ([1.05, 1.43], True)])
def test_growth_is_on_the_page_and_an_alarm_beyond_its_limit(growth, sounds):
    """The figure is always there; the alarm names the outer step."""
    record = make_record().model_copy(update={"growth": growth})

    page = render(record)

    assert f"the adjoint grew {max(growth):.2f}-fold per step at most" in page
    assert ("In outer step 1 the adjoint grew 1.43-fold" in page) == sounds


@pytest.mark.parametrize("num_layers", [2, MOST_NAMES + 1])
def test_the_sweep_is_drawn_over_the_steps_that_were_reversed(num_layers):
    """Names stand beside their rows while they fit; blank steps are left out."""
    names = [f"layer{number}.weight" for number in range(num_layers)]
    norms = {step: [1.0 / (1 + step)] * num_layers for step in range(5, 9)}
    shares = {step: 0.5**step for step in range(4, 8)}

    figure = draw_sweep(names, norms, shares, 8)

    above, below = figure.axes[:2]
    assert below.get_xlim() == (4, 8)
    assert sum(below.patches[0].get_data().values) == pytest.approx(1)
    labels = [label.get_text() for label in above.get_yticklabels()]
    assert (labels == names) == (num_layers <= MOST_NAMES)
    assert min(size_of(png(figure))) > 300


@pytest.mark.parametrize("layers", [4, 20])
def test_long_names_of_layers_leave_the_figure_its_room(layers):
    """Names of adapters in a model of transformers took all of a phone's width, and half a page."""
    parts = [f"{n}.{p}_proj.lora_{p}" for n in range(layers // 2) for p in "qk"]
    names = [f"network.base_model.model.model.layers.{part}.default.weight" for part in parts]
    norms = {step: [1.0] * layers for step in range(5, 9)}

    wide, narrow = [], []
    for width, shown in ((WIDTH, wide), (NARROW, narrow)):
        with drawn_at(width):
            figure = draw_sweep(names, norms, {5: 1.0, 6: 1.0}, 8)
            image = png(figure)
            shown += [label.get_text() for label in figure.axes[0].get_yticklabels()]
        assert min(size_of(image)) > 300
        assert figure.axes[0].get_position().width > 0.4
    assert wide == narrow == parts


def test_names_that_stay_long_are_left_out():
    """Cut in their middle they would look alike."""
    names = [f"a{n}.{'block' * 9}.b{n}" for n in range(4)]
    figure = draw_sweep(names, {step: [1.0] * 4 for step in range(5, 9)}, {5: 1.0, 6: 1.0}, 8)

    assert figure.axes[0].get_ylabel() == "4 parameter tensors, in order"


def test_a_sweep_of_one_step_is_drawn():
    """Counts injected at the last step leave no adjoint to show."""
    figure = draw_sweep(["weight"], {}, {7: 2.0}, 8)

    (only,) = figure.axes
    assert only.patches[0].get_data().values.tolist() == [1.0]


def test_a_sweep_that_carried_no_adjoint_leaves_no_blank():
    """Counts that enter at the last step: nothing of the adjoint is there to be drawn."""
    curves = make_curves(layers=["weight"], layer_norms={}, share_norms={7: 2.0}, adjoint_norms={})

    page = render(make_record(), curves)

    assert "Reverse sweep" not in page
    assert "size of the adjoint" not in page
    assert len(training.draw(make_record(), curves).axes) == 1


def test_where_one_step_has_all_of_the_metagradient_a_sentence_says_so():
    """A figure with one bar of height 1 takes a third of a page to say as much."""
    norms = {step: [1.0] for step in range(5, 9)}
    curves = make_curves(layers=["weight"], layer_norms=norms, share_norms={5: 3.0, 6: 0.0})

    drawn = draw_sweep(curves.layers, curves.layer_norms, curves.share_norms, 8)

    assert len(drawn.axes) == 2  # the adjoint, and what its colours mean
    assert "All of the metagradient comes from step 5." in render(make_record(), curves)
