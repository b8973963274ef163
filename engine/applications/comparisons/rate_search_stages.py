"""The stages that train other learning-rate schedules: a chunk of a grid, and Optuna's trials.

A schedule of any shape is a value of ``LearningRatePoints`` with a key point at every step, so a
chunk is many runs that differ in z, and is trained as one.
"""

import math
from dataclasses import replace
from importlib import import_module

import torch
from jaxtyping import Float
from torch import Tensor

from engine.metaparameters.learning_rate import LearningRatePoints
from engine.problems.built import SPLITS, BuiltProblem
from engine.recipes.rate_search import OneCycle, one_cycles
from engine.replay.batched import Together, evaluate_each, train_each
from engine.routine.outputs import MeanLoss
from engine.stages.commits import Made, read_rows
from engine.stages.references import Ref
from engine.stages.run import Run
from engine.stages.stage import stage
from engine.types import State

_SAME = 1e-4
"""Relative difference of two sums of the same losses, at most, in float32."""

REACH = 10.0
"""How far from training.learning_rate Optuna may go, as a factor: as far as the grid's peaks."""


def one_cycle_rates(cycle: OneCycle, base: float, num_steps: int) -> Float[Tensor, " steps"]:
    """Return the rate of each step of a one-cycle schedule, in float64.

    Args:
        cycle: Its shape.
        base: What its peak is relative to.
        num_steps: T.
    """
    place = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    rising = cycle.start + (1 - cycle.start) * place / cycle.position
    falling = 1 + (cycle.end - 1) * (place - cycle.position) / (1 - cycle.position)
    return base * cycle.peak * torch.where(place < cycle.position, rising, falling)


@stage("schedules")
def train_chunk(run: Run, start: int, stop: int, grid: int) -> Made:
    """Train some schedules of a grid and commit their losses on each split.

    A schedule that diverges has the loss infinity.

    Args:
        run: The run.
        start: First schedule.
        stop: Schedule after the last one.
        grid: Schedules of the grid: another grid has others at the same places.
    """
    training = run.recipe.training
    cycles = one_cycles(grid)[start:stop]
    rates = [one_cycle_rates(each, training.learning_rate, training.num_steps) for each in cycles]
    losses = torch.stack([torch.tensor(row) for row in score_schedules(run.problem, rates)])
    return {name: losses[:, i].contiguous() for i, name in enumerate(SPLITS)}, {}


@stage("optuna")
def search_optuna(run: Run, trials: int, seed: int) -> Made:
    """Let Optuna's TPE choose key points; commit the losses and the points of each trial.

    It minimizes what the descent minimizes, over as many key points, from the same flat start.

    Cost:
        One stage, because each trial depends on all before it.

    References:
        Akiba et al. 2019, arXiv:1907.10902 (Optuna); Bergstra et al. 2011 (TPE).
    """
    optuna = import_module("optuna")  # an extra
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed % 2**32)
    study = optuna.create_study(direction="minimize", sampler=sampler)
    training, number = run.recipe.training, run.recipe.metaparameters.num_key_points
    base = training.learning_rate
    names = [f"rate {j}" for j in range(number)]
    study.enqueue_trial(dict.fromkeys(names, base))
    rows, points = [], []
    for _ in range(trials):
        trial = study.ask()
        rates = [trial.suggest_float(n, base / REACH, base * REACH, log=True) for n in names]
        points.append(torch.tensor(rates, dtype=torch.float64).log())
        (row,) = score_schedules(run.problem, [_every_step(points[-1], training.num_steps)])
        rows.append(torch.tensor(row))
        if math.isfinite(row[0]):
            study.tell(trial, row[0])
        else:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
    losses = torch.stack(rows)
    made = {name: losses[:, i].contiguous() for i, name in enumerate(SPLITS)}
    return {**made, "points": torch.cat(points)}, {}


def score_schedules(problem: BuiltProblem, rates: list[Tensor]) -> list[list[float]]:
    """Train each schedule and return its losses on the splits; infinity where it diverges."""
    ((name, _),) = problem.routine.metaparameters.items()
    steps, dtype = problem.routine.num_steps, problem.kind.value.dtype
    points = [{name: row.log().to(dtype)} for row in rates]
    kind = LearningRatePoints(points[0][name], num_steps=steps)
    routine = replace(problem.routine, metaparameters={name: kind})
    alone = routine.statistics is not None or routine.own is not None or routine.skip_idle
    together = Together.LOOP if alone else Together.BATCHED
    states = train_each(routine, points, together=together)
    there = [state for state in states if state is not None]
    losses = _losses(problem, there, together) if there else torch.empty(len(SPLITS), 0)
    found = iter(losses.T.tolist())
    return [[math.inf] * len(SPLITS) if state is None else next(found) for state in states]


def best_rates(run: Run, ref: Ref, place: int) -> Float[Tensor, " steps"]:
    """Return the rates of the trial at ``place`` of Optuna's, in float64."""
    recipe = run.recipe
    points = read_rows(run.store, ref)["points"].reshape(-1, recipe.metaparameters.num_key_points)
    return _every_step(points[place], recipe.training.num_steps)


def _every_step(points: Tensor, num_steps: int) -> Tensor:
    kind = LearningRatePoints(points, num_steps=num_steps)
    rates = [kind.hyperparameters(points, step)["learning_rate"] for step in range(num_steps)]
    return torch.stack([torch.as_tensor(rate) for rate in rates])


def _losses(problem: BuiltProblem, states: list[State], together: Together) -> Tensor:
    """Return the mean loss of each state on each split, shape (splits, states).

    They are those that ``problem.scores`` says, or, where it says something else, asked of it.
    """
    routine, single = problem.routine, problem.scores(states[0])
    rows = []
    for name in SPLITS:
        output = MeanLoss(problem.loss, problem.held_out[name].batches(routine.device))
        row = evaluate_each(routine, output, states, together=together).double()
        if not math.isclose(float(row[0]), single[name]["loss"], rel_tol=_SAME):
            losses = [problem.scores(each, {name: problem.held_out[name]}) for each in states]
            row = torch.tensor([each[name]["loss"] for each in losses], dtype=torch.float64)
        rows.append(torch.where(torch.isfinite(row), row, math.inf))
    return torch.stack(rows)
