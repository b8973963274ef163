"""Parameters that a forward pass takes out of a module, and puts back, while a run holds others.

A weight is exchanged for a call by deleting it and setting another tensor, and put back afterwards.
What a run binds is no ``nn.Parameter``, so torch would take it for an attribute, which
``parameters()`` does not find, or refuse to register it.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache, wraps
from typing import Any

from torch import Tensor, nn

_ACTIVE: list["PutBack"] = []
"""The blocks that the process is in, the innermost last."""


class PutBack(AbstractContextManager[None]):
    """Let modules find what is bound in them, wherever it was put back, inside the block.

    Three methods of ``nn.Module`` ask the blocks that the process is in, from the first such block
    on. They are not exchanged for each block: after each change of a class Python looks up all
    attributes of all modules anew, which took a tenth of a small step.

    Args:
        refresh: Puts what is bound, and lies among the attributes, where it was bound.
        is_bound: Says whether a tensor is bound to a name of a module.
    """

    def __init__(
        self, refresh: Callable[[], None], is_bound: Callable[[nn.Module, str, object], bool]
    ) -> None:
        self.refresh, self.is_bound = refresh, is_bound

    def __enter__(self) -> None:
        _ask_blocks()
        _ACTIVE.append(self)

    def __exit__(self, *_: object) -> None:
        _ACTIVE.remove(self)


@cache
def _ask_blocks() -> None:
    """Let these methods ask the blocks, once for the process."""
    kind: Any = nn.Module
    members, register, get = kind._named_members, kind.register_parameter, kind.get_parameter

    @wraps(members)
    def named_members(module: nn.Module, *args: Any, **options: Any) -> Iterator[Any]:  # noqa: ANN401 (as torch's)
        for block in _ACTIVE:
            block.refresh()
        return members(module, *args, **options)

    @wraps(register)
    def register_parameter(module: nn.Module, name: str, param: Tensor | None) -> None:
        if param is None or not any(block.is_bound(module, name, param) for block in _ACTIVE):
            register(module, name, param)
            return
        vars(module).pop(name, None)
        module._parameters[name] = param  # pyright: ignore[reportArgumentType] (in the place of one)

    @wraps(get)
    def get_parameter(module: nn.Module, target: str) -> Tensor:
        path, _, name = target.rpartition(".")
        owner = module.get_submodule(path)
        for block in _ACTIVE:
            block.refresh()
        found = owner._parameters.get(name)
        if found is not None and any(block.is_bound(owner, name, found) for block in _ACTIVE):
            return found  # torch's own asks whether it is an nn.Parameter
        return get(module, target)

    kind._named_members, kind.register_parameter = named_members, register_parameter
    kind.get_parameter = get_parameter
