"""Requirements of a model: the engine must copy, bind and differentiate its parameters."""

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from engine.errors import ConfigurationError
from engine.numerics.fingerprint import fingerprint
from engine.recipes.code.user_code import raised
from engine.routine.module.binding import copied, own_modes

_logger = logging.getLogger(__name__)

LOW_PRECISION = "In fewer than 32 bits the digits of a metagradient, and its signs, are noise"


def model_from(given: Any, loss: Any) -> nn.Module:  # noqa: ANN401 (whatever was handed in)
    """Return a copy of a model that the engine may train, with hooks that hold the copy.

    Raises:
        ConfigurationError: Says what it is, and what to hand in.
    """
    _refuse_no_module(given)
    _refuse_wrappers(given)
    _refuse_layers(given)
    _refuse_parameters(given)
    try:
        model = copied(given, loss)
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"The model cannot be copied: {_culprit(given)} ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no words'}). Keep locks, threads, "
            "open files, generators and tensors with a graph outside of the module, or give the "
            "module a __deepcopy__."
        ) from error
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            module.sparse = False  # the same numbers; a sparse gradient has no flat vector
        if isinstance(module, nn.DataParallel):
            module.device_ids = []  # it calls what it wraps, on the device of the run
    _refuse_moving_modes(given, loss)
    if own_modes(model):
        # What a train() freezes is frozen before anybody asks what is trained.
        modes = [(module, module.training) for module in model.modules()]
        model.train()
        for module, flag in modes:
            module.training = flag
    return model


class Passes(nn.Module):
    """Calls the module that it holds, under the names that a wrapper of torch's gives it.

    Attributes:
        module: What ``DistributedDataParallel`` wraps; a loss may ask for it.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (whatever the module takes and returns)
        """Call the module."""
        return self.module(*args, **kwargs)


def of_one_process(given: Any) -> Any:  # noqa: ANN401 (whatever was handed in)
    """Return a model, or what stands for it where torch spreads its batches over one process.

    ``DistributedDataParallel`` waits for a backward pass after each forward pass, which a run does
    not make; among one process it changes no number.
    """
    if not isinstance(given, nn.parallel.DistributedDataParallel):
        return given
    if torch.distributed.get_world_size(given.process_group) > 1:
        return given  # refused, with what to do
    _logger.info("DistributedDataParallel is of one process: what it wraps is taken.")
    return Passes(given.module).train(given.training)


def _refuse_moving_modes(given: nn.Module, loss: Any) -> None:  # noqa: ANN401 (whatever was handed in)
    """Refuse a ``train()`` or ``eval()`` of a user's own that writes weights.

    Some adapters merge theirs, some models clamp or load them. Such weights are in no state, and
    what is written into them has no derivative. It is tried on a copy, where the weights move
    between the calls, as they do in training: a little, and then so far that bounds are met.
    """
    owners = own_modes(given)
    if not owners:
        return
    model = copied(given, loss)
    modes = [(module, module.training) for module in given.modules()]
    for call in (model.train, model.eval):
        call()
        if any(module.training is not flag for module, flag in modes):
            for module, flag in modes:
                module.training = flag
            raise ConfigurationError(
                f"A train() or eval() of {owners[0][0] or 'model'!r} "
                f"({type(owners[0][1]).__name__}) acts on the module that was handed in, of which "
                "the run trains a copy. Write it as a method of the class, which acts on self."
            )
    for scale in (1.0, 1.05, 1e3, 1e-6):
        held = dict((*model.named_parameters(), *model.named_buffers()))
        for tensor in held.values():
            if (tensor.is_floating_point() or tensor.is_complex()) and scale != 1:
                with torch.no_grad(), suppress(RuntimeError):  # e.g. an expanded buffer
                    tensor.mul_(scale).add_(scale - 1)
        before = {name: fingerprint(tensor) for name, tensor in held.items() if tensor.numel()}
        for call in (model.train, model.eval, model.train):
            call()
            now = dict((*model.named_parameters(), *model.named_buffers()))
            moved = [n for n in before if n not in now or fingerprint(now[n]) != before[n]]
            if moved:
                raise ConfigurationError(_moved_by_a_mode(owners, moved[0]))


def _moved_by_a_mode(owners: list[tuple[str, nn.Module]], moved: str) -> str:
    name, owner = max(
        ((n, m) for n, m in owners if moved.startswith(n)),
        key=lambda each: len(each[0]),
        default=owners[0],
    )
    return (
        f"{name or 'model'!r} ({type(owner).__name__}) rewrites {moved!r} in its train() or "
        "eval(), as adapters do that merge their weights for evaluation, and what is written "
        "there has no derivative. Turn that off (merge_weights=False, say), so that the forward "
        "pass computes the same in both modes; bounds of weights belong into the optimizer's "
        "update."
    )


def _refuse_no_module(given: Any) -> None:  # noqa: ANN401 (whatever is handed in)
    if isinstance(given, type):
        raise ConfigurationError(
            f"model is the class {given.__name__}. Hand in an instance: {given.__name__}(...)."
        )
    if isinstance(given, nn.Module):
        return
    parts = vars(given) if hasattr(given, "__dict__") else {}
    inside = next((name for name, value in parts.items() if isinstance(value, nn.Module)), None)
    if inside is not None:
        raise ConfigurationError(
            f"model is a {type(given).__name__}, which is no torch.nn.Module. Hand in its "
            f"{inside}, or make {type(given).__name__} a subclass of nn.Module."
        )
    raise ConfigurationError(
        f"model is a {type(given).__name__}, whose parameters nobody can find. Hand in a "
        "torch.nn.Module; a function becomes one as its forward method, with its tensors as "
        "nn.Parameter."
    )


def _refuse_wrappers(given: nn.Module) -> None:
    for name, module in given.named_modules():
        words = (
            f"{name!r} ({type(module).__name__})" if name else f"model ({type(module).__name__})"
        )
        if not name and "_orig_mod" in module._modules:  # whose names are others than the module's
            raise ConfigurationError(
                f"{words} is compiled, and a compiled graph cannot be differentiated twice. Hand "
                "in the module as it was before torch.compile (model._orig_mod), and let the "
                "engine compile: Routine(compile=True)."
            )
        if isinstance(module, nn.parallel.DistributedDataParallel):
            raise ConfigurationError(
                f"{words} averages gradients over processes, and a run is one process. Hand in "
                "what it wraps, model.module, with all of the examples; Routine(shards=...) takes "
                "a batch in parts."
            )


def _refuse_layers(given: nn.Module) -> None:
    for name, module in given.named_modules():
        if not isinstance(module, nn.Embedding | nn.EmbeddingBag):
            continue
        if module.max_norm is not None:
            raise ConfigurationError(
                f"{name or 'model'!r} ({type(module).__name__}) has max_norm={module.max_norm:g}, "
                "which rewrites rows of its weight in place whenever they are read, outside of "
                "the derivative. Leave max_norm out, and scale the rows that were looked up in the "
                "forward pass: rows * (max_norm / rows.norm(dim=-1, keepdim=True)).clamp(max=1)."
            )
        if module.scale_grad_by_freq:
            raise ConfigurationError(
                f"{name or 'model'!r} ({type(module).__name__}) has scale_grad_by_freq=True, so "
                "that its gradient is not the derivative of the loss, and torch's derivative of "
                "that gradient is wrong. Leave it out, and divide the losses of frequent tokens."
            )


def _refuse_parameters(given: nn.Module) -> None:
    named = list(given.named_parameters())
    for name, tensor in (*named, *given.named_buffers()):
        if isinstance(tensor, UninitializedParameter) or type(tensor).__name__.startswith("Uninit"):
            raise ConfigurationError(
                f"{name!r} belongs to a lazy layer that has no shape yet. Call the model once on a "
                "batch before it is handed in."
            )
    trainable = [(name, tensor) for name, tensor in named if tensor.requires_grad]
    if not trainable:
        frozen = f"all {len(named)} are frozen" if named else "it has none"
        raise ConfigurationError(
            f"The model has no trainable parameters ({frozen}), so there is nothing to train. Set "
            "requires_grad on those that the optimizer should move."
        )
    for name, tensor in trainable:
        if (tensor.is_floating_point() or tensor.is_complex()) and torch.finfo(
            tensor.dtype
        ).bits < 32:
            raise ConfigurationError(
                f"Parameter {name!r} is {tensor.dtype}. {LOW_PRECISION}: convert the model with "
                "model.float() or model.double(), and the examples with it.",
                settings=("training.dtype",),
            )
        if tensor.layout is not torch.strided:
            raise ConfigurationError(
                f"Parameter {name!r} is a sparse tensor, which has no place in one flat vector. "
                "Make it dense: nn.Parameter(tensor.to_dense())."
            )
        if tensor.device.type != "meta" and not torch.isfinite(tensor.detach()).all():
            raise ConfigurationError(
                f"Parameter {name!r} holds NaN or infinite numbers before any training. Give it "
                "finite ones: load or draw it anew."
            )
    _refuse_shared_memory(trainable)
    _refuse_left_out(given, trainable)


def _refuse_left_out(model: nn.Module, trainable: list[tuple[str, nn.Parameter]]) -> None:
    """Refuse a ``parameters()`` of the model's own that is not all that the engine would train."""
    if type(model).parameters is nn.Module.parameters and "parameters" not in vars(model):
        return
    try:
        yielded = list(model.parameters())
    except Exception as error:
        raise ConfigurationError(
            f"parameters() of {type(model).__name__} fails when it is called as torch's own is: "
            f"{raised(error)}. Give it another name."
        ) from error
    if not all(isinstance(each, Tensor) for each in yielded):
        raise ConfigurationError(
            f"parameters() of {type(model).__name__} yields no tensors, but groups, perhaps, for "
            "an optimizer. Give it another name, and hand the groups to the optimizer: groups=."
        )
    handed = {id(each) for each in yielded}
    left = [repr(name) for name, tensor in trainable if id(tensor) not in handed]
    if left:
        raise ConfigurationError(
            f"parameters() of {type(model).__name__} leaves out {', '.join(left[:3])}"
            f"{' and others' if len(left) > 3 else ''}, which an optimizer of torch would not "
            "move, and a run would. Freeze what should stay as it is, with "
            "requires_grad_(False), or let parameters() be torch's own."
        )


def _refuse_shared_memory(trainable: list[tuple[str, nn.Parameter]]) -> None:
    """Refuse parameters that are parts of each other: moving one would move the other."""
    held: dict[int, list[tuple[str, nn.Parameter]]] = {}
    for name, tensor in trainable:
        strides = zip(tensor.stride(), tensor.shape, strict=True)
        if any(stride == 0 and size > 1 for stride, size in strides):
            raise ConfigurationError(
                f"Parameter {name!r} is an expanded tensor, whose numbers share one place in "
                "memory, so no optimizer can move them. Make it nn.Parameter(tensor.clone()), or "
                "expand it in the forward pass."
            )
        if tensor.numel() and tensor.device.type != "meta":
            held.setdefault(tensor.untyped_storage().data_ptr(), []).append((name, tensor))
    for together in held.values():
        counted = sum(tensor.numel() for _, tensor in together)
        if (
            len(together) > 1
            and len(torch.cat([_places(t) for _, t in together]).unique()) < counted
        ):
            names = ", ".join(repr(name) for name, _ in together)
            raise ConfigurationError(
                f"Parameters {names} share memory, so that a step of one moves another. Give each "
                "a copy: nn.Parameter(tensor.clone()); or make them one parameter, of which the "
                "forward pass reads parts."
            )


def _places(tensor: Tensor) -> Tensor:
    """Return where the numbers of a tensor lie in its storage."""
    size = tensor.untyped_storage().nbytes() // tensor.element_size()
    whole = torch.arange(size, device="cpu")
    places = whole.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
    return places.reshape(-1)


def _culprit(given: nn.Module) -> str:
    """Name the attribute that cannot be copied."""
    for path, value in _attributes(given):
        try:
            copy.deepcopy(value)
        except Exception:
            return f"its attribute {path!r} is a {type(value).__name__}"
    return "one of its attributes"


def _attributes(given: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in given.named_modules():
        for key, value in vars(module).items():
            if key not in ("_parameters", "_buffers", "_modules"):
                yield f"{name}.{key}" if name else key, value


class Called(nn.Module):
    """Model and loss as one module, for a compiler."""

    def __init__(self, model: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (whatever the function takes and returns)
        """Call the function on the model."""
        return self.function(self.model, *args, **kwargs)
