"""Copies, frozen parameters and inner training within a call of the user's code.

In a run parameters are parts of one tensor, and no leaves of autograd's graph. Code that copies the
module by ``deepcopy``, freezes parameters for one term of a loss, or takes steps of its own inside
would fail there, or lose derivatives. Such a call is made again, and every later one, in a mode in
which all of that means what it means in torch: copies, and gradients of inner steps without a
graph, are constant in the gradient of the step and not in the derivative of the run.
"""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor, autograd
from torch.utils._pytree import tree_leaves, tree_map

from engine.errors import WitnessError
from engine.routine.module.buffers.carried import CUTS, Carrying, writes_into_first
from engine.routine.module.seen_graph import ASKS
from engine.routine.module.stop_gradient import is_stop, stop_gradient
from engine.torch_modes import FunctionMode

HOLDING = "calls copy, freeze or train inside"
"""Where a routine notes that its calls do so, among what was measured of its step."""

_ASKED_OF_LEAVES = ("support the deepcopy protocol", "change requires_grad flags of leaf")


class HoldingWanted(BaseException):  # which code of the user does not take for an error of its own
    """A call takes a gradient whose derivative would be lost; the call is to be made again."""


def wants_holding(error: BaseException) -> bool:
    """Say whether a call failed for what only leaves of a graph have, or asked by itself."""
    if isinstance(error, HoldingWanted):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _ASKED_OF_LEAVES)


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
        if func is Tensor.__deepcopy__ and first.requires_grad:
            return self._copied(first, args[1])
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

    def _copied(self, tensor: Tensor, memo: dict[int, Any]) -> Tensor:
        if id(tensor) not in memo:
            own = id(tensor) in self._parameters or id(tensor) in self._leaves
            flag = own and id(tensor) not in self._frozen
            plain = tensor.as_subclass(Tensor)
            memo[id(tensor)] = self._adopt(stop_gradient(plain), requires_grad=flag)
        return memo[id(tensor)]

    def _set_flag(self, func: Callable[..., Any], first: Tensor, *, is_asked: bool) -> Any:  # noqa: ANN401 (the tensor, or NotImplemented)
        if id(first) in self._parameters:
            if is_asked:
                self._frozen.pop(id(first), None)
            else:
                self._frozen[id(first)] = _users_line()
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


def leaves_of(value: Tensor, own: Sequence[Tensor] = ()) -> list[Tensor]:
    """Return the leaves to which the gradient of a value flows, and not by way of ``own``."""
    waiting, seen = [value.grad_fn], {each.grad_fn for each in own}
    found = list[Tensor]()
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen or is_stop(node):
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [following for following, _ in node.next_functions]
    return found


_SET_FLAG: Any = Tensor.requires_grad.__set__  # pyright: ignore[reportAttributeAccessIssue] (a descriptor of C)
_OF_A_GRADIENT: Any = Tensor.grad
_GRADIENT = (_OF_A_GRADIENT.__get__, _OF_A_GRADIENT.__set__, _OF_A_GRADIENT.__delete__)
_OF_GRAD = inspect.signature(torch.autograd.grad)

_Called = TypeVar("_Called")

_WATCHED: list[Sequence[Tensor]] = []
"""Parameters of the calls that are made without the mode, the innermost last: of the process, in
which one thread at a time computes (``engine.numerics.determinism.PROCESS``)."""

_torch_run = autograd._engine_run_backward  # pyright: ignore[reportAttributeAccessIssue] (what torch's functions call)


def _run(outputs: Sequence[Tensor], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (as torch's)
    """Take the place of what torch's derivatives call, and note those whose own would be lost.

    Raises:
        HoldingWanted: If code of the user takes a gradient by what follows the parameters, or of
            an inner training that does not reach them, and keeps no graph of it.
    """
    _, _, creates, inputs, *_ = args
    own = _WATCHED[-1] if _WATCHED else ()
    if not creates and any(each.requires_grad for each in own) and _user_frame() is not None:
        given = [each for each in inputs if isinstance(each, Tensor)]
        if any(each.grad_fn is not None for each in given) or not _reaches(outputs, own):
            raise HoldingWanted("A call takes a gradient without a graph of it.")
    return _torch_run(outputs, *args, **kwargs)


def _reaches(outputs: Sequence[Tensor], own: Sequence[Tensor]) -> bool:
    roots = {id(leaf) for tensor in own for leaf in leaves_of(tensor)}
    return any(id(leaf) in roots for each in outputs for leaf in leaves_of(each))


def _user_frame() -> FrameType | None:
    """Return where the user's code called torch; None if the engine, or nobody, did.

    Modes of the engine hand on what the user called.
    """
    frame, is_engines = sys._getframe(1), False
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        package = name.partition(".")[0]
        if name == FunctionMode.__module__:
            is_engines = False
        elif package == "engine":
            is_engines = is_engines or name != __name__
        elif package != "torch":
            return None if is_engines else frame
        frame = frame.f_back
    return None


def _users_line() -> str:
    frame = _user_frame()
    return (
        "a place that is not known"
        if frame is None
        else f"{frame.f_code.co_filename}:{frame.f_lineno}"
    )


WATCHED = (autograd, "_engine_run_backward", _run)
"""A module, a name in it, and what stands there while a module is called."""


def called_as_wanted(
    programs: dict[str, Any],
    parameters: Sequence[Tensor],
    device: torch.device,
    call: Callable[[], _Called],
) -> _Called:
    """Carry out a call of the user's code; again in the mode, if it turns out to need it.

    Args:
        programs: Those of the routine, where it is noted.
        parameters: What is bound in the place of the parameters.
        device: Of the parameters.
        call: Binds everything anew, and enters the mode if that is noted.

    Cost:
        A copy of the state of the random generator, some two microseconds.
    """
    if HOLDING in programs:
        return call()
    before = torch.default_generator.get_state()
    there = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    _WATCHED.append(parameters)
    try:
        return call()
    except (RuntimeError, HoldingWanted) as error:
        if not wants_holding(error):
            raise
    finally:
        _WATCHED.pop()
    programs[HOLDING] = True
    torch.default_generator.set_state(before)
    if there is not None:
        torch.cuda.set_rng_state(there, device)
    return call()
