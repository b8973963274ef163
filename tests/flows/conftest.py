"""What tests of whole flows run under."""

from tests.helpers.trainings.few_directions import few_directions

__all__ = ["few_directions"]
