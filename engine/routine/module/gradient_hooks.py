"""Hooks on parameters: what maps the gradient of one to another, and may draw noise for it.

A backward pass calls them in an order of its own, perhaps in a thread of its own, so what they draw
is seeded for each parameter by its name.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from engine.errors import ConfigurationError
from engine.numerics.determinism import seeded
from engine.routine.layout import Layout

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
        hooks: Of the parameters.
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
