"""The checks of types, which every other test counts on, find what they are there to find."""

from typing import Any

import jaxtyping
import pytest
import torch
from torch import nn

from engine.models.losses import per_example_cross_entropy
from engine.models.parts import Residual
from engine.problems.data.splits import Examples
from engine.schedules.simulator import measure
from engine.schedules.trees import Save


def test_axis_of_another_length_is_found_among_arguments():
    """Two axes of one name have one length; torch would broadcast, and train on nonsense."""
    with pytest.raises(jaxtyping.TypeCheckError, match="batch"):
        per_example_cross_entropy(
            lambda inputs: inputs, (torch.ones(3, 4), torch.zeros(2, dtype=torch.int64))
        )


def test_axis_of_another_length_is_found_in_what_is_returned():
    """The lengths that the arguments have bind those of the result."""
    with pytest.raises(jaxtyping.TypeCheckError, match="return value"):
        Residual(nn.Upsample(scale_factor=3))(torch.ones(2, 3, 1, 1))


def test_axis_of_another_length_is_found_in_a_dataclass():
    """Splits are handed from one module to the next as such a class."""
    with pytest.raises(jaxtyping.TypeCheckError, match="examples"):
        Examples(inputs=torch.ones(3, 4), labels=torch.zeros(2, dtype=torch.int64))


def test_wrong_type_is_found_where_no_axis_is_named():
    """In a function and in a dataclass."""
    wrong: Any = "first"
    with pytest.raises(jaxtyping.TypeCheckError, match="actions"):
        measure(wrong)
    with pytest.raises(jaxtyping.TypeCheckError, match="step"):
        Save(wrong)
