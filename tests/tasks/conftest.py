"""What tests of tasks run under."""

from tests.few_directions import few_directions

__all__ = ["few_directions"]
