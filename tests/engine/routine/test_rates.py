"""Learning rates: the shapes of recipes, and lists read from schedulers, beside torch's own."""

import copy
import warnings

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

import engine
from engine import rates
from engine.errors import ConfigurationError
from engine.recipes.training import TrainingSettings
from engine.routine.rates import learning_rates, rates_alone
from tests.helpers.trainings import routines

STEPS = 20


def optimizer(*factors: float, momentum: float = 0.9) -> torch.optim.SGD:
    groups = [{"params": [torch.zeros(3, requires_grad=True)], "lr": 0.4 * f} for f in factors]
    return torch.optim.SGD(
        groups or [torch.zeros(3, requires_grad=True)], lr=0.4, momentum=momentum
    )


def stepped(scheduler: LRScheduler, of: str = "lr") -> list[float]:
    """What a training loop would see: rates are read, the optimizer steps, the scheduler steps."""
    found = []
    for _ in range(STEPS):
        found.append(scheduler.optimizer.param_groups[0][of])
        scheduler.optimizer.step()
        scheduler.step()
    return found


def warm(after) -> LRScheduler:
    own = optimizer()
    first = lr_scheduler.LinearLR(own, start_factor=1 / 5, total_iters=4)
    return lr_scheduler.SequentialLR(own, [first, after(own)], milestones=[5])


SHAPES = {
    "cosine": (
        {"rate_schedule": "cosine", "final_rate": 0.1},
        lambda: lr_scheduler.CosineAnnealingLR(optimizer(), STEPS, eta_min=0.04),
    ),
    "warm-up and cosine": (
        {"rate_schedule": "cosine", "warmup_steps": 5},
        lambda: warm(lambda own: lr_scheduler.CosineAnnealingLR(own, STEPS - 5)),
    ),
    "linear": (
        {"rate_schedule": "linear", "final_rate": 0.2},
        lambda: lr_scheduler.LinearLR(optimizer(), 1.0, 0.2, STEPS),
    ),
    "warm-up and linear": (
        {"rate_schedule": "linear", "warmup_steps": 5},
        lambda: warm(lambda own: lr_scheduler.LinearLR(own, 1.0, 0.0, STEPS - 5)),
    ),
    "multi-step": (
        {"rate_schedule": "multi-step", "milestones": (7, 15), "rate_drop": 0.3},
        lambda: lr_scheduler.MultiStepLR(optimizer(), [7, 15], 0.3),
    ),
    "warm-up": (
        {"warmup_steps": 5},
        lambda: warm(lambda own: lr_scheduler.ConstantLR(own, 1.0, 1)),
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_recipes_shape_is_that_of_torchs_scheduler(name):
    """People carry the schedule of a script over, and compare the runs."""
    settings, scheduler = SHAPES[name]

    found = learning_rates(TrainingSettings(num_steps=STEPS, learning_rate=0.4, **settings))

    assert found == pytest.approx(stepped(scheduler()), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"final_rate": 0.1}, "final_rate is 0.1, but training.rate_schedule is flat"),
        ({"rate_schedule": "one-cycle", "warmup_steps": 2}, "warmup_steps is 2"),
        ({"rate_schedule": "cosine", "milestones": (3,)}, "milestones"),
        ({"rate_schedule": "multi-step"}, "Give some"),
        ({"rate_schedule": "multi-step", "milestones": (5, 3)}, "rising"),
        ({"rate_schedule": "multi-step", "milestones": (5, 30)}, "has only 20 steps"),
        ({"rate_schedule": "cosine", "rate_drop": 0.3}, "rate_drop is 0.3"),
        ({"warmup_steps": 20}, "never reach its peak"),
        ({"shards": 101}, "Use fewer"),
        ({"shards": 2, "path": "graph"}, "never whole"),
        ({"shards": 2, "piece": 5}, "never whole"),
    ],
)
def test_settings_that_nothing_reads_are_refused(settings, message):
    """A setting that does nothing is a run that is not what its recipe says."""
    with pytest.raises(ValidationError, match=message):
        TrainingSettings(num_steps=STEPS, **settings)


class Own(LRScheduler):
    """A scheduler of a script."""

    def get_lr(self):
        """See torch."""
        return [base / (1 + 0.1 * self.last_epoch) for base in self.base_lrs]


SCHEDULERS = {
    "cosine": lambda: lr_scheduler.CosineAnnealingLR(optimizer(), STEPS),
    "restarts": lambda: lr_scheduler.CosineAnnealingWarmRestarts(optimizer(), 5),
    "one cycle": lambda: lr_scheduler.OneCycleLR(optimizer(), 0.5, STEPS + 1),
    "lambda": lambda: lr_scheduler.LambdaLR(optimizer(), lambda step: 1 / (1 + step)),
    "cyclic": lambda: lr_scheduler.CyclicLR(optimizer(), 0.1, 0.5, 4),
    "chained": lambda: chained(),
    "sequential": SHAPES["warm-up and cosine"][1],
    "own": lambda: Own(optimizer()),
    "polynomial": lambda: lr_scheduler.PolynomialLR(optimizer(), STEPS, 2.0),
    "averaging": lambda: torch.optim.swa_utils.SWALR(optimizer(), 0.05, anneal_epochs=6),
}


def chained() -> LRScheduler:
    own = optimizer()
    parts = [lr_scheduler.ExponentialLR(own, 0.9), lr_scheduler.LinearLR(own, 0.2, total_iters=4)]
    return lr_scheduler.ChainedScheduler(parts, own)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_is_read_into_what_its_loop_sees_and_left_alone(name):
    """Reading must not move the user's scheduler, nor the optimizer that it belongs to."""
    make = SCHEDULERS[name]
    scheduler = make()
    before = copy.deepcopy(scheduler.state_dict()), copy.deepcopy(scheduler.optimizer.state_dict())

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = rates(scheduler, STEPS)

    assert found == pytest.approx(stepped(make()), rel=1e-13)
    assert str(scheduler.state_dict()) == str(before[0])
    assert scheduler.optimizer.state_dict() == before[1]
    assert stepped(scheduler) == pytest.approx(found, rel=1e-13)


def test_the_momentum_of_one_cycle_is_read_as_well():
    """Its momentum goes against the rate; a run with a constant one would be another run."""
    make = SCHEDULERS["one cycle"]

    assert rates(make(), STEPS, of="momentum") == pytest.approx(stepped(make(), "momentum"))


@pytest.mark.parametrize("name", ["one cycle", "cosine"])
def test_a_scheduler_alone_moves_nothing_but_the_rate(name):
    """What it moves besides has to be in the optimizer, by step; a flat one would be another."""
    still, scheduler = engine.sgd(0.9), SCHEDULERS[name]()
    moving = engine.sgd([0.8] * STEPS)

    assert rates_alone(scheduler, STEPS, moving) == rates(scheduler, STEPS)
    if name == "cosine":
        assert rates_alone(scheduler, STEPS, still) == rates(scheduler, STEPS)
    else:
        with pytest.raises(ConfigurationError, match=r"moves the momentum .*of=\"momentum\""):
            rates_alone(scheduler, STEPS, still)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_what_the_refusal_of_a_one_cycle_says_is_taken(make):
    """It spoke of beta1, which is no argument of adamw, and named no optimizer."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    momentum = {"momentum": 0.9} if make is torch.optim.SGD else {}
    given = make([parameter], lr=0.1, **momentum)
    scheduler = lr_scheduler.OneCycleLR(given, 0.5, STEPS + 1)
    with pytest.raises(ConfigurationError, match="one number for each step") as caught:
        rates_alone(scheduler, STEPS, engine.sgd(0.9) if momentum else engine.adamw())
    code = str(caught.value).partition("for each step: ")[2].partition(" (where")[0]

    moving = eval(code, {"engine": engine, "scheduler": scheduler, "num_steps": STEPS})

    assert rates_alone(scheduler, STEPS, moving) == rates(scheduler, STEPS)


@pytest.mark.parametrize(
    ("optimizer", "is_right"),
    [
        (engine.sgd(0.9), False),
        (engine.averaged(engine.adamw(groups=[{"names": "a.*", "rate": 0.5}])), False),
        (engine.averaged(engine.adamw(groups=[{"names": "a.*", "rate": 0.1}])), True),
        (engine.muon(rest=engine.adamw(groups=[{"rate": 0.1}]), clip_norm=1.0), True),
        (engine.Optimizer("own", {}, lambda params: {}, lambda *given: {}), True),
    ],
)
def test_scheduler_whose_groups_the_optimizer_lacks_is_refused(optimizer, is_right):
    """The rates of the first group alone would train the others on another rate, in silence."""
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.2, 0.02)]
    scheduler = lr_scheduler.StepLR(torch.optim.SGD(groups), 3, 0.5)

    if is_right:
        assert rates_alone(scheduler, STEPS, optimizer) == rates(scheduler, STEPS)
        return
    with pytest.raises(ConfigurationError, match=r"0\.1 times the rate of group 0.*'rate': 0\.1"):
        rates_alone(scheduler, STEPS, optimizer)


def test_rates_of_groups_are_those_of_the_first_if_the_others_follow():
    """The engine has one rate for each step, and factors on it."""
    own = optimizer(1.0, 0.1)

    assert rates(lr_scheduler.ExponentialLR(own, 0.9), 3) == pytest.approx([0.4, 0.36, 0.324])
    with pytest.raises(ConfigurationError, match="another shape"):
        rates(lr_scheduler.LambdaLR(own, [lambda t: 1.0, lambda t: 0.5**t]), 3)


def test_a_scheduler_that_waits_for_a_metric_is_refused():
    """Its rates depend on the run, so they are no function of the step."""
    with pytest.raises(ConfigurationError, match="no list of rates can say beforehand"):
        rates(lr_scheduler.ReduceLROnPlateau(optimizer()), STEPS)  # pyright: ignore[reportArgumentType]


def test_a_run_takes_the_list():
    """What is read is what a routine takes."""
    run = routines.routine(
        learning_rate=rates(SCHEDULERS["cosine"](), routines.NUM_STEPS),
    )

    assert torch.isfinite(engine.metagradient(run, routines.output)["weights"]).all()
