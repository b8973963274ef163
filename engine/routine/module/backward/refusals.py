"""Custom functions of which no derivative can be taken: why not, and what to write instead."""

import inspect

from engine.errors import WitnessError
from engine.routine.module.backward.call import Call

OTHERS = (
    "returns other values when it is called once more with the same arguments, so nobody can tell "
    "its derivative from its backward pass. Hand in what it reads as an argument, and keep no "
    "state in it"
)
CHANGED = (
    "is given a tensor that is written into afterwards, so it cannot be asked for its derivative. "
    "Write what follows without changing in place: x = x + y in place of x += y"
)
NEITHER = (
    "has no second derivative that is right: its backward pass is not the derivative of what its "
    "forward pass returns, and the forward pass cannot be differentiated by torch (numpy(), "
    "detach(), .data). Write the forward pass with operations of torch that have a graph, or as "
    "g(x) + engine.stop_gradient(f(x) - g(x)) without a custom function"
)
ONCE = (
    "is marked @once_differentiable, and its backward pass is taken out of the graph: difference "
    "quotients of it are others than the derivative that autograd finds. Write its backward pass "
    "with operations of torch that have a derivative, without numpy(), detach(), .data or a kernel "
    "of its own, and leave the mark out"
)


def refusal(call: Call, why: str) -> WitnessError:
    """Return the error that names a function, where it is written, and why it is refused."""
    function = call.function
    try:
        where = f" at {inspect.getsourcefile(function)}:{inspect.getsourcelines(function)[1]}"
    except (OSError, TypeError):
        where = ""
    return WitnessError(f"The custom function {function.__name__}{where} {why}.")
