"""Parameters that a forward pass takes out of a module, and puts back, while a run holds others.

A weight is exchanged for a call by deleting it and setting another tensor, and put back afterwards.
What a run binds is no ``nn.Parameter``, so torch would take it for an attribute, which
``parameters()`` does not find, or refuse to register it.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

_MODULE: Any = nn.Module


class PutBack(AbstractContextManager[None]):
    """Let modules find what is bound in them, wherever it was put back, inside the block.

    Args:
        refresh: Puts what is bound, and lies among the attributes, where it was bound.
        is_bound: Says whether a tensor is bound to a name of a module.
    """

    def __init__(
        self, refresh: Callable[[], None], is_bound: Callable[[nn.Module, str, object], bool]
    ) -> None:
        self._refresh, self._is_bound = refresh, is_bound

    def __enter__(self) -> None:
        self._before = _MODULE._named_members, _MODULE.register_parameter
        members, register = self._before
        refresh, is_bound = self._refresh, self._is_bound

        def named_members(module: nn.Module, *args: Any, **options: Any) -> Iterator[Any]:  # noqa: ANN401 (as torch's)
            refresh()
            return members(module, *args, **options)

        def register_parameter(module: nn.Module, name: str, param: Tensor | None) -> None:
            if param is None or not is_bound(module, name, param):
                register(module, name, param)
                return
            vars(module).pop(name, None)
            module._parameters[name] = param  # pyright: ignore[reportArgumentType] (in the place of one)

        _MODULE._named_members, _MODULE.register_parameter = named_members, register_parameter

    def __exit__(self, *_: object) -> None:
        _MODULE._named_members, _MODULE.register_parameter = self._before
