"""Results of searches over learning-rate schedules, gathered from their stages."""

import torch

from engine.applications.comparisons.rate_search_stages import best_rates, one_cycle_rates
from engine.problems.built import SPLITS
from engine.recipes.rate_search import Searched, one_cycles
from engine.stages.commits import read_rows
from engine.stages.references import Ref
from engine.stages.run import Run


def read_grid(run: Run, chunks: list[Ref]) -> Searched:
    """Return the result of the grid search."""
    parts = [read_rows(run.store, ref) for ref in chunks]
    losses = {name: torch.cat([part[name] for part in parts]) for name in SPLITS}
    place = int(losses["validation"].argmin())
    cycle = one_cycles(run.recipe.schedules.grid)[place]
    training = run.recipe.training
    rates = one_cycle_rates(cycle, training.learning_rate, training.num_steps)
    return _searched(losses, place, rates)


def read_optuna(run: Run, ref: Ref) -> Searched:
    """Return the result of Optuna's search."""
    rows = read_rows(run.store, ref)
    losses = {name: rows[name] for name in SPLITS}
    place = int(losses["validation"].argmin())
    return _searched(losses, place, best_rates(run, ref, place))


def _searched(losses: dict[str, torch.Tensor], place: int, rates: torch.Tensor) -> Searched:
    finite = losses["validation"][torch.isfinite(losses["validation"])]
    return Searched(
        trainings=len(losses["validation"]),
        failed=len(losses["validation"]) - len(finite),
        best={name: float(row[place]) for name, row in losses.items()},
        rates=rates.tolist(),
        losses=finite.sort().values.tolist(),
    )
