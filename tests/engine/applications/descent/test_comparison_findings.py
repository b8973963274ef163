"""What is said of baselines: those that select all examples are no comparison."""

from engine.applications.comparisons.results import Baseline
from engine.applications.descent.comparison_findings import comparison_findings
from tests.helpers.runs.made_records import make_record


def with_baselines(record, **names):
    """Return a record with baselines of these test losses; None is that of the initial set-up."""
    first = record.iterates[0]

    def scores(loss):
        return {split: {"loss": loss, "accuracy": 0.1} for split in first.scores}

    baselines = [
        Baseline(
            name=name.replace("_", "-"),
            value=first.value,
            final=first.final,
            scores=first.scores if loss is None else scores(loss),
        )
        for name, loss in names.items()
    ]
    return record.model_copy(update={"baselines": baselines})


def test_baselines_that_leave_out_nothing_are_named_once_and_beaten_by_nobody():
    """A run that only weighed examples was said to beat the set-up it began from four times."""
    record = with_baselines(make_record(kind="weights"), all_data=None, random=None, low_loss=None)

    first, second = comparison_findings(record)

    assert first.endswith("is lower than that of all-data (0.8500).")
    assert second.startswith("The baselines random and low-loss leave out as many examples")


def test_one_such_baseline_is_spoken_of_as_one():
    """It was called they."""
    record = with_baselines(make_record(kind="weights"), random=None, low_loss=0.9)

    assert comparison_findings(record)[-1].startswith("The baseline random leaves out as many")


def test_baselines_that_are_the_start_are_drawn_once():
    """Four bars of one length stood beside each other in a run that weighs examples."""
    record = with_baselines(make_record(kind="weights"), all_data=None, random=None, low_loss=0.9)

    assert [each.name for each in record.set_ups()] == [
        "outer step 2",
        "all-data",
        "low-loss",
    ]


def test_baselines_that_leave_out_some_are_compared():
    """Also where their loss is that of another."""
    record = with_baselines(make_record(), all_data=None, random=0.9, low_loss=0.1)

    first, second = comparison_findings(record)

    assert first.endswith("is lower than that of all-data (0.8500) and random (0.9000).")
    assert second.endswith("is not lower than that of low-loss (0.1000).")
