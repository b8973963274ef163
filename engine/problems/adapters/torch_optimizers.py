"""Optimizers of torch, with their groups of parameters, as optimizers of the engine."""

import glob
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from engine.errors import ConfigurationError
from engine.recipes.optimizer import ParameterGroup
from engine.routine.optimizer import Optimizer
from engine.routine.optimizer_options import Groups
from engine.routine.optimizers import adam, adamw, rmsprop, sgd

Make = Callable[[dict[str, Any], Groups, float | None, float | None, float], Optimizer]
"""Maps (a group of torch, groups, clip_norm, clip_value, eps_root) to an optimizer."""

_NONE = (
    "which has no counterpart here. Use SGD, Adam, AdamW or RMSprop of torch.optim, or hand in an "
    "engine.Optimizer as optimizer=."
)

_NEAREST: dict[type, str] = {
    torch.optim.Muon: "which iterates in bfloat16, whose rounding has no derivative. Hand in "
    "engine.muon(...), which iterates in the run's format, as optimizer=."
}
"""What stands for an optimizer of torch that is not read, instead of ``_NONE``."""

_OWN_IN_A_GROUP = ("weight_decay", "momentum", "betas", "lr", "initial_lr", "params", "param_names")
"""Settings that may differ between groups of parameters; the others have to be the same."""


def optimizer_of_torch(
    optimizer: torch.optim.Optimizer,
    module: nn.Module,
    *,
    eps_root: float,
    clip_norm: float | None = None,
    clip_value: float | None = None,
) -> Optimizer:
    """Return an optimizer of torch as one of the engine.

    Args:
        optimizer: SGD, Adam, AdamW or RMSprop of torch, also fused and foreach ones.
        module: Has its parameters, by whose names groups are known.
        eps_root: Added inside the square root of Adam and RMSprop; torch has 0 there.
        clip_norm: Largest norm of the gradient.
        clip_value: Largest size of each of its numbers.

    Raises:
        ConfigurationError: If it is not one of these, has a setting that the engine lacks, or
            leaves out a parameter of the module.
    """
    make = _MAKERS.get(type(optimizer))
    if make is None:
        raise ConfigurationError(
            f"The optimizer is a {type(optimizer).__module__}.{type(optimizer).__name__}, "
            f"{_NEAREST.get(type(optimizer), _NONE)}"
        )
    filled = [group for group in optimizer.param_groups if group["params"]]
    _refuse_unknown(filled, optimizer.defaults)
    first = filled[0]
    names = _names(filled, module)
    groups = [_group(own, group, first) for own, group in zip(names[1:], filled[1:], strict=True)]
    return make(first, groups, clip_norm, clip_value, eps_root)


def rate_of(group: dict[str, Any]) -> float:
    """Return the rate of a group before any scheduler has moved it."""
    return float(group.get("initial_lr", group["lr"]))


def unclipped(optimizer: Optimizer, setting: str, value: float) -> str | None:
    """Say in a sentence that an optimizer which was handed in does not clip as a loop does.

    Args:
        optimizer: Optimizer of the run.
        setting: Setting of the loop, by name.
        value: Value at which the loop clips; 0 if it does not.
    """
    if value <= 0 or {"clip_norm", "clip_value"} & set(optimizer.hyperparameters):
        return None
    return (
        f"{setting}={value:g}, because {optimizer.name} was handed in without clip_norm or "
        "clip_value."
    )


def _names(filled: list[dict[str, Any]], module: nn.Module) -> list[tuple[str, ...]]:
    """Return the names of each group's parameters; all that are trained have to be in one."""
    known = {id(p): name for name, p in module.named_parameters() if p.requires_grad}
    held = [id(p) for group in filled for p in group["params"] if p.requires_grad]
    strange = [each for each in held if each not in known]
    if strange:
        raise ConfigurationError(
            f"The optimizer has {len(strange)} parameters that are none of the model's. Make the "
            "optimizer of the model that is handed in."
        )
    left_out = [name for each, name in known.items() if each not in set(held)]
    if left_out:
        raise ConfigurationError(
            f"The optimizer leaves out {len(left_out)} parameters of the model, {left_out[0]} "
            "first, which would be trained here. Freeze them by requires_grad_(False), or give "
            "them to the optimizer."
        )
    return [tuple(known[id(p)] for p in group["params"] if p.requires_grad) for group in filled]


def _group(names: tuple[str, ...], group: dict[str, Any], first: dict[str, Any]) -> ParameterGroup:
    base, own = rate_of(first), rate_of(group)
    if base == 0 and own != 0:
        raise ConfigurationError(
            "The first group of the optimizer has a learning rate of 0, so the rates of the other "
            "groups cannot be given as multiples of it. Put another group first, or freeze its "
            "parameters."
        )
    settings: dict[str, Any] = {"rate": own / base if base else 1.0}
    for name in ("weight_decay", "momentum"):
        if name in group:
            settings[name] = float(group[name])
    if "betas" in group:
        settings["beta1"], settings["beta2"] = map(float, group["betas"])
    return ParameterGroup(names=tuple(glob.escape(name) for name in names), **settings)


_OFF = ("amsgrad", "maximize", "dampening", "differentiable")
_HOW = ("foreach", "fused", "capturable")


def _refuse_unknown(filled: list[dict[str, Any]], read: Mapping[str, Any]) -> None:
    """Refuse settings of groups that the engine lacks.

    What the optimizer does not read, names of people's own and what schedulers note, may differ.
    """
    for group in filled:
        for name in _OFF:
            if group.get(name):
                raise ConfigurationError(
                    f"The optimizer has {name}={group[name]}, which the engine's has not. Turn it "
                    "off, or hand in an engine.Optimizer as optimizer=."
                )
        for name, value in group.items():
            if name not in read or name in (*_OWN_IN_A_GROUP, *_OFF, *_HOW):
                continue
            if value != filled[0].get(name):
                raise ConfigurationError(
                    f"The groups of the optimizer have {name}={filled[0].get(name)} and {value}, "
                    "but it is one for all here. Use the same in all groups."
                )


def _adam(*, decoupled: bool) -> Make:
    return lambda group, groups, norm, value, root: (
        adamw if group.get("decoupled_weight_decay", decoupled) else adam
    )(
        (float(group["betas"][0]), float(group["betas"][1])),
        eps=float(group["eps"]),
        eps_root=root,
        weight_decay=float(group["weight_decay"]),
        groups=groups,
        clip_norm=norm,
        clip_value=value,
    )


_MAKERS: dict[type, Make] = {
    torch.optim.SGD: lambda group, groups, norm, value, _root: sgd(
        float(group["momentum"]),
        nesterov=group["nesterov"],
        weight_decay=float(group["weight_decay"]),
        groups=groups,
        clip_norm=norm,
        clip_value=value,
    ),
    torch.optim.Adam: _adam(decoupled=False),
    torch.optim.AdamW: _adam(decoupled=True),
    torch.optim.RMSprop: lambda group, groups, norm, value, root: rmsprop(
        float(group["alpha"]),
        momentum=float(group["momentum"]),
        centered=group["centered"],
        eps=float(group["eps"]),
        eps_root=root,
        weight_decay=float(group["weight_decay"]),
        groups=groups,
        clip_norm=norm,
        clip_value=value,
    ),
}
"""How each optimizer of torch is made here."""
