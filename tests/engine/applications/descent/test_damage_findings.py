"""Who suffers from changed inputs: a fall that is none when it is written is no suffering."""

import re
from types import SimpleNamespace

import pytest

from engine.applications.comparisons.results import ChangedImage, Damage
from engine.applications.descent.comparison_findings import damage_findings, points
from engine.applications.descent.record import RunRecord


def record(**victims):
    """As much of a record as the findings read."""
    images = [ChangedImage.model_construct(damage=0.3)]
    damage = Damage.model_construct(
        rise=0.3, images=images, classes={"3": 0.3, "7": 0.0}, victims=victims
    )
    return RunRecord.model_construct(damage=damage)


@pytest.mark.parametrize(
    ("victims", "says"),
    [
        ({"three": (0.923, 0.923), "seven": (0.9, 0.95)}, "No class of the test examples"),
        ({"three": (0.92304, 0.92296), "seven": (0.9, 0.9)}, "No class of the test examples"),
        ({"three": (0.923, 0.9), "seven": (0.9, 0.9)}, "Class three suffers most: .* 92.3 % to 90"),
    ],
    ids=["none", "below-what-is-written", "a-fall"],
)
def test_a_class_suffers_only_if_its_accuracy_falls(victims, says):
    """Loss may rise while every example is classified as before."""
    sentences = damage_findings(record(**victims))

    assert re.match(says, sentences[-1])


def test_a_sum_that_is_not_the_rise_names_nobody():
    """Of parts that a chaotic training makes up the first carried half of a small rise."""
    found = record(three=(0.9, 0.8))
    damage = found.damage.model_copy(update={"rise": 0.01})

    (sentence,) = damage_findings(found.model_copy(update={"damage": damage}))

    assert "together add 0.3000 nats to the objective, but it rose by 0.0100" in sentence


@pytest.mark.parametrize(
    ("own", "under_noise", "says"),
    [
        (0.84, 0.89, "Test accuracy falls by 6.0 points, under noise by 1.0: 6.0 times as far."),
        (0.84, 0.90, "Test accuracy falls by 6.0 points, and under no baseline."),
        (0.90, 0.89, "Test accuracy does not fall, but noise lowers it by 1.0 points."),
        (0.91, 0.90, "Test accuracy falls neither with the chosen set-up nor with a baseline."),
    ],
    ids=["both", "the metagradient alone", "the baseline alone", "none"],
)
def test_falls_of_the_accuracy_are_written_where_there_are_some(own, under_noise, says):
    """A fall by 0.0 is none."""
    iterates = [SimpleNamespace(scores={"test": {"accuracy": accuracy}}) for accuracy in (0.9, own)]
    noise = SimpleNamespace(name="noise", scores={"test": {"accuracy": under_noise}})
    made = RunRecord.model_construct(iterates=iterates, chosen=1, baselines=[noise])

    assert points(made) == says
