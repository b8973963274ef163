"""What a mode is told of a call of torch, however the call was written."""

import subprocess
import sys

import pytest
import torch

from engine.torch_modes import FunctionMode, OperationMode


class Heard(FunctionMode):
    """Notes functions with their arguments."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def on_call(self, function, args, kwargs):
        """Note and call."""
        self.calls.append((function, args, kwargs))
        return function(*args, **kwargs)


class Counted(OperationMode):
    """Notes the names of operations."""

    def __init__(self):
        super().__init__()
        self.names = []

    def on_operation(self, operation, args, kwargs):
        """Note and carry out."""
        self.names.append((operation.overloadpacket.__name__, kwargs))
        return operation(*args, **kwargs)


def test_a_function_is_told_with_its_arguments_and_an_empty_dict_for_none_by_name():
    """Torch hands over None there, on which every member would stumble that asks for a name."""
    x = torch.ones(3)

    with Heard() as heard:
        x.sum()
        torch.sum(x, dim=0)

    (first, given, none), (_, _, named) = heard.calls
    assert first is torch.Tensor.sum
    assert given[0] is x
    assert none == {}
    assert named == {"dim": 0}


def test_operations_of_the_backward_pass_are_told_too():
    """A kink, or a format of few bits, may stand in a derivative alone."""
    x = torch.ones(3, requires_grad=True)

    with Counted() as counted:
        torch.autograd.grad(x.exp().sum(), x)

    names = [name for name, _ in counted.names]
    assert "exp" in names
    assert "mul" in names[names.index("sum") :]
    assert all(isinstance(kwargs, dict) for _, kwargs in counted.names)


@pytest.mark.slow
def test_a_mode_of_operations_does_not_load_the_compiler():
    """Torch would import it to keep it out, which takes three seconds of every check."""
    code = """
import sys, torch
from engine.torch_modes import OperationMode

class Silent(OperationMode):
    def on_operation(self, operation, args, kwargs):
        return operation(*args, **kwargs)

with Silent():
    torch.ones(3).sum()
print("torch._dynamo" in sys.modules)
"""

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stdout.strip() == "False"
