"""What training scripts have, beside torch's own loop: every step, and the metagradient."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

import engine
from engine import adam, adamw, averaged, metagradient, muon, rmsprop, sgd
from engine.applications.comparisons.baselines import gradient_cosines
from engine.metaparameters.scalars import Scalars
from engine.replay.plain_training import train_unchecked
from engine.routine.optimizer import Optimizer
from engine.step.step import plain_step
from tests.helpers.trainings import routines
from tests.helpers.trainings.loops import Loop

STEPS = 12

NO_DECAY = [{"max_axes": 1, "weight_decay": 0.0}]
BY_LAYER = [
    {"names": ("0.weight", "0.bias"), "rate": 0.3, "weight_decay": 0.2},
    {"names": "*.bias", "rate": 2.0},
]


def model() -> nn.Module:
    return routines.mlp(nn.GELU, lambda: nn.LayerNorm(12))


def whole(make: Callable[..., Any], **settings: Any) -> Callable[[nn.Module], list[Any]]:
    """One group of all parameters."""
    return lambda net: [make(net.parameters(), **settings)]


def no_decay(make: Callable[..., Any], *, decay: float, **settings: Any):
    """The two groups of most scripts: matrices decay, biases and normalizations do not."""

    def groups(net: nn.Module) -> list[Any]:
        matrices = [p for p in net.parameters() if p.ndim > 1]
        others = [p for p in net.parameters() if p.ndim <= 1]
        rows = [
            {"params": matrices, "weight_decay": decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return [make(rows, **settings)]

    return groups


def by_layer(make: Callable[..., Any], rate: float, **settings: Any):
    """The first layer slowly and with decay, biases of the rest fast."""

    def groups(net: nn.Module) -> list[Any]:
        named = dict(net.named_parameters())
        first = [p for n, p in named.items() if n.startswith("0.")]
        biases = [p for n, p in named.items() if n.endswith("bias") and not n.startswith("0.")]
        rest = [p for n, p in named.items() if not n.endswith("bias") and not n.startswith("0.")]
        rows = [
            {"params": first, "lr": 0.3 * rate, "weight_decay": 0.2},
            {"params": biases, "lr": 2 * rate},
            {"params": rest},
        ]
        return [make(rows, lr=rate, **settings)]

    return groups


def muon_and_adamw(net: nn.Module) -> list[Any]:
    """Muon for the first layer's matrix, AdamW at a fifth of the rate for all else."""
    first = net.get_parameter("0.weight")
    rest = [p for p in net.parameters() if p is not first]
    eps = {"eps": 1e-3, "betas": (0.8, 0.95), "weight_decay": 0.3}
    return [
        torch.optim.Muon([first], lr=0.02, momentum=0.9, weight_decay=0.4),
        torch.optim.AdamW(rest, lr=0.004, **eps),
    ]


@dataclass(frozen=True)
class Case:
    """An optimizer of the engine, and the loop that it stands for."""

    ours: Optimizer
    theirs: Loop
    rate: float = 0.05
    limit: float = 1e-12
    """Of a step's error: float64 numbers near 1, whose sums run in another order."""


SMOOTH = {"eps": 1e-3}
"""So that central differences see no corner where a gradient is near 0."""

MOMENTA = [0.5 + 0.03 * step for step in range(STEPS)]

PAUSED = [0.0, 0.0, 0.3, 0.5, 0.0, *[0.1 * step for step in range(3, 9)], 0.4]
"""Where the momentum is 0, torch leaves the velocity as it was, and does not take the gradient."""

CASES: dict[str, Callable[[], Case]] = {
    "no decay of norms and biases": lambda: Case(
        adamw(eps=1e-3, eps_root=0.0, weight_decay=0.3, groups=NO_DECAY),
        Loop(no_decay(torch.optim.AdamW, decay=0.3, lr=0.05, **SMOOTH)),
    ),
    "rates by layer": lambda: Case(
        sgd(0.9, weight_decay=0.02, groups=BY_LAYER),
        Loop(by_layer(torch.optim.SGD, 0.05, momentum=0.9, weight_decay=0.02)),
    ),
    "rates by layer, adam": lambda: Case(
        adam(eps=1e-3, eps_root=0.0, weight_decay=0.02, groups=BY_LAYER),
        Loop(by_layer(torch.optim.Adam, 0.05, weight_decay=0.02, **SMOOTH)),
    ),
    "momentum by group": lambda: Case(
        sgd(groups=[{"max_axes": 1, "momentum": 0.8}]),
        Loop(
            lambda net: [
                torch.optim.SGD([p for p in net.parameters() if p.ndim > 1], lr=0.05),
                torch.optim.SGD(
                    [p for p in net.parameters() if p.ndim <= 1], lr=0.05, momentum=0.8
                ),
            ]
        ),
    ),
    "clip by norm": lambda: Case(
        sgd(0.9, nesterov=True, clip_norm=0.3),
        Loop(
            whole(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True),
            before=lambda net, _: clip_grad_norm_(net.parameters(), 0.3),
        ),
    ),
    "clip by norm, adamw": lambda: Case(
        adamw(eps=1e-3, eps_root=0.0, clip_norm=0.3, weight_decay=0.3, groups=NO_DECAY),
        Loop(
            no_decay(torch.optim.AdamW, decay=0.3, lr=0.05, **SMOOTH),
            before=lambda net, _: clip_grad_norm_(net.parameters(), 0.3),
        ),
    ),
    "clip by value": lambda: Case(
        sgd(0.9, clip_value=0.04),
        Loop(
            whole(torch.optim.SGD, lr=0.05, momentum=0.9),
            before=lambda net, _: clip_grad_value_(net.parameters(), 0.04),
        ),
    ),
    "rmsprop": lambda: Case(
        rmsprop(0.9, eps=1e-3, eps_root=0.0, weight_decay=0.02),
        Loop(whole(torch.optim.RMSprop, lr=0.01, alpha=0.9, weight_decay=0.02, **SMOOTH)),
        rate=0.01,
    ),
    "rmsprop, centered, momentum, groups": lambda: Case(
        rmsprop(0.9, momentum=0.7, centered=True, eps=1e-2, eps_root=0.0, groups=BY_LAYER),
        Loop(by_layer(torch.optim.RMSprop, 0.01, alpha=0.9, momentum=0.7, centered=True, eps=1e-2)),
        rate=0.01,
    ),
    "momentum schedule": lambda: Case(
        sgd(MOMENTA),
        Loop(
            whole(torch.optim.SGD, lr=0.05, momentum=0.9),
            settings=lambda step: {"momentum": MOMENTA[step]},
        ),
    ),
    "momentum that begins with 0": lambda: Case(
        sgd(PAUSED, weight_decay=0.02, groups=[{"names": "*.bias", "rate": 0.5}]),
        Loop(
            lambda net: [
                torch.optim.SGD(
                    [
                        {"params": [p for p in net.parameters() if p.ndim > 1], "lr": 0.05},
                        {"params": [p for n, p in net.named_parameters() if n.endswith("bias")]},
                        {"params": [net.get_parameter("2.weight")], "lr": 0.05},
                    ],
                    lr=0.025,
                    weight_decay=0.02,
                )
            ],
            settings=lambda step: {"momentum": PAUSED[step]},
        ),
    ),
    "nesterov momentum that pauses": lambda: Case(
        sgd(PAUSED[::-1], nesterov=True),
        Loop(
            whole(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True),
            settings=lambda step: {"momentum": PAUSED[::-1][step]},
        ),
    ),
    "rmsprop whose momentum pauses": lambda: Case(
        rmsprop(0.9, momentum=PAUSED[::-1], eps=1e-2, eps_root=0.0),
        Loop(
            whole(torch.optim.RMSprop, lr=0.03, alpha=0.9, momentum=0.5, eps=1e-2),
            settings=lambda step: {"momentum": PAUSED[::-1][step]},
        ),
        rate=0.03,
    ),
    "muon": lambda: Case(
        muon(0.9, weight_decay=0.4, rest=sgd(0.8)),
        Loop(
            lambda net: [
                torch.optim.Muon(
                    [p for p in net.parameters() if p.ndim == 2],
                    lr=0.02,
                    momentum=0.9,
                    weight_decay=0.4,
                ),
                torch.optim.SGD(
                    [p for p in net.parameters() if p.ndim != 2], lr=0.02, momentum=0.8
                ),
            ]
        ),
        rate=0.02,
    ),
    "muon, the last layer by adamw": lambda: Case(
        muon(
            0.9,
            weight_decay=0.4,
            rest=adamw(
                (0.8, 0.95), eps=1e-3, eps_root=0.0, weight_decay=0.3, groups=[{"rate": 0.2}]
            ),
            rest_names=["3.*"],
        ),
        Loop(muon_and_adamw),
        rate=0.02,
    ),
    "average": lambda: Case(
        averaged(sgd(0.9), 0.8),
        Loop(
            whole(torch.optim.SGD, lr=0.05, momentum=0.9),
            average=lambda net: AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.8)),
        ),
    ),
    "average of muon, clipped": lambda: Case(
        averaged(muon(0.9, rest=sgd(0.8), weight_decay=0.4, clip_norm=0.3), 0.7),
        Loop(
            lambda net: [
                torch.optim.Muon(
                    [p for p in net.parameters() if p.ndim == 2],
                    lr=0.02,
                    momentum=0.9,
                    weight_decay=0.4,
                ),
                torch.optim.SGD(
                    [p for p in net.parameters() if p.ndim != 2], lr=0.02, momentum=0.8
                ),
            ],
            before=lambda net, _: clip_grad_norm_(net.parameters(), 0.3),
            average=lambda net: AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.7)),
        ),
        rate=0.02,
    ),
    "plain mean": lambda: Case(
        averaged(sgd(0.9), None),
        limit=1e-7,  # torch divides by the number of models in float32
        theirs=Loop(
            whole(torch.optim.SGD, lr=0.05, momentum=0.9),
            average=lambda net: AveragedModel(net, multi_avg_fn=get_swa_multi_avg_fn()),
        ),
    ),
}


def run_of(case: Case, **changes: Any) -> engine.Routine:
    return routines.routine(
        **{
            "model": model(),
            "optimizer": case.ours,
            "learning_rate": case.rate,
            "num_steps": STEPS,
            **changes,
        }
    )


def batches(run: engine.Routine) -> list[torch.Tensor]:
    return [run.order.batch(step) for step in range(run.num_steps)]


@pytest.mark.parametrize("name", CASES)
def test_every_step_is_that_of_torchs_own_loop(name):
    """People compare with their script, so every step and every average must be its own."""
    case = CASES[name]()
    run = run_of(case)
    case.theirs.run(batches(run), torch.ones(routines.NUM_EXAMPLES).double(), model())
    z, state, errors = run.point(), run.initial_state(), []

    for step in range(STEPS):
        state, _ = plain_step(run, state, z, step)
        errors.append(float((state["params"] - case.theirs.states[step]).abs().max()))
        if case.theirs.averages:
            error = state[run.optimizer.evaluated] - case.theirs.averages[step]
            errors.append(float(error.abs().max()))

    assert max(errors) < case.limit


@pytest.mark.parametrize("name", CASES)
def test_metagradient_is_the_central_difference_of_torchs_own_loop(name):
    """Nothing is detached: the norm of a clipped gradient, Muon's decay, the average."""
    case = CASES[name]()
    run = run_of(case)
    drawn = torch.Generator().manual_seed(5)
    v = torch.randn(routines.NUM_EXAMPLES, generator=drawn, dtype=torch.float64)
    h = 1e-5

    found = metagradient(run, routines.output)["weights"]
    above, below = (
        case.theirs.run(batches(run), 1 + sign * h * v, model()) for sign in (1.0, -1.0)
    )

    expected = (above - below) / (2 * h)
    assert float(found @ v) == pytest.approx(expected, rel=1e-6)


def test_an_average_starts_late_and_copies_first():
    """Scripts begin to average after a warm-up; before it the average is the parameters."""
    run = run_of(Case(averaged(sgd(0.9), None, start=3), Loop(whole(torch.optim.SGD))))
    z, state, rows = run.point(), run.initial_state(), []

    for step in range(6):
        state, _ = plain_step(run, state, z, step)
        rows.append(state["params"])

    mean = torch.stack(rows[3:]).mean(dim=0)
    assert float((state["average"] - mean).abs().max()) < 1e-15
    assert torch.equal(plain_step(run, run.initial_state(), z, 0)[0]["average"], rows[0])


def test_options_numbers_can_be_differentiated_by():
    """The limit of a clipped norm, a decay and the decay of an average are numbers like others."""
    numbers = {"clip_norm": 0.3, "weight_decay": 0.1, "ema_decay": 0.8, "momentum": 0.9}
    run = run_of(
        Case(averaged(sgd(0.9, clip_norm=0.3, groups=NO_DECAY), 0.8), Loop(whole(torch.optim.SGD))),
        metaparameters={"numbers": Scalars.of(torch.float64, **numbers)},
    )
    direction = {"numbers": torch.tensor([0.3, -1.0, 0.7, 0.4], dtype=torch.float64)}

    found = metagradient(run, routines.output)["numbers"]

    expected = engine.central_difference(run, routines.output, direction)
    assert float(found @ direction["numbers"]) == pytest.approx(expected, rel=1e-7)
    assert found.abs().min() > 1e-6


def test_a_schedule_of_momentum_is_shortened_in_a_twin():
    """The preflight trains a few steps, whose hyperparameters are those of the run's own."""
    report = engine.check(run_of(CASES["momentum schedule"]()), routines.output)

    assert report.verdict != "refuse"


@pytest.mark.parametrize("vjp", ["reverse-over-reverse", "forward-over-reverse"])
@pytest.mark.parametrize("name", ["muon, the last layer by adamw", "average of muon, clipped"])
def test_every_way_to_reverse_a_step_knows_the_options(name, vjp):
    """A guess of the gradient from two states must know what clipping took away."""
    run = run_of(CASES[name]())

    found = metagradient(run, routines.output, vjp=vjp, schedule="store-all")["weights"]

    expected = engine.whole_run_gradient(run, routines.output)[1]["weights"]
    assert float((found - expected).norm() / expected.norm()) < 1e-10


def test_an_optimizer_is_fitted_anew_to_another_model():
    """Groups belong to names, so a run with another model must not keep masks of the first."""
    case = CASES["no decay of norms and biases"]()
    run = run_of(case)
    wider = run_of(case, model=routines.mlp(nn.GELU))

    moved = engine.Routine(
        **{f: getattr(run, f) for f in ("loss", "examples", "learning_rate", "num_steps")},
        model=wider.model,
        optimizer=run.optimizer,
        batch_size=run.batch_size,
        seed=run.seed,
        metaparameters=run.metaparameters,
    )

    assert torch.equal(train_unchecked(moved)["params"], train_unchecked(wider)["params"])


def test_baselines_look_at_the_average_where_it_is_evaluated():
    """A baseline at the parameters themselves would rank examples for another model."""
    averages = run_of(Case(averaged(sgd(0.9), 0.8), Loop(whole(torch.optim.SGD))))
    plain = run_of(Case(sgd(0.9), Loop(whole(torch.optim.SGD))))
    final = train_unchecked(averages)

    found = gradient_cosines(averages, routines.output, final)

    there = {"params": final["average"], "momentum": final["momentum"]}
    assert torch.equal(found, gradient_cosines(plain, routines.output, there))
    assert not torch.equal(found, gradient_cosines(plain, routines.output, train_unchecked(plain)))
