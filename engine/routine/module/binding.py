"""Parts of a user's module besides its parameters, and how a run holds other tensors in it.

A step calls the module with the parameters of a state in the place of its own. They stay there
until the block of ``Binding.keeping`` ends, so that code which runs in the backward pass
(activation checkpointing, implicit layers) reads the parameters of its own step, too.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from engine.errors import ConfigurationError, WitnessError
from engine.numerics.determinism import PROCESS
from engine.routine.module.closures import bind_hooks, call_as_written
from engine.routine.module.gradient_hooks import gradient_hooks
from engine.routine.module.operations import corrections
from engine.routine.module.put_back import PutBack
from engine.routine.module.stop_gradient import PASSES
from engine.torch_modes import FunctionMode

Slot = tuple[dict[str, Any], str]
"""Where a module keeps a tensor: one of its dictionaries, and the key in it."""


def copied(
    model: nn.Module,
    reader: Callable[..., Any] | None = None,
    known: Mapping[int, Any] | None = None,
) -> nn.Module:
    """Return a deep copy that keeps what hangs on parameters: their hooks and attributes.

    Args:
        model: The module.
        reader: The loss, which may read what hooks of the module have written elsewhere.
        known: What the copy has in the place of objects, by their identity.

    Raises:
        ConfigurationError: If a parameter has a hook that no copy can carry.
    """
    with PROCESS:  # a module holds the numbers of a step that another thread is at
        with mock.patch.object(Tensor, "__deepcopy__", _value_or_copy):
            duplicate = copy.deepcopy(model, _owners_of_hooks(model) | dict(known or {}))
        for module in duplicate.modules():
            if isinstance(module, torch.jit.ScriptModule):
                # Its copies are results of cloning the originals, to which a gradient would flow.
                for key, tensor in dict(module.named_parameters(recurse=False)).items():
                    own = nn.Parameter(tensor.detach(), requires_grad=tensor.requires_grad)
                    module._parameters[key] = own
        copies = dict(duplicate.named_parameters())
        for name, parameter in model.named_parameters():
            if parameter is copies[name]:
                continue  # a module that copies itself may share them
            for hook in gradient_hooks(name, parameter):
                copies[name].register_hook(hook)
            vars(copies[name]).update(vars(parameter))
        bind_hooks(model, duplicate, reader)
        call_as_written(duplicate)
        return duplicate


def _owners_of_hooks(model: nn.Module) -> dict[int, Any]:
    """Return the objects whose methods are hooks of modules, by identity, to be shared by a copy.

    One that collects activations is read by the loss, which knows the object itself. What a module
    holds as an attribute is copied with it.
    """
    held = {id(value) for module in model.modules() for value in vars(module).values()}
    found: dict[int, Any] = {}
    for module in model.modules():
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
            owner = getattr(hook, "__self__", None)
            if owner is not None and not isinstance(owner, nn.Module) and id(owner) not in held:
                found[id(owner)] = owner
    return found


_copy_tensor = Tensor.__deepcopy__


def _value_or_copy(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    """Copy the value of what a forward pass left behind (a cache, a recomputed weight).

    It carries a graph, which torch refuses to copy; so it does a sparse matrix of rows or columns.
    """
    if tensor.is_leaf and tensor.layout in (torch.strided, torch.sparse_coo):
        return _copy_tensor(tensor, memo)
    memo[id(tensor)] = tensor.detach().clone()
    return memo[id(tensor)]


_PLAIN = {
    kind: {getattr(owner, kind) for owner in (nn.Module, torch.jit.ScriptModule)}
    for kind in ("train", "eval")
}


def own_modes(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the modules with a ``train()`` or ``eval()`` of a user's own, and their names."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if any(
            getattr(type(module), kind) not in plain or kind in vars(module)
            for kind, plain in _PLAIN.items()
        )
    ]


class _FlagsStay(FunctionMode):
    """Keeps ``requires_grad`` of parameters as it is inside the block.

    Parameters are no leaves there. A ``train()`` that keeps layers frozen says so at every call,
    which changes nothing; one that freezes others during the run is refused.
    """

    def __init__(self, model: nn.Module, frozen: frozenset[str]) -> None:
        super().__init__()
        self._flags = {id(p): name not in frozen for name, p in model.named_parameters()}

    def on_call(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:  # noqa: ANN401 (whatever the function returns)
        flag = None
        if function in (Tensor.requires_grad_, _SET_FLAG):
            flag = self._flags.get(id(args[0]))
        if flag is None:
            return function(*args, **kwargs)
        asked = kwargs.get("requires_grad", args[1] if args[1:] else True)
        if bool(asked) is not flag:
            raise ConfigurationError(
                "A train() or eval() of the model freezes or unfreezes parameters during the run, "
                "and which ones are trained is settled when the routine is made. Freeze them "
                "before, or make one routine for each stage."
            )
        return args[0]


_SET_FLAG = Tensor.requires_grad.__set__  # pyright: ignore[reportAttributeAccessIssue] (a descriptor of C)


class Modes:
    """Which modules train, as the user handed them in.

    The module's own ``train`` says so. Where it was handed in for training, layers inside of it
    that were put into evaluation mode (frozen batch normalization) stay there as well.

    Args:
        model: The run's own copy.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model, self._has_code, self._evaluated = model, bool(own_modes(model)), False
        wanted = [module.training or not model.training for module in model.modules()]
        model.train()
        for module, flag in zip(model.modules(), wanted, strict=True):
            module.training = module.training and flag
        self._flags = [(module, module.training) for module in model.modules()]
        self._frozen = frozenset(n for n, p in model.named_parameters() if not p.requires_grad)
        self.flags = {name: module.training for name, module in model.named_modules()}

    def _flags_stay(self) -> AbstractContextManager[Any]:
        return _FlagsStay(self._model, self._frozen) if self._has_code else nullcontext()

    def evaluate(self) -> None:
        """Put every module into evaluation mode, by its own code."""
        self._evaluated = self._has_code
        with self._flags_stay():
            self._model.eval()

    def train(self) -> None:
        """Put every module into the mode that it has while the run trains.

        Where the module has code of its own for that, which may do more than torch's, it is called
        whenever there was an evaluation.
        """
        if self._evaluated:
            self._evaluated = False
            with self._flags_stay():
                self._model.train()
        for module, flag in self._flags:
            if module.training is not flag:
                module.training = flag


class _Kept(AbstractContextManager[None]):
    """The block of ``Binding.keeping``: one for all, since the binding counts how deep it stands.

    Every step enters several of them, and a generator costs twice as much.
    """

    def __init__(self, binding: "Binding") -> None:
        self._binding = binding

    def __enter__(self) -> None:
        self._binding._begin()

    def __exit__(self, *_: object) -> None:
        self._binding._end()


class Binding:
    """Tensors in the place of a module's own.

    Args:
        model: The run's own copy of the user's module.
        modes: Which of its modules train; they do again at the end of a block.
    """

    def __init__(self, model: nn.Module, modes: Modes | None = None) -> None:
        self._modes = modes
        self._slots: dict[str, list[Slot]] = {}
        # Beside each slot the other dictionary of its module, and its attributes. A forward pass
        # that takes a tensor out and registers or sets it again, as a parametrization for one call
        # does, puts it there: what is bound is no ``nn.Parameter``.
        self._others: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
        self._attributes: dict[str, dict[str, Any]] = {}
        self._own: dict[str, list[Any]] = {}
        self._bound: dict[str, Tensor | None] = {}
        self._depth = 0
        put_back = PutBack(self._put_back, self._is_standing)
        self._corrections = [*corrections(model), lambda: put_back]
        self._in_force = ExitStack()
        self._block = _Kept(self)
        names: dict[int, str] = {}
        seen: list[Tensor] = []  # alive, so that no identity comes again
        for prefix, module in model.named_modules():
            both = module._parameters, module._buffers
            for kept, other in (both, both[::-1]):
                for key, tensor in kept.items():
                    if tensor is None:
                        continue
                    seen.append(tensor)
                    # One tensor under several names, or one module, is one slot of one name.
                    name = names.setdefault(id(tensor), f"{prefix}.{key}" if prefix else key)
                    self._slots.setdefault(name, []).append((kept, key))
                    # That of a scripted module is no dict, and nothing is registered in one.
                    beside = other if isinstance(other, dict) else {}
                    self._others.setdefault(name, []).append((beside, vars(module)))
                    if isinstance(tensor, nn.Parameter) and vars(tensor):
                        self._attributes[name] = dict(vars(tensor))

    def keeping(self) -> AbstractContextManager[None]:
        """Leave what is bound inside the block where it is until the outermost block ends."""
        return self._block

    def _begin(self) -> None:
        PROCESS.acquire()
        self._depth += 1
        PASSES.depth += 1
        if self._depth > 1:
            return
        try:
            for make in self._corrections:
                self._in_force.enter_context(make())
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        try:
            if self._depth == 1:
                self._give_back()
        finally:
            self._depth -= 1
            PASSES.depth -= 1
            PROCESS.release()

    def _give_back(self) -> None:
        try:
            self._in_force.close()  # also the others, where one of them cannot end
        finally:
            for name, tensors in self._own.items():
                self._take_back(name)
                for (kept, key), tensor in zip(self._slots[name], tensors, strict=True):
                    kept[key] = tensor
            self._own.clear()
            self._bound.clear()
            if self._modes is not None:
                self._modes.train()

    def put(self, tensors: Mapping[str, Tensor | None]) -> None:
        """Bind tensors by name, inside of a block of ``kept``."""
        if not self._depth:
            raise RuntimeError("Tensors are bound inside a block of Binding.keeping only.")
        own, attributes = self._own, self._attributes
        self._bound.update(tensors)
        for name, tensor in tensors.items():
            slots = self._slots[name]
            if name not in own:
                own[name] = [kept[key] for kept, key in slots]
            if attributes and name in attributes and tensor is not None:
                vars(tensor).update(attributes[name])
            self._take_back(name)
            for kept, key in slots:
                kept[key] = tensor

    def _take_back(self, name: str) -> None:
        """Put a tensor where it was that the user's code has registered in the other place."""
        for (kept, key), others in zip(self._slots[name], self._others[name], strict=True):
            registered, attributes = others
            if key in registered:
                kept[key] = registered.pop(key)
            elif key in attributes and key not in kept:
                kept[key] = attributes.pop(key)

    def _put_back(self) -> None:
        """Let bound parameters be parameters that lie among the attributes of a module."""
        now = self._parameters_now()
        standing = {id(tensor) for tensor in now.values()}
        for name in now:
            for (kept, key), (_, attributes) in zip(
                self._slots[name], self._others[name], strict=True
            ):
                if key in attributes and key not in kept and id(attributes[key]) in standing:
                    kept[key] = attributes.pop(key)

    def _is_standing(self, module: nn.Module, key: str, tensor: object) -> bool:
        """Say whether a bound parameter may be registered under this name of a module."""
        now = self._parameters_now()
        places = (place for name in now for place in self._slots[name])
        return any(tensor is each for each in now.values()) and any(
            kept is module._parameters and place == key for kept, place in places
        )

    def _parameters_now(self) -> dict[str, Tensor | None]:
        """Return the tensors bound in the place of parameters, by name; made on first use."""
        return {
            name: tensor
            for name, tensor in self._bound.items()
            if isinstance(self._own[name][0], nn.Parameter)
        }

    @contextmanager
    def holding(self, tensors: Mapping[str, Tensor]) -> Iterator[None]:
        """Bind tensors by name inside the block, and after it what was there before."""
        with self.keeping():
            before = {name: kept[key] for name in tensors for kept, key in self._slots[name][:1]}
            self.put(tensors)
            try:
                yield
            finally:
                self.put(before)

    def replace(self, values: Mapping[str, Tensor]) -> None:
        """Put copies of other values into the module itself, outside of any block, by name."""
        for name, value in values.items():
            copy = value.clone()
            for kept, key in self._slots[name]:
                kept[key] = copy

    def bound(self) -> dict[str, Tensor | None]:
        """Return the tensors bound at this moment, by name, so that they can be bound again."""
        for name in self._own:
            self._take_back(name)
        return {name: kept[key] for name in self._own for kept, key in self._slots[name][:1]}

    def knows(self, name: str) -> bool:
        """Say whether the module had a tensor of this name when the binding was made."""
        return name in self._slots

    def is_put(self, name: str) -> bool:
        """Say whether something else is bound in the place of the module's own tensor."""
        return name in self._own

    def refuse_parted(self, names: Iterable[str]) -> None:
        """Refuse a call that has parted what the module holds under several names.

        Raises:
            WitnessError: Names the tensor.
        """
        for name in names:
            self._take_back(name)
            slots = self._slots[name]
            if len(slots) > 1 and any(
                kept[key] is not slots[0][0][slots[0][1]] for kept, key in slots
            ):
                keys = ", ".join(repr(key) for _, key in slots)
                raise WitnessError(
                    f"The module holds {name!r} in {len(slots)} places ({keys}), and the forward "
                    "pass puts another tensor in one of them, so that they are two from then on. "
                    "Write into it in place, or give each a tensor of its own: tensor.clone()."
                )

    def is_bound(self, name: str, tensor: Tensor) -> bool:
        """Say whether a tensor is still where it was put: the user's code may replace it."""
        self._take_back(name)
        for kept, key in self._slots[name]:
            # Of a scripted module, what holds its tensors knows no get().
            if key not in kept or kept[key] is not tensor:
                return False
        return True
