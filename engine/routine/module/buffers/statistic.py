"""What layers of batch normalization are given in the place of their running statistics.

It answers ``batch_norm`` itself, and whoever reads it finds what the layer has made of it by then.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import batch_norm
from torch.utils._pytree import tree_map

from engine.errors import UndifferentiableError
from engine.routine.module.buffers.calls import LayerCall
from engine.routine.module.buffers.norm_arguments import normalized
from engine.routine.module.stop_gradient import stop_gradient


class Statistic(Tensor):
    """A running mean or variance that answers ``batch_norm`` in the place of torch's kernel."""

    layer: str
    calls: "list[LayerCall] | None"
    kind: str
    is_held: bool
    averages: bool
    before: int

    @classmethod
    def of(
        cls,
        value: Tensor,
        layer: str,
        calls: list[LayerCall] | None,
        *,
        kind: str = "",
        is_held: bool = True,
        averages: bool = False,
    ) -> "Statistic":
        """Return a value as the statistic of a layer, which notes its calls in a list.

        Args:
            value: A part of a state, or what the layer computed from one.
            layer: Name of the layer.
            calls: Where calls are noted; None where nobody wants to know.
            kind: Which one of the layer's it is.
            is_held: Whether the value is that of the state, which nobody may change in place.
            averages: Whether the layer averages all batches, so that their number counts.
        """
        statistic = value.as_subclass(cls)
        statistic.layer, statistic.calls, statistic.kind = layer, calls, kind
        statistic.is_held, statistic.averages = is_held, averages
        statistic.before = 0 if calls is None else len(calls)
        return statistic

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Call ``func``; batch normalization by its formula, and no change in place."""
        del types
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if func in _SIGNATURES:
                given = _SIGNATURES[func].bind(*args, **kwargs)
                given.apply_defaults()
                return _batch_norm(given.arguments)
            if func is Tensor.__deepcopy__:
                return _copied(*args)
            name = getattr(func, "__name__", "")
            if (name.endswith("_") and not name.startswith("__")) or name in _IN_PLACE:
                changed = args[0] if args else None
                if isinstance(changed, cls) and changed.is_held:
                    raise UndifferentiableError(
                        f"The batch normalization {changed.layer!r} changes its running statistics "
                        f"by rules of its own ({name} in its forward pass), whose derivative "
                        "nobody would know. Let it call torch.nn.functional.batch_norm with its "
                        "statistics, or use group or layer normalization; in place of torch's "
                        "update_bn, as after SWA, call engine.update_bn(batches, model)."
                    )
            given = args, kwargs
            # Its shape and device do not move; a moved one would be gone when it was looked for.
            if func is _GET_DATA or name not in ("__get__", *_OF_MEMORY):
                given = tree_map(as_moved, given)
            result = func(*given[0], **given[1])
        # A part or a mean of statistics is one as well, for layers that cut theirs to size.
        tensors = [value for value in args if isinstance(value, Tensor)]
        if type(result) is Tensor and tensors and all(isinstance(t, cls) for t in tensors):
            return cls.of(result, tensors[0].layer, None, is_held=False)  # pyright: ignore[reportAttributeAccessIssue] (one of cls)
        return result


_OF_CALLS = {"running_mean": "mean", "running_var": "variance"}
_GET_DATA: Any = Tensor.data.__get__  # pyright: ignore[reportAttributeAccessIssue] (a descriptor of C)
_OF_MEMORY = ("data_ptr", "storage", "storage_offset", "typed_storage", "untyped_storage")
"""What asks where a tensor lies."""

_IN_PLACE = ("__iadd__", "__imul__", "__isub__", "__itruediv__", "__setitem__")


def _function(  # noqa: PLR0913 (torch's signature)
    input: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> None: ...


def _operation(  # noqa: PLR0913 (torch's signature)
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> None: ...


_SIGNATURES = {
    batch_norm: inspect.signature(_function),
    torch.batch_norm: inspect.signature(_operation),
}


def _copied(statistic: Tensor, memo: dict[int, Any]) -> Tensor:
    """Return an ordinary tensor for ``copy.deepcopy``: a copy of the module is none of the run's.

    Its layers call torch's own kernel and move their own statistics, as those of any module, except
    where they would have to know how many batches went before.
    """
    if id(statistic) not in memo:
        copied: Tensor = as_moved(statistic).as_subclass(Tensor).clone()
        if isinstance(statistic, Statistic) and statistic.averages:
            copied = Statistic.of(copied, statistic.layer, None, is_held=False, averages=True)
        memo[id(statistic)] = copied
    return memo[id(statistic)]


def _batch_norm(given: Mapping[str, Any]) -> Tensor:
    inputs, mean, variance = given["input"], given["running_mean"], given["running_var"]
    if not given["training"]:
        return normalized(inputs, as_moved(mean), as_moved(variance), given)
    if isinstance(mean, Statistic) and mean.averages and not mean.is_held:
        raise UndifferentiableError(
            f"A copy of the batch normalization {mean.layer!r}, which averages all batches "
            "(momentum=None), is called in training. How many batches went before is in no state, "
            "so nobody would know what the copy's statistics become. Give the layer a momentum, or "
            "call the copy in evaluation mode."
        )
    if isinstance(mean, Statistic) and mean.calls is not None:
        axes = [axis for axis in range(inputs.ndim) if axis != 1]
        found = torch.var_mean(inputs, dim=axes)
        mean.calls.append(LayerCall(mean.layer, found[1], found[0], float(given["momentum"])))
    return batch_norm(
        inputs, None, None, given["weight"], given["bias"], training=True, eps=given["eps"]
    )


def as_moved(value: Any) -> Any:  # noqa: ANN401 (any argument)
    """Return a statistic as the layer has moved it in this call, which holds that constant.

    Raises:
        UndifferentiableError: If nobody knows how far it was moved.
    """
    if not isinstance(value, Statistic) or not value.calls:
        return value
    own = [call for call in value.calls[value.before :] if call.name == value.layer]
    if own and value.averages:
        raise UndifferentiableError(
            f"The batch normalization {value.layer!r} averages all batches (momentum=None), and "
            "its running statistics are read in the call that moves them. How many batches went "
            "before is in no state. Give the layer a momentum, or read its statistics before it "
            "is called."
        )
    moved: Tensor = value
    with torch._C.DisableTorchFunctionSubclass():  # which would move it once more
        for call in own:
            batch = stop_gradient(getattr(call, _OF_CALLS[value.kind]))
            moved = (1 - call.momentum) * moved + call.momentum * batch
    return moved
