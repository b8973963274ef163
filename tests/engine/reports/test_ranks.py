"""How well a score tells two kinds apart, beside scikit-learn's."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

from engine.reports.ranks import area_under_curve


@pytest.mark.parametrize("distinct", [2, 7, 10**6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_area_is_that_of_scikit_learn_also_where_scores_are_equal(distinct, dtype):
    """Of two equal scores each counts a half, in whatever order they stand."""
    drawn = torch.Generator().manual_seed(distinct)
    scores = torch.randint(-distinct, distinct, (500,), generator=drawn).to(dtype) / 7
    inside = torch.rand(500, generator=drawn) < 0.3

    found = area_under_curve(inside, scores)

    assert found == pytest.approx(roc_auc_score(inside.numpy(), scores.numpy()), abs=1e-12)


def test_area_of_scores_that_tell_all_or_nothing_is_exact():
    """Counted in integers, it is rounded once, and not at all here."""
    inside = torch.tensor([False, True, False, True])

    assert area_under_curve(inside, torch.tensor([0.0, 2.0, 1.0, 3.0])) == 1.0
    assert area_under_curve(inside, torch.tensor([3.0, 1.0, 2.0, 0.0])) == 0.0
    assert area_under_curve(inside, torch.zeros(4)) == 0.5


@pytest.mark.parametrize(
    ("inside", "scores"),
    [([True, True], [0.0, 1.0]), ([False, False], [0.0, 1.0]), ([True, False], [0.0, torch.nan])],
)
def test_what_has_no_area_is_refused(inside, scores):
    """Nothing would be divided by nothing, and a NaN has no rank."""
    with pytest.raises(ValueError, match="two kinds"):
        area_under_curve(torch.tensor(inside), torch.tensor(scores))
