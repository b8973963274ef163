"""Banks of trainings that differ in a schedule, in weights or in the seed, beside a torch loop.

Each is what a recipe that ships trains many times: a grid of learning rates, retrainings without
some examples, other orders, steps along directions. The loop is a script's own: a module, an
optimizer of torch, the same batches.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from engine.applications.attribution.scores import kept_weights
from engine.applications.comparisons.rate_search_stages import one_cycle_rates
from engine.metaparameters.learning_rate import LearningRatePoints
from engine.metaparameters.weights import ExampleWeights
from engine.preflight.metasmoothness import draw_direction, metasmoothness, shifted
from engine.problems.built import build_problem
from engine.recipes.attribution import Removals
from engine.recipes.files import load_recipe
from engine.recipes.rate_search import one_cycles
from engine.recipes.smoothness import SmoothnessSettings
from engine.recipes.training import Retraining
from engine.replay.batched import train_each
from engine.routine.routine import Routine
from engine.types import Metaparams, State
from tests.bench.bench_witness import medians


@dataclass(frozen=True)
class Bank:
    """Many trainings of one routine.

    Attributes:
        words: What they are.
        routine: What they have in common.
        points: z of each.
        seeds: Seed of each; the routine's own if None.
    """

    words: str
    routine: Routine
    points: Sequence[Metaparams]
    seeds: Sequence[int] | None = None

    def together(self) -> list[State | None]:
        """Train all as batched runs."""
        return train_each(self.routine, self.points, seeds=self.seeds, together="batched")

    def by_torch(self, number: int) -> Tensor:
        """Train one as a script does; return its parameters, shape (params,)."""
        own, z = self.routine, self.points[number]
        if self.seeds is not None:
            own = replace(own, seed=self.seeds[number])
        model = copy.deepcopy(self.routine.given).train()
        momentum = float(own.optimizer.at(0)["momentum"])
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=momentum)
        (weights,) = z.values() if "weights" in z else (None,)
        for step in range(own.num_steps):
            rows = own.order.batch(step)
            rate = own.hyperparameters(z, step)["learning_rate"]
            optimizer.param_groups[0]["lr"] = float(rate)
            optimizer.zero_grad()
            losses = own.loss(model, tuple(column[rows] for column in own.examples))
            (losses if weights is None else weights[rows] * losses).mean().backward()
            optimizer.step()
        return torch.cat([each.detach().reshape(-1) for each in model.parameters()])

    def error(self, found: Sequence[State | None], numbers: Sequence[int]) -> float:
        """Return the largest relative distance of some trainings from those of the loop."""
        errors = []
        for number in numbers:
            state, expected = found[number], self.by_torch(number)
            if state is not None:
                distance = (state["params"] - expected).norm() / expected.norm()
                errors.append(float(distance))
        return max(errors)


def grid(number: int = 1000) -> Bank:
    """Return the one-cycle schedules of ``digits-schedule``."""
    recipe = load_recipe("digits-schedule").descent
    training, own = recipe.training, build_problem(recipe).routine
    rates = [
        one_cycle_rates(each, training.learning_rate, training.num_steps)
        for each in one_cycles(number)
    ]
    points = [{"rates": row.log().to(own.layout.dtype)} for row in rates]
    kind = LearningRatePoints(points[0]["rates"], num_steps=training.num_steps)
    words = f"one-cycle trainings of the digits' MLP, {training.num_steps} steps"
    return Bank(words, replace(own, metaparameters={"rates": kind}), points)


def removals(number: int = 60) -> Bank:
    """Return retrainings of ``digits-attribution`` without a random twentieth."""
    own = _weighted("digits-attribution")
    drawn = [kept_weights(Removals(percent=5, seed=0), len(own), i) for i in range(number)]
    points = [{"weights": each.to(own.layout.dtype)} for each in drawn]
    return Bank(f"trainings of an LDS bank, {own.num_steps} steps in float64", own, points)


def orders(number: int = 100) -> Bank:
    """Return trainings of the main job's MLP with seeds of their own."""
    own = _weighted("digits-selection")
    words = f"seeds of the main job's training, {own.num_steps} steps"
    return Bank(words, own, [own.point()] * number, range(1, number + 1))


def directions(number: int = 32) -> Bank:
    """Return trainings of the main job's MLP at z + h v and z + 2 h v, for random v."""
    own = _weighted("digits-selection")
    settings, z = SmoothnessSettings(), own.point()
    points = [
        shifted(z, draw_direction(z, settings, i), distance * settings.step)
        for i in range(number)
        for distance in (1, 2)
    ]
    return Bank(f"trainings along smoothness directions, {own.num_steps} steps", own, points)


def measured(rounds: int) -> tuple[str, str, str]:
    """Measure metasmoothness of the main job's training, as one batched run and one by one.

    Returns:
        Figure, what was measured, and nothing that was asked.
    """
    problem = build_problem(load_recipe("digits-selection").descent)
    groups = problem.data.splits["train"].one_label_each
    found: dict[str, tuple[float | None, ...]] = {}

    def measure(how: Retraining) -> None:
        settings = SmoothnessSettings(directions=7, retraining=how)
        score = metasmoothness(problem.routine, problem.output, settings, groups=groups)
        found[how] = score.definition_2.directions

    took = medians({how.value: partial(measure, how) for how in Retraining}, rounds)
    pairs = zip(found[Retraining.BATCHED], found[Retraining.LOOP], strict=True)
    error = max(abs(one - other) for one, other in pairs if one is not None and other is not None)
    words = f"{took['batched'] / took['loop']:.2f} (Definition 2 off by {error:.0e})"
    return "metasmoothness along 7 directions, as one batched run over one by one", words, ""


def _weighted(name: str) -> Routine:
    """Return the routine of a recipe, with a weight for each example."""
    own = build_problem(load_recipe(name).descent).routine
    kind = ExampleWeights(torch.ones(len(own), dtype=own.layout.dtype))
    return replace(own, metaparameters={"weights": kind})
