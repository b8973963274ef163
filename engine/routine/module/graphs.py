"""Calls whose results need no graph, and results without one."""

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map


def without_graph(found: Any) -> Any:  # noqa: ANN401 (whatever a function returns)
    """Return what a function has returned, its tensors as constants."""
    return tree_map(lambda part: part.detach() if isinstance(part, Tensor) else part, found)


def wants_a_graph(error: BaseException | None) -> bool:
    """Say whether torch missed a graph: in an error, or in the one that it was raised for."""
    while error is not None:
        if isinstance(error, RuntimeError) and "not require grad" in str(error):
            return True
        error = error.__cause__
    return False
