"""Reports: what the sentences claim, what the figures are, and that the page stands alone."""

import re

import pytest
import torch

from engine.applications.descent import report
from engine.applications.descent.figures import losses, metaparameters, training
from engine.applications.descent.record import Selection
from tests.helpers.runs.made_records import (
    FALLING,
    KINDS,
    NUM_STEPS,
    make_curves,
    make_material,
    make_record,
    render,
)

OVER_FITTED = [(0.8, 0.9, 0.85), (0.4, 0.6, 0.55), (0.2, 0.7, 0.65), (0.1, 1.2, 1.1)]
LEVEL = [(0.8, 0.9, 0.85), (0.4, 0.6, 0.55), (0.2, 0.603, 0.55)]
TOO_LONG = [(0.2, 0.21, 0.22), (0.9, 0.95, 0.99)]
CHANCE = [(0.8, 0.9, 0.8), (0.6, 0.7, 0.9)]
UNMOVED = [(0.8, 0.9, 0.85), (0.8, 0.9, 0.85)]


def selection(*, dropped=312, dropped_corrupted=280, corrupted=320, auc=0.931):
    return Selection(
        examples=800,
        corrupted=corrupted,
        dropped=dropped,
        dropped_corrupted=dropped_corrupted,
        auc=auc,
    )


def test_summary_of_a_selection_says_what_was_gained_and_what_was_dropped():
    """The whole account of a good run: read this to learn the sentences."""
    sentences = make_record(FALLING, selection=selection()).sentences()

    assert sentences == [
        "Outer step 2 of 2 was chosen: its validation loss is the lowest.",
        "Test loss fell by 47 %, from 0.8500 to 0.4500; accuracy rose from 57.5 % to 77.5 %.",
        "Validation loss fell by 44 %, from 0.9000 to 0.5000; accuracy rose from 55.0 % to 75.0 %.",
        "The validation loss was still falling there: with a larger outer.num_steps (now 5) the "
        "run goes on from that step.",
        "Dropped 312 of 800 examples; 280 of the 312 (90 %) had a wrong label, as 320 of all 800 "
        "(40 %) did.",
        "The first metagradient tells wrong labels from right ones with an AUC of 0.93 (0.5 is "
        "chance).",
    ]


def test_summary_of_an_ascent_speaks_of_rising_losses():
    """An audit that went uphill is good when the loss rose; nothing of it is over-fitting."""
    rising = [row for row in reversed(FALLING)]
    record = make_record(rising, kind="inputs", outer={"update": "sign", "maximize": True})

    first, test, *_ = record.model_copy(update={"chosen": 2}).sentences()

    assert first == "Outer step 2 of 2 was chosen: its validation loss is the highest."
    assert test.startswith("Test loss rose by 89 %")


@pytest.mark.parametrize(("maximize", "verb"), [(True, "raises"), (False, "lowers")])
def test_caption_of_the_losses_says_where_the_objective_goes(maximize, verb):
    """That of a poison said that its metagradient lowers the loss that it raised."""
    record = make_record(kind="inputs", outer={"update": "sign", "maximize": maximize})

    assert f"the metagradient {verb}" in losses.of(record).figures[0].caption


def test_summary_names_the_outer_step_after_which_the_objective_was_over_fitted():
    """A falling objective looks like success, so its price on validation is said beside it."""
    (warning,) = [line for line in make_record(OVER_FITTED).sentences() if "over-fitted" in line]

    assert warning == (
        "The descent over-fitted the objective split after outer step 1: from there to outer step "
        "3 the objective fell from 0.4000 to 0.1000, but the validation loss rose from 0.6000 to "
        "1.2000. Raise arguments.num_objective (now 400)."
    )


def test_record_says_over_fitted_only_where_the_objective_fell_and_validation_rose():
    """Programs read one word; an attack, and a descent that only overshot, are something else."""
    found = {
        name: make_record(losses, **settings).over_fitted
        for name, losses, settings in (
            ("falling", FALLING, {}),
            ("over-fitted", OVER_FITTED, {}),
            ("too long", TOO_LONG, {}),
            ("level", LEVEL, {}),
            ("uphill", OVER_FITTED, {"outer": {"maximize": True}}),
        )
    }

    assert [name for name, over in found.items() if over] == ["over-fitted"]
    assert make_record(OVER_FITTED).losses["validation"] == [0.9, 0.6, 0.7, 1.2]


def test_summary_says_that_nothing_improved_when_the_initial_set_up_is_kept():
    """Equal numbers before and after would read like a result."""
    first, second, warning = make_record(TOO_LONG).sentences()

    assert first == (
        "Nothing improved: the outer step did not lower the validation loss of 0.2100, so the "
        "initial set-up was kept."
    )
    assert second == "Its test loss is 0.2200, its accuracy 89.0 %."
    assert "the steps were too long" in warning


@pytest.mark.parametrize(
    ("kind", "setting"),
    [("counts", "outer.probability (now 0.2)"), ("learning-rate", "outer.step_size (now 0.1)")],
)
def test_summary_advises_the_setting_that_shortens_the_steps(kind, setting):
    """Counts move by whole examples, so a smaller step size would not move them at all."""
    assert make_record(TOO_LONG, kind=kind).sentences()[-1].endswith(f"Lower {setting}.")


def test_summary_says_when_the_steps_were_too_short_to_change_anything():
    """A step size below one half moves no count, and the run ends without any other sign."""
    assert make_record(UNMOVED).sentences()[-1] == (
        "The losses never changed: the steps were too short. Raise outer.step_size (now 1)."
    )


def test_summary_says_when_the_gain_does_not_carry_over_to_the_test_split():
    """The validation split chose the iterate, so its own gain proves little."""
    assert "does not carry over" in make_record(CHANCE).sentences()[-1]


def test_summary_says_when_dropping_at_random_would_have_done_as_well():
    """A share of wrong labels sounds good until it is compared with the share among all."""
    record = make_record(selection=selection(dropped=100, dropped_corrupted=40))

    (sentence,) = [line for line in record.sentences() if line.startswith("Dropped")]

    assert sentence.endswith("(40 %) did, so dropping at random would do as well.")


@pytest.mark.parametrize(
    ("chosen", "sentences"),
    [
        pytest.param(
            selection(corrupted=0, dropped_corrupted=0, auc=None),
            ["Dropped 312 of 800 examples (39 %)."],
            id="no wrong label is known",
        ),
        pytest.param(
            selection(dropped=0, dropped_corrupted=0, auc=None),
            ["Dropped none of the 800 examples."],
            id="nothing was dropped",
        ),
        pytest.param(None, [], id="not a selection"),
    ],
)
def test_summary_claims_nothing_about_labels_when(chosen, sentences):
    """Without known corruption or without a drop there is no share to speak of."""
    record = make_record(selection=chosen)

    assert [line for line in record.sentences() if "ropped" in line or "label" in line] == sentences


def test_summary_leaves_accuracy_out_where_there_is_none():
    """A loss is all that a problem without classes has."""
    record = make_record(accuracy=False)

    assert "Test loss fell by 47 %, from 0.8500 to 0.4500." in record.sentences()
    assert "accuracy" not in render(record).lower()


THREE = (losses.section, metaparameters.section, training.section)
"""Sections that every descent has."""


def figures(record, curves):
    run = make_material(record, curves)
    return [figure for make in THREE if (made := make(run)) for figure in made.figures]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_figures_are_drawn_for_the_page_and_for_a_phone(kind):
    """A figure that is made smaller on a phone has labels that nobody can read there."""
    drawn = figures(make_record(kind=kind), make_curves(kind))

    assert len(drawn) == (2 if kind == "inputs" else 3)  # changed pictures are shown one by one
    for figure in drawn:
        sizes = [
            [int(size) for size in re.search(r'width="(\d+)" height="(\d+)"', svg).groups()]
            for svg in (figure.drawing.wide, figure.drawing.narrow)
        ]
        assert [width for width, _ in sizes] == [691, 355]
        assert all(200 < height < 1000 for _, height in sizes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "rows", "fields"),
    [
        pytest.param(
            "counts",
            FALLING,
            {"corrupted": torch.zeros(4, dtype=torch.bool), "adjoint_norms": {}},
            id="no wrong label and no adjoint",
        ),
        pytest.param(
            "counts",
            TOO_LONG,
            {"value": torch.ones(4), "adjoint_norms": {7: 1.0}},
            id="nothing moved and one adjoint",
        ),
        pytest.param(
            "counts",
            [(1e-6, 1e3, 1.0), (0.0, 1.0, 1.0)],
            {
                "value": torch.tensor([0.0, 1.0, 40.0, 2.0]),
                "losses_before": [1.0] * 500,
                "losses_after": [0.0] * 500,
            },
            id="large count and many steps",
        ),
        pytest.param(
            "weights",
            TOO_LONG,
            {
                "value": torch.ones(4),
                "corrupted": torch.ones(4, dtype=torch.bool),
                "adjoint_norms": {7: 0.0},
                "losses_before": [1e4],
                "losses_after": [1e-3],
            },
            id="no right label and an adjoint of zero",
        ),
        pytest.param(
            "learning-rate",
            TOO_LONG,
            {"initial_value": torch.tensor([-3.0]), "value": torch.tensor([-2.0])},
            id="one key point",
        ),
    ],
)
@pytest.mark.filterwarnings("error")
def test_figures_can_be_drawn_from_unusual_curves(kind, rows, fields):
    """A report is the last thing that a run of hours makes; it must not fail there."""
    assert len(figures(make_record(rows, kind=kind), make_curves(kind, **fields))) == 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_page_holds_its_images_and_refers_to_nothing_outside(kind):
    """A report is read offline and mailed, and opening it must not tell anyone."""
    page = render(make_record(kind=kind), make_curves(kind))

    places = re.findall(r"""(?:src|href|action)\s*=\s*["']?([^"'>\s]+)""", page)
    images = [place for place in places if not place.startswith("#")]
    assert all(place.startswith("data:image/png;base64,") for place in images)
    assert page.count("<svg ") == (6 if kind == "inputs" else 8)
    assert set(re.findall(r"https?://[^\"]*", page)) == {"http://www.w3.org/2000/svg"}  # a name
    assert not re.search(r"url\((?!#)|@import|<script|<link", page)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_place_that_the_page_leads_to_is_there_once(kind):
    """And every image says what it shows to whoever cannot see it."""
    page = render(make_record(kind=kind), make_curves(kind))

    places = re.findall(r' id="([^"]+)"', page)
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(places)
    assert len(set(places)) == len(places)
    assert page.count("<img") == len(re.findall(r'<img [^>]*alt="[^"]{6,}"', page))
    drawn = re.findall(r'<div class="on-(page|phone)" role="img" aria-label="[^"]{10,}"><svg', page)
    assert len(drawn) == page.count("<svg ")
    assert drawn.count("page") == drawn.count("phone")


def test_page_has_the_order_of_every_report():
    """What came of it first; settings and keys last, and folded."""
    page = render(make_record(), make_curves())

    assert re.findall(r"\n<h2>([^<]+)</h2>", page) == [
        "Settings of the run",
        "Loss and accuracy",
        "Examples to look at",
        "By class",
        "Example counts",
        "Training",
        "Reverse sweep",
        "What it cost",
        "How sure it is",
        "How to repeat it, and what next",
    ]
    folded = ["Stages in the store", "All settings", "Where it was made"]
    assert re.findall(r"<summary><h2>([^<]+)</h2></summary>", page) == folded
    assert page.index("47\u00a0%, from 0.8500") < page.index("<h2>") < page.index("<details")


def test_a_long_table_of_outer_steps_is_thinned_and_whole_below():
    """101 rows are an appendix; the first, the last and the chosen one are not."""
    rows = [(1.0 - step / 200, 0.9 - step / 200, 0.8) for step in range(101)]
    record = make_record(rows).model_copy(update={"chosen": 7})
    run = make_material(record, make_curves())

    (shown,) = losses.section(run).tables
    every = losses.all_steps(run)

    steps = [row["Outer step"] for row in shown.rows]
    assert len(steps) <= losses.ROWS
    assert {"0", "7 (chosen)", "100"} <= set(steps)
    assert [steps[place] for place in shown.marked] == ["7 (chosen)"]
    assert every.folded
    assert len(every.tables[0].rows) == 101
    assert losses.all_steps(make_material(make_record(), make_curves())) is None


def test_a_section_that_has_nothing_to_show_is_left_out():
    """An empty heading would ask what is missing."""
    run = make_material(make_record(), make_curves())

    titles = [each.title for each in report.report_of(run, {}).sections]

    assert titles == [
        *("Loss and accuracy", "Examples to look at", "By class", "Example counts"),
        *("Training", "Reverse sweep"),
    ]


def test_page_escapes_what_a_recipe_says():
    """A report is opened in a browser, and a recipe may come from anybody."""
    hostile = """<script>alert("x")</script><img src=x onerror='y'>"""
    record = make_record(description=hostile, problem="fashion_mnist", arguments={"url": hostile})

    page = render(record)

    assert "<script" not in page
    assert "<img src=x" not in page
    # The description, and the argument among the changed settings and among all of them.
    assert page.count("&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;") == 3


def test_page_marks_the_chosen_outer_step_and_only_that():
    """The table of all outer steps is where a reader looks for the one that counts."""
    page = render(make_record(OVER_FITTED))

    marked = re.findall(r'<tr class="chosen">\s*<td[^>]*>([^<]*)</td>', page)
    assert marked == ["1 (chosen)"]


def test_page_shows_every_setting_with_its_dotted_key():
    """The keys are those of ``mgd run --set``, so that a reader can change one and run again."""
    page = render(make_record(training={"num_steps": NUM_STEPS, "learning_rate": 0.07}))

    rows = r"<tr><td[^>]*><code>([\w.]+)</code></td><td[^>]*>([^<]*)</td>"
    changed, every = page.split("All settings</h2></summary>")
    chips = dict(re.findall(r"<li><code>([\w.]+)</code> ([^<]*)</li>", changed))
    assert chips["training.learning_rate"] == "0.07"
    assert "optimizer.nesterov" not in changed
    shown = dict(re.findall(rows, every))
    assert shown["training.learning_rate"] == "0.07"
    assert shown["optimizer.nesterov"] == "false"
    assert shown["arguments.num_test"] == ""
    assert shown["outer.update"] == ""
    assert "empty means masked-sign for counts" in every


@pytest.mark.slow
def test_page_says_how_the_run_was_made():
    """Whoever doubts a number finds the stages that made it, and what its bits depend on."""
    page = render(make_record())

    assert "9 in all" in page
    assert "4 used again from the store" in page
    assert "1 min 23 s" in page
    assert "2025-11-23 13:30 UTC" in page
    assert "2.13.0" in page
    assert f"reverse/{1:032x}" in page
    assert "ab" * 32 in page
