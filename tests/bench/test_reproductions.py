"""Does each application move in the paper's direction? Small twins of the shipped recipes.

The full ones are rows of ``tests/bench/bench_reproductions.py``; attribution and canaries have
theirs in ``tests/flows/test_attribution.py`` and ``tests/flows/test_canaries.py``.
"""

from dataclasses import dataclass

import pytest
import torch

from engine import metagradient, train
from engine.applications.comparisons.baselines import proportional, random_subset, uniform
from engine.applications.comparisons.poisons import random_pixels
from engine.applications.comparisons.rate_search_stages import one_cycle_rates, score_schedules
from engine.metaparameters.outer_updates import make_outer
from engine.problems.built import SPLITS, BuiltProblem, build_problem
from engine.recipes.files import load_recipe
from engine.recipes.rate_search import one_cycles
from tests.helpers.runs.made_records import make_record

pytestmark = pytest.mark.slow

SMALL = ["arguments.model.width=32", "arguments.model.depth=1"]
SELECTION = [*SMALL, "arguments.num_train=300", "training.num_steps=60", "training.batch_size=50",
             "training.learning_rate=0.1", "metaparameters.injection_step=42"]  # fmt: skip


@dataclass
class Descent:
    """What a descent without stages leaves."""

    problem: BuiltProblem
    values: list[torch.Tensor]
    scores: list[dict[str, dict[str, float]]]
    gradient: torch.Tensor

    def losses(self, split):
        """Return a split's loss at each iterate."""
        return [each[split]["loss"] for each in self.scores]

    @property
    def chosen(self):
        """Return the outer step that validation chooses."""
        return min(range(len(self.scores)), key=self.losses("validation").__getitem__)


def descend(name, *changes):
    """Follow a recipe's metagradient by plain calls; the stages do the same, see test_descent."""
    recipe = load_recipe(name, list(changes))
    problem = build_problem(recipe)
    outer, state, value = make_outer(recipe.rule), {}, problem.kind.value.clone()
    values, scores, gradients = [], [], []
    for step in range(recipe.outer.num_steps + 1):
        found = metagradient(problem.routine.at(value), problem.output, schedule="store-all")
        (gradient,) = found.gradient.values()
        values.append(value)
        scores.append(problem.scores(found.state))
        gradients.append(gradient)
        downhill = -gradient if recipe.outer.maximize else gradient
        moved, state = outer(value.reshape(-1), downhill.reshape(-1), state, step)
        value = problem.kind.project(moved.reshape(value.shape))
    return Descent(problem, values, scores, gradients[0])


def score(problem, value):
    """Scores of a training at another value."""
    return problem.scores(train(problem.routine.at(value)))


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [("digits-selection", []), ("digits-exchange", ["outer.step_size=0.3"])],
    ids=["algorithm-1", "ranked-exchange"],
)
def test_selection_drops_wrong_labels_and_beats_a_random_subset(recipe, changes):
    """40 % of the labels are wrong; the metagradient is told nothing about which."""
    from sklearn.metrics import roc_auc_score

    found = descend(recipe, *SELECTION, "outer.num_steps=2", *changes)
    problem, value = found.problem, found.values[found.chosen]

    other = random_subset(problem, {}, int((value > 0).sum()), seed=1)

    corrupted = problem.data.corrupted.numpy()
    assert roc_auc_score(corrupted, found.gradient.numpy()) > 0.8
    test = found.losses("test")
    assert test[found.chosen] < 0.75 * test[0]
    assert test[found.chosen] < 0.8 * score(problem, other)["test"]["loss"]


def test_small_target_is_over_fitted_and_the_report_says_so():
    """With 20 examples the objective falls and the model gets worse; the choice stops before."""
    changes = ["arguments.num_objective=20", "outer.num_steps=5", "outer.probability=0.4"]

    found = descend("digits-selection", *SELECTION, *changes)

    objective, validation, test = (found.losses(split) for split in SPLITS)
    record = make_record(list(zip(objective, validation, test, strict=True)))
    assert objective[-1] < 0.7 * objective[0]
    assert test[-1] > 1.2 * test[found.chosen]
    assert record.chosen == found.chosen < 5
    assert record.over_fitted
    assert any("over-fitted the objective split" in line for line in record.sentences())


def test_mixture_beats_uniform_and_proportional_shares():
    """Four classes count; which clusters hold them is left to the metagradient."""
    changes = ["arguments.num_train=400", "training.num_steps=40", "training.learning_rate=0.1"]

    found = descend("digits-mixture", *SMALL, *changes, "outer.num_steps=2", "outer.step_size=0.4")

    own = found.losses("test")[found.chosen]
    for make in (uniform, proportional):
        other = make(found.problem, {}, 0, 0)
        assert own < 0.7 * score(found.problem, other)["test"]["loss"], make.__name__


def test_schedule_from_flat_gets_into_the_best_twentieth_of_the_grid():
    """From one flat rate, without being shown a single schedule."""
    changes = [
        "arguments.model.width=16",
        "arguments.model.output_scale=1",
        "arguments.num_train=300",
    ]
    changes += ["training.num_steps=20", "training.learning_rate=0.1", "outer.step_size=0.3"]

    found = descend("digits-schedule", *changes, "outer.num_steps=5", "outer.step_decay=0.9")

    rates = [one_cycle_rates(cycle, 0.1, 20) for cycle in one_cycles(20)]
    grid = sorted(row[1] for row in score_schedules(found.problem, rates))
    validation = found.losses("validation")
    assert validation[found.chosen] < 0.8 * validation[0]
    assert validation[found.chosen] <= grid[0]


def test_poison_hurts_far_more_than_random_pixels():
    """The same images and the same bounds; only the metagradient knows where to push."""
    changes = ["arguments.num_train=400", "training.num_steps=40", "outer.step_size=0.2"]

    found = descend("digits-poison", *SMALL, *changes, "outer.num_steps=5")

    other = random_pixels(found.problem, {}, 0, 0)
    clean, poisoned = found.scores[0]["test"], found.scores[-1]["test"]
    naive = score(found.problem, other)["test"]["loss"] - clean["loss"]
    assert poisoned["loss"] - clean["loss"] > 3 * max(naive, 0)
    assert poisoned["loss"] > 1.08 * clean["loss"]
    assert poisoned["accuracy"] < clean["accuracy"]


def test_learned_images_teach_more_than_real_ones():
    """Fifty images, of which nothing but the labels has to stay."""
    changes = ["arguments.model.width=16", "outer.num_steps=3", "outer.step_size=0.1"]

    found = descend("digits-distillation", *changes)

    before, after = found.scores[0]["test"], found.scores[-1]["test"]
    assert after["loss"] < 0.8 * before["loss"]
    assert after["accuracy"] > before["accuracy"] + 0.02
