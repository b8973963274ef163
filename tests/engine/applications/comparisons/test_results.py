"""Which baselines fit which question, and what a run says of how it compares."""

import re

import pytest

from engine.applications.comparisons.results import Baseline
from engine.applications.descent.comparison_findings import comparison_findings
from engine.errors import ConfigurationError
from engine.recipes.files import load_recipe
from engine.stages.references import Ref
from tests.helpers.runs.made_records import make_record, render

REF = Ref(stage="baseline", key="0" * 32, content="0" * 16)


def baseline(name, loss, accuracy):
    scores = {"loss": loss, "accuracy": accuracy}
    splits = dict.fromkeys(("objective", "validation", "test"), scores)
    return Baseline(name=name, value=REF, final=REF, scores=splits, examples=30, corrupted=10)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (["baselines=[low-loss]"], "low-loss.*learning-rate.*empty"),
        (["baselines=[best]"], "baselines"),
        (["metaparameters.kept=0.5"], "kept is 0.5.*counts"),
        (["outer.update=ranked-exchange"], "ranked-exchange.*counts"),
    ],
)
def test_baseline_of_another_question_is_refused(changes, named):
    """A schedule has no subset to draw: the user is told before anything is trained."""
    with pytest.raises(ConfigurationError, match=f"(?s){named}"):
        load_recipe("digits-schedule", changes)


def test_exchange_of_more_than_everything_is_refused():
    """The step size of a ranked exchange is a share, where a sign step of 1 is usual."""
    with pytest.raises(ConfigurationError, match=r"step_size is 1\.5.*0\.1"):
        load_recipe("digits-exchange", ["outer.step_size=1.5"])


def test_baseline_named_twice_is_refused():
    """Two rows of one name in the record would hide one another."""
    with pytest.raises(ConfigurationError, match="twice"):
        load_recipe("digits-selection", ["baselines=[random, random]"])


def test_findings_name_what_is_beaten_and_what_is_not():
    """Honest beside its rivals: one that does better is named as one that does better."""
    record = make_record().model_copy(
        update={"baselines": [baseline("random", 0.9, 0.5), baseline("low-loss", 0.1, 0.99)]}
    )

    lower, not_lower, behind = comparison_findings(record)

    assert "0.4500 is lower than that of random (0.9000)" in lower
    assert "not lower than that of low-loss (0.1000)" in not_lower
    assert "behind low-loss (99.0 %)" in behind
    assert "random" not in not_lower + behind


@pytest.mark.slow
def test_report_shows_a_row_for_each_baseline():
    """The table stands beside the figure, so that a reader can copy numbers."""
    record = make_record().model_copy(update={"baselines": [baseline("random", 0.9, 0.5)]})

    page = render(record)

    assert "Baselines" in page
    assert re.search(r"<td[^>]*>random</td>", page)
    assert "50.0 %" in page
