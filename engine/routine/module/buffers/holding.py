"""Copies, frozen parameters and inner training within a call of the user's code.

In a run parameters are parts of one tensor, and no leaves of autograd's graph. Code that copies the
module by ``deepcopy``, freezes parameters for one term of a loss, or takes steps of its own inside
would fail there, or lose derivatives. Such a call is made again in a mode in
which all of that means what it means in torch: copies, and gradients of inner steps without a
graph, are constant in the gradient of the step and not in the derivative of the run.
"""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from engine.errors import WitnessError
from engine.routine.module.buffers.carried import CUTS, Carrying, writes_into_first
from engine.routine.module.buffers.statistic import Statistic, as_moved
from engine.routine.module.calls_again import leaves_of, users_line
from engine.routine.module.seen_graph import ASKS
from engine.routine.module.stop_gradient import stop_gradient


class Holding(Carrying):
    """Runs a call whose copies, frozen parameters and inner steps are what they are in torch.

    Args:
        held: The buffers that are a part of the state, as they are bound for the call.
        parameters: What is bound in the place of the parameters, by name.
    """

    def __init__(self, held: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> None:
        super().__init__(held, is_traced=True)
        self._parameters = {id(tensor): (name, tensor) for name, tensor in parameters.items()}
        self._frozen: dict[int, str] = {}  # and the line that did it
        self._cut: dict[int, Tensor] = {}
        # Tensors that stand for leaves, and whether they require a gradient.
        self._leaves: dict[int, tuple[Tensor, bool]] = {}
        self._places: set[int] = set()
        self._gradients: dict[int, Tensor] = {}
        self.is_needed = False
        """Whether the call did what only leaves can, so that it would have failed elsewhere."""

    def __enter__(self) -> "Holding":
        super().__enter__()
        if "torch._dynamo" in sys.modules:  # a copy of what is compiled would be compiled
            self._entered.enter_context(torch.compiler.set_stance("force_eager"))
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        if error[0] is None and self._frozen:
            number, line = next(iter(self._frozen.items()))
            raise WitnessError(
                f"A call of the loss or the model leaves the parameter "
                f"{self._parameters[number][0]!r} frozen at its end, by requires_grad at {line}, "
                "so torch gives it no gradient of this call at all, also of terms that were made "
                "before. Unfreeze it before the call returns, with requires_grad_(True), or leave "
                "that out; what should never be trained, freeze before the routine is made."
            )

    def on_call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Call ``function`` as torch would on leaves."""
        if function is torch.autograd.grad:
            return self._inner_gradient(args, kwargs)
        if function is Tensor.backward:
            return self._inner_backward(*args, **kwargs)
        first: Any = args[0] if args else None
        if isinstance(first, Tensor):
            found = self._of_leaf(function, first, args, kwargs)
            if found is not NotImplemented:
                return found
        if self._frozen or self._cut:
            kept = int(writes_into_first(function))
            args = (*args[:kept], *tree_map(self._as_read, args[kept:]))
            kwargs = {name: tree_map(self._as_read, value) for name, value in kwargs.items()}
        return super().on_call(function, args, kwargs)

    def stopped(self, value: Any) -> Any:  # noqa: ANN401 (any argument)
        """Return a value that the step holds constant; a copy, too, is trained by inner steps."""
        if isinstance(value, Tensor) and value.requires_grad and self._is_of_leaf(value):
            return stop_gradient(value)
        return super().stopped(value)

    def is_overwritten(self, tensor: Tensor) -> bool:
        """Say whether a saved tensor may be written into: whatever is made without a graph may."""
        return self.is_off or super().is_overwritten(tensor)

    def in_functions(self, value: Any) -> Any:  # noqa: ANN401 (any argument)
        """Return what a custom function of autograd's is given in the place of an argument."""
        return self._as_read(super().in_functions(value))

    def _as_read(self, value: Any) -> Any:  # noqa: ANN401 (any argument)
        if isinstance(value, Tensor) and (id(value) in self._frozen or id(value) in self._cut):
            return stop_gradient(value)
        return value

    def _is_of_leaf(self, tensor: Tensor) -> bool:
        try:
            return tensor.untyped_storage()._cdata in self._places
        except (RuntimeError, NotImplementedError):
            return False

    def _adopt(self, tensor: Tensor, *, requires_grad: bool) -> Tensor:
        """Let a tensor that is held constant stand for a leaf of its own from here on."""
        self._leaves[id(tensor)] = tensor, requires_grad
        self._places.add(tensor.untyped_storage()._cdata)
        self.hold(tensor)
        self._mark()
        return tensor

    def _mark(self) -> None:
        """Let what asks about the graph see leaves; one that was written into has a new node."""
        for tensor, flag in self._leaves.values():
            self._seen.mark(tensor, flows=flag)

    def _of_leaf(
        self, func: Callable[..., Any], first: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401 (whatever the function returns)
        """Answer for parameters and leaves; ``NotImplemented`` where torch's answer is right."""
        if func is Tensor.__deepcopy__ and first.requires_grad and not first.is_leaf:
            self.is_needed = True
        if func is Tensor.__deepcopy__ and not (isinstance(first, Statistic) and first.averages):
            value = as_moved(first)
            if value.requires_grad:
                return self._copy_of(first, value, args[1])
        is_flag = func is Tensor.requires_grad_ or func == _SET_FLAG
        if is_flag:
            flag = kwargs.get("requires_grad", args[1] if args[1:] else True)
            return self._set_flag(func, first, is_asked=bool(flag))
        is_own, is_leaf = id(first) in self._parameters, id(first) in self._leaves
        if func in ASKS and (is_own or is_leaf):
            flag = id(first) not in self._frozen if is_own else self._leaves[id(first)][1]
            return (flag, True, None)[ASKS.index(func)]
        if func in ASKS:
            self._mark()
        elif is_leaf and func in CUTS:
            view = first.view_as(first)  # what is written into it is written into the leaf
            self._cut[id(view)] = view
            return view
        elif is_leaf and func in _GRADIENT:
            return self._of_gradient(func, first, args)
        return NotImplemented

    def _copy_of(self, tensor: Tensor, value: Tensor, memo: dict[int, Any]) -> Tensor:
        if id(tensor) not in memo:
            own = id(tensor) in self._parameters or id(tensor) in self._leaves
            flag = own and id(tensor) not in self._frozen
            plain = value.as_subclass(Tensor)
            memo[id(tensor)] = self._adopt(stop_gradient(plain), requires_grad=flag)
        return memo[id(tensor)]

    def _set_flag(self, func: Callable[..., Any], first: Tensor, *, is_asked: bool) -> Any:  # noqa: ANN401 (the tensor, or NotImplemented)
        if not is_asked and first.requires_grad and not first.is_leaf:
            self.is_needed = True
        if id(first) in self._parameters:
            if is_asked:
                self._frozen.pop(id(first), None)
            else:
                self._frozen[id(first)] = users_line()
        elif id(first) in self._leaves:
            self._leaves[id(first)] = first, is_asked
            self._mark()
        elif is_asked and not first.is_leaf and not self._seen.requires_grad(first):
            if not self.holds(first):
                self._adopt(first, requires_grad=True)
        else:
            return NotImplemented
        return None if func == _SET_FLAG else first

    def _of_gradient(self, func: Callable[..., Any], leaf: Tensor, args: tuple[Any, ...]) -> Any:  # noqa: ANN401 (a gradient, or nothing)
        if func == _GRADIENT[0]:
            return self._gradients.get(id(leaf))
        if func == _GRADIENT[1] and args[1] is not None:
            self._gradients[id(leaf)] = args[1]
        else:
            self._gradients.pop(id(leaf), None)
        return None

    def _inner_gradient(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401 (as torch's)
        given = _OF_GRAD.bind(*args, **kwargs).arguments
        if given.get("create_graph"):
            return torch.autograd.grad(*args, **kwargs)
        given |= {"create_graph": True, "retain_graph": True}
        return tree_map(self.stopped, torch.autograd.grad(**given))

    def _inner_backward(
        self,
        value: Tensor,
        gradient: Tensor | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Sequence[Tensor] | None = None,
    ) -> None:
        """Let leaves have gradients, as ``backward()`` does."""
        del retain_graph  # a graph is kept anyway
        own = [tensor for _, tensor in self._parameters.values() if id(tensor) not in self._frozen]
        leaves = [tensor for tensor, flag in self._leaves.values() if flag]
        leaves += leaves_of(value, own)
        if inputs is not None:
            asked = {id(each) for each in tree_leaves(inputs)}
            leaves, own = ([t for t in ts if id(t) in asked] for ts in (leaves, own))
        with torch.enable_grad():
            found = torch.autograd.grad(
                value, [*leaves, *own], gradient, create_graph=True, allow_unused=True
            )
        if any(each is not None for each in found[len(leaves) :]):
            raise WitnessError(
                "The loss writes into the .grad of the module's parameters by calling backward(), "
                "which a step of the engine has not. Take derivatives inside of a loss by "
                "torch.autograd.grad(value, inputs), or let backward() be of a copy of the module "
                "alone: copy.deepcopy(model)."
            )
        for leaf, slope in zip(leaves, found, strict=False):
            if slope is None:
                continue
            step = slope if create_graph else self.stopped(slope)
            if id(leaf) not in self._leaves:
                leaf.grad = step if leaf.grad is None else leaf.grad + step
                continue
            before = self._gradients.get(id(leaf))
            self._gradients[id(leaf)] = step if before is None else before + step


_SET_FLAG: Any = Tensor.requires_grad.__set__  # pyright: ignore[reportAttributeAccessIssue] (a descriptor of C)
_OF_A_GRADIENT: Any = Tensor.grad
_GRADIENT = (_OF_A_GRADIENT.__get__, _OF_A_GRADIENT.__set__, _OF_A_GRADIENT.__delete__)
_OF_GRAD = inspect.signature(torch.autograd.grad)
