"""Who suffers from changed inputs: a fall that is none when it is written is no suffering."""

import re

import pytest

from engine.applications.comparisons.results import ChangedImage, Damage
from engine.applications.descent.comparison_findings import damage_findings
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
        ({"three": (0.923, 0.923), "seven": (0.9, 0.95)}, "No class has a lower test accuracy"),
        ({"three": (0.92304, 0.92296), "seven": (0.9, 0.9)}, "No class has a lower test accuracy"),
        ({"three": (0.923, 0.9), "seven": (0.9, 0.9)}, "Class three suffers most: .* 92.3 % to 90"),
    ],
    ids=["none", "below-what-is-written", "a-fall"],
)
def test_a_class_suffers_only_if_its_accuracy_falls(victims, says):
    """Loss may rise while every example is classified as before."""
    sentences = damage_findings(record(**victims))

    assert re.match(says, sentences[-1])
