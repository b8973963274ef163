"""Hooks: what maps a gradient to another one.

Hooks on parameters may draw random numbers. A backward pass may call them in any order and in
another thread, so what they draw is seeded for each parameter by its name.

A hook of an activation or of a module changes the gradient of a loss and not the value itself. A
product with the derivative of that gradient therefore ignores it. Custom functions are those of
``engine.routine.module.backward``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _module

from engine.errors import ConfigurationError
from engine.numerics.determinism import seeded
from engine.routine.layout import Layout
from engine.routine.module.backward.node_hooks import hooks_of_nodes, in_gradients

Hook = Callable[[Tensor], Tensor | None]
"""What ``Tensor.register_hook`` takes: maps a gradient to another one, or to None to leave it."""

Hooks = Mapping[str, tuple[Hook, ...]]
"""Those of each parameter that has any, by its name."""


def gradient_hooks(name: str, parameter: Tensor) -> tuple[Hook, ...]:
    """Return the hooks that ``parameter.register_hook`` was given, in order.

    Raises:
        ConfigurationError: If there is a hook that runs after the gradient was accumulated: it
            changes what the optimizer reads, behind the engine's back.
    """
    if getattr(parameter, "_post_accumulate_grad_hooks", None):
        raise ConfigurationError(
            f"Parameter {name!r} has a hook from register_post_accumulate_grad_hook, which acts on "
            ".grad, and a step of the engine has none. Use register_hook, which maps a gradient to "
            "another one, or write it into the optimizer's update."
        )
    return tuple((getattr(parameter, "_backward_hooks", None) or {}).values())


def purpose_of_hook(name: str, step: int, shard: int) -> tuple[str | int, ...]:
    """Say what the hooks of a parameter draw random numbers for, as seeds are made of it."""
    return "hook", step, shard, name


def hooked(hooks: Hooks, layout: Layout, gradient: Tensor, *drawn_for: int) -> Tensor:
    """Return a flat gradient as the hooks of the parameters leave it, shape (params,).

    Args:
        hooks: Hooks of the parameters.
        layout: Where each parameter lies.
        gradient: Shape (params,).
        drawn_for: Seed of the run, step and shard, which seed what they draw; left out, nothing
            is seeded, as where a compiler reads hooks that draw nothing.
    """
    parts = dict(layout.views(gradient))
    for name, those in hooks.items():
        if not drawn_for:
            parts[name] = _mapped(those, parts[name])
            continue
        seed, step, shard = drawn_for
        with seeded(seed, *purpose_of_hook(name, step, shard), device=gradient.device):
            parts[name] = _mapped(those, parts[name])
    return layout.flatten(parts)


def _mapped(hooks: tuple[Hook, ...], gradient: Tensor) -> Tensor:
    for hook in hooks:
        given = gradient.clone()  # a hook may write into what it is given
        found = hook(given)
        gradient = given if found is None else found
    return gradient


def hooks_draw(hooks: Hooks, layout: Layout, gradient: Tensor) -> bool:
    """Say whether hooks draw from torch's global generators when they are given a gradient."""
    on_gpu = gradient.device.type == "cuda"

    def generators() -> list[Tensor]:
        found = [torch.default_generator.get_state()]
        return [*found, torch.cuda.get_rng_state(gradient.device)] if on_gpu else found

    with seeded(0, "hooks", device=gradient.device), torch.no_grad():
        before = generators()
        hooked(hooks, layout, gradient)
        return not all(map(torch.equal, before, generators()))


_torch_hook = Tensor.register_hook
_calling: Any = _module
_TorchHook: Any = _calling.BackwardHook  # by the name that a call of a module reads


def _register_hook(self: Tensor, hook: Hook) -> Any:  # noqa: ANN401 (torch's handle)
    return _torch_hook(self, in_gradients(hook))


class _BackwardHook(_TorchHook):
    """Takes the place of what torch makes of the backward hooks of a module, when it calls one."""

    def __init__(
        self,
        module: nn.Module,
        hooks: Sequence[Callable[..., Any]],
        before: Sequence[Callable[..., Any]],
    ) -> None:
        super().__init__(module, [*map(in_gradients, hooks)], [*map(in_gradients, before)])


class hooks_of_gradients(AbstractContextManager[None]):
    """Let products pass by the hooks of tensors, nodes and modules inside the block.

    Those of tensors that are registered there, and those of modules that are called there, whoever
    registered them when; hooks of all modules are among them.
    """

    def __init__(self) -> None:
        self._is_outermost, self._nodes = False, hooks_of_nodes()

    def __enter__(self) -> None:
        self._is_outermost = Tensor.register_hook is _torch_hook
        if self._is_outermost:
            Tensor.register_hook = _register_hook  # pyright: ignore[reportAttributeAccessIssue] (a method of torch's)
            _calling.BackwardHook = _BackwardHook
            self._nodes.__enter__()

    def __exit__(self, *_: object) -> None:
        if self._is_outermost:
            Tensor.register_hook = _torch_hook
            _calling.BackwardHook = _TorchHook
            self._nodes.__exit__()


def backward_hooks(model: nn.Module) -> Callable[[], AbstractContextManager[Any]] | None:
    """Return the context in which products pass ``register_backward_hook``; None without hooks.

    Those of ``register_full_backward_hook`` are met where torch calls the module.

    Args:
        model: The run's own copy of the user's module.
    """
    held = [
        module._backward_hooks
        for module in model.modules()
        if module._backward_hooks and not module._is_full_backward_hook
    ]
    return partial(_passed_by, held) if held else None


@contextmanager
def _passed_by(held: list[dict[int, Callable[..., Any]]]) -> Iterator[None]:
    with ExitStack() as stack:
        for hooks in held:
            stack.callback(hooks.update, dict(hooks))
            hooks.update({key: in_gradients(hook) for key, hook in hooks.items()})
        yield
