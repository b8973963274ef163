"""Several things that training scripts have, at once, beside torch's own loop."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import engine
from engine.step.step import plain_step
from tests.helpers.trainings import routines
from tests.helpers.trainings.loops import Loop

STEPS = 9
NO_DECAY = [{"max_axes": 1, "weight_decay": 0.0}]


def model() -> nn.Module:
    return routines.mlp(nn.Tanh, lambda: nn.LayerNorm(12))


def groups(net: nn.Module, decay: float) -> list[dict[str, Any]]:
    matrices = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": decay},
        {"params": others, "weight_decay": 0.0},
    ]


def averaged(decay: float) -> Callable[[nn.Module], AveragedModel]:
    return lambda net: AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay))


def seen(make: Callable[[Any], Any], of: str = "lr") -> list[float]:
    """What a loop with a scheduler would see at each step, by stepping one."""
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, found = make(optimizer), []
    for _ in range(STEPS):
        group = optimizer.param_groups[0]
        found.append(group["betas"][0] if of == "beta1" else group["lr"])
        optimizer.step()
        scheduler.step()
    return found


def warmed(optimizer: Any) -> Any:
    parts = [
        lr_scheduler.LinearLR(optimizer, 0.2, 1.0, 3),
        lr_scheduler.CosineAnnealingLR(optimizer, STEPS),
    ]
    return lr_scheduler.SequentialLR(optimizer, parts, [3])


def cycled(optimizer: Any) -> Any:
    return lr_scheduler.OneCycleLR(optimizer, 1.0, STEPS + 1, base_momentum=0.7, max_momentum=0.95)


def of_torch(make: Callable[[Any], Any], of: str = "lr") -> list[float]:
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=1.0)
    return engine.rates(make(optimizer), STEPS, of=of)


def muon_and_adamw(net: nn.Module) -> list[Any]:
    first = net.get_parameter("0.weight")
    rest = [p for p in net.parameters() if p is not first]
    return [
        torch.optim.Muon([first], lr=0.03, momentum=0.9, weight_decay=0.4),
        torch.optim.AdamW(rest, lr=0.006, eps=1e-3, weight_decay=0.2),
    ]


@dataclass
class Case:
    """A run of the engine, and the loop that it stands for."""

    theirs: Loop
    ours: dict[str, Any] = field(default_factory=dict)


CASES: dict[str, Callable[[], Case]] = {
    "average, accumulation, clipped norm, groups, warm-up and cosine": lambda: Case(
        Loop(
            lambda net: [torch.optim.AdamW(groups(net, 0.3), lr=0.05, eps=1e-3)],
            rates=seen(warmed),
            before=lambda net, _: clip_grad_norm_(net.parameters(), 0.2),
            average=averaged(0.7),
            pieces=3,
        ),
        {
            "optimizer": engine.averaged(
                engine.adamw(
                    eps=1e-3, eps_root=0.0, weight_decay=0.3, groups=NO_DECAY, clip_norm=0.2
                ),
                0.7,
            ),
            "learning_rate": [0.05 * rate for rate in of_torch(warmed)],
            "shards": 3,
        },
    ),
    "one cycle of rate and moment, accumulation, clipped values": lambda: Case(
        Loop(
            lambda net: [torch.optim.Adam(net.parameters(), lr=0.05, eps=1e-3, weight_decay=0.1)],
            rates=seen(cycled),
            before=lambda net, _: clip_grad_value_(net.parameters(), 0.02),
            settings=lambda step: {"betas": (seen(cycled, "beta1")[step], 0.999)},
            pieces=4,
        ),
        {
            "optimizer": engine.adam(
                (of_torch(cycled, "beta1"), 0.999),
                eps=1e-3, eps_root=0.0, weight_decay=0.1, clip_value=0.02,
            ),
            "learning_rate": [0.05 * rate for rate in of_torch(cycled)],
            "shards": 4,
        },
    ),
    "muon beside adamw, average, clipped norm, accumulation": lambda: Case(
        Loop(
            muon_and_adamw,
            before=lambda net, _: clip_grad_norm_(net.parameters(), 0.3),
            average=averaged(0.6),
            pieces=2,
        ),
        {
            "optimizer": engine.averaged(
                engine.muon(
                    0.9,
                    weight_decay=0.4,
                    rest=engine.adamw(
                        eps=1e-3, eps_root=0.0, weight_decay=0.2, groups=[{"rate": 0.2}]
                    ),
                    rest_names=["3.*"],
                    clip_norm=0.3,
                ),
                0.6,
            ),
            "learning_rate": 0.03,
            "shards": 2,
        },
    ),
    "nesterov, a momentum that begins with 0, groups, average, accumulation": lambda: Case(
        Loop(
            lambda net: [
                torch.optim.SGD(groups(net, 0.1), lr=0.1, momentum=0.5, nesterov=True),
            ],
            settings=lambda step: {"momentum": 0.1 * step},
            average=averaged(0.5),
            pieces=2,
        ),
        {
            "optimizer": engine.averaged(
                engine.sgd(
                    [0.1 * step for step in range(STEPS)],
                    nesterov=True,
                    weight_decay=0.1,
                    groups=NO_DECAY,
                ),
                0.5,
            ),
            "learning_rate": 0.1,
            "shards": 2,
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_scripts_have_holds_together(name):
    """Each by itself agrees with torch; together they have an order, which must be the loop's."""
    case = CASES[name]()
    run = routines.routine(model=model(), num_steps=STEPS, **case.ours)
    batches = [run.order.batch(step) for step in range(STEPS)]
    ones, z, state, errors = torch.ones(routines.NUM_EXAMPLES).double(), run.point(), None, []
    case.theirs.run(batches, ones, model())

    for step in range(STEPS):
        state, _ = plain_step(run, run.initial_state() if state is None else state, z, step)
        errors.append(float((state["params"] - case.theirs.states[step]).abs().max()))
        if case.theirs.averages:
            error = state[run.optimizer.evaluated] - case.theirs.averages[step]
            errors.append(float(error.abs().max()))

    assert max(errors) < 1e-12
    found = engine.metagradient(run, routines.output)["weights"]
    v = torch.randn(len(ones), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    h = 1e-5
    above, below = (case.theirs.run(batches, 1 + sign * h * v, model()) for sign in (1.0, -1.0))
    assert float(found @ v) == pytest.approx((above - below) / (2 * h), rel=1e-5)
