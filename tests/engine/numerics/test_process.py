"""What a process is set up with before it computes."""

import os

import pytest
import torch

from engine.errors import ConfigurationError
from engine.numerics.process import prepare_cpu


def test_threads_that_would_wait_for_one_another_are_refused():
    """A thousand of them on two cores did not take one step in a minute."""
    before = torch.get_num_threads()

    with pytest.raises(ConfigurationError, match="this machine has"):
        prepare_cpu(1000 * (os.cpu_count() or 1))

    assert torch.get_num_threads() == before
    assert "1 thread" in prepare_cpu(1)
    torch.set_num_threads(before)
