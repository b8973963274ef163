"""What is reproduced of the paper: rows of recipes, and the figures that each is asked for."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Run = dict[str, Any]
"""The JSON object of ``mgd run --json``."""


@dataclass(frozen=True)
class Figure:
    """A number that is read from a run, and what is asked of it.

    Attributes:
        name: What it is.
        value: Reads it.
        asked: The bound in words; empty for a figure that is only reported.
        holds: Whether a run keeps the bound.
        most: The bound is for most runs, not for all.
    """

    name: str
    value: Callable[[Run], float]
    asked: str = ""
    holds: Callable[[Run], bool] | None = None
    most: bool = False


@dataclass(frozen=True)
class Row:
    """One line of the issue: a recipe, with its settings changed or not, and its figures.

    Attributes:
        recipe: Name of the recipe.
        figures: What is read of each run.
        changes: Settings that differ from the recipe's.
        variants: More settings, one set for each of several runs with the same seed.
    """

    recipe: str
    figures: list[Figure]
    changes: tuple[str, ...] = ()
    variants: tuple[tuple[str, ...], ...] = ((),)


def at_least(
    name: str, bound: float, value: Callable[[Run], float], *, most: bool = False
) -> Figure:
    """Return a figure that must reach a bound."""
    return Figure(name, value, f"{bound:g} or more", lambda run: value(run) >= bound, most)


def at_most(
    name: str, bound: float, value: Callable[[Run], float], *, most: bool = False
) -> Figure:
    """Return a figure that must not pass a bound."""
    return Figure(name, value, f"{bound:g} or less", lambda run: value(run) <= bound, most)


def above(name: str, value: Callable[[Run], float], *, most: bool = False) -> Figure:
    """Return a figure whose sign is the claim."""
    return Figure(name, value, "above 0", lambda run: value(run) > 0, most)


def fall(run: Run) -> float:
    """Return the share of the test loss that is gone at the chosen iterate, in per cent."""
    test = run["test"]
    return 100 * (1 - test["after"]["loss"] / test["before"]["loss"])


def within_five(run: Run) -> float:
    """Return the same for the iterate that validation chooses within five outer steps."""
    validation, test = (run["losses"][split] for split in ("validation", "test"))
    chosen = validation.index(min(validation[:6]))
    return 100 * (1 - test[chosen] / test[0])


def ahead_of(name: str) -> Callable[[Run], float]:
    """Return by how much the test loss is below a baseline's, in per cent."""
    return lambda run: 100 * (1 - run["test"]["after"]["loss"] / run["baselines"][name]["loss"])


def ahead_in(what: str, name: str) -> Callable[[Run], float]:
    """Return by how many points a share on the test split is above a baseline's."""
    return lambda run: 100 * (run["test"]["after"][what] - run["baselines"][name][what])


def points(run: Run) -> float:
    """Return by how many points the test accuracy falls."""
    return 100 * (run["test"]["before"]["accuracy"] - run["test"]["after"]["accuracy"])


def naive_points(run: Run) -> float:
    """Return the same of the most harmful naive poison."""
    clean = run["test"]["before"]["accuracy"]
    return 100 * max(clean - each["accuracy"] for each in run["baselines"].values())


def transferred(run: Run) -> float:
    """Return the mean fall under other seeds and routines, in points."""
    pairs = [p for p in run["reruns"].values() if p["before"] and p["after"]]
    falls = [p["before"]["accuracy"] - p["after"]["accuracy"] for p in pairs]
    return 100 * statistics.mean(falls) if falls else math.nan


def over_fitted_rise(run: Run) -> float:
    """Return by how much the last iterate's test loss is above the chosen one's, in per cent."""
    return 100 * (run["losses"]["test"][-1] / run["test"]["after"]["loss"] - 1)


def grid_place(run: Run) -> float:
    """Return the place of the chosen schedule in the grid, in per cent of its size."""
    return 100 * run["grid"]["rank"] / run["grid"]["trainings"]


def beside_optuna(run: Run) -> float:
    """Return by how much the validation loss is below Optuna's, in per cent."""
    return 100 * (1 - run["validation"]["after"]["loss"] / run["optuna"]["best"])


def lds(drop: int) -> Callable[[Run], float]:
    """Return the mean LDS at a percentage left out."""
    return lambda run: run["lds"][str(drop)]["mean"]


def baseline_lds(run: Run) -> float:
    """Return the highest LDS of the final gradients."""
    return max(each["mean"] for each in run["baselines"]["final-gradient"]["lds"].values())


def farthest_lds(run: Run) -> float:
    """Return the LDS that is farthest from 0, without its sign."""
    return max(abs(each["mean"]) for each in run["lds"].values())


def distrusted(run: Run) -> float:
    """Return 1 if the preflight refused the run, or warned of it."""
    return float(run["preflight"] != "pass")


def task_source(run: Run) -> dict[str, float]:
    """Return the shares of the source that the task of text-selection is drawn from."""
    return run["sources"]["refranes"]


SELECTION = [
    at_least("test loss within five steps, % less", 30, within_five),
    above("test loss below all data, %", fall),
    at_least("AUC of wrong labels", 0.8, lambda run: run["auc"]),
    above("below random, %", ahead_of("random")),
    Figure("below low loss, %", ahead_of("low-loss")),
    Figure("below gradient similarity, %", ahead_of("gradient-similarity")),
]
TEXT = [
    above("test loss below all data, %", fall),
    above("below random, %", ahead_of("random")),
    Figure("below low loss, %", ahead_of("low-loss")),
    Figure("below gradient similarity, %", ahead_of("gradient-similarity")),
    Figure("share of the task's source before, %", lambda run: 100 * task_source(run)["before"]),
    above(
        "that share rises, points",
        lambda run: 100 * (task_source(run)["after"] - task_source(run)["before"]),
    ),
]
OVER_FITTED = [
    above(
        "objective, first to last, % less",
        lambda run: 100 * (1 - run["losses"]["objective"][-1] / run["losses"]["objective"][0]),
    ),
    above("test loss, last above chosen iterate, %", over_fitted_rise),
    at_least("report and JSON say over-fitted", 1, lambda run: float(run["over_fitted"])),
    Figure("outer step chosen", lambda run: run["chosen"]),
]
MIXTURE = [
    above("test loss below proportional, %", ahead_of("proportional")),
    above("below uniform, %", ahead_of("uniform")),
]
SCHEDULE = [
    above("test loss, % less", fall),
    at_most("place in the grid, best %", 5, grid_place, most=True),
    above("below Optuna in validation, %", beside_optuna, most=True),
]
POISON = [
    at_least("accuracy falls, points", 3, points),
    Figure(
        "best naive poison, points",
        naive_points,
        "a third or less",
        lambda run: points(run) >= 3 * naive_points(run),
    ),
    Figure("other seeds and ReLU, points", transferred),
]
ATTRIBUTION = [
    at_least("LDS, 1 % left out", 0.9, lds(1)),
    at_least("LDS, 5 % left out", 0.85, lds(5)),
    Figure("LDS, 20 % left out", lds(20)),
    at_most("highest LDS of final gradients", 0.4, baseline_lds),
]
TEN_TIMES = [
    at_most("LDS, the farthest from 0", 0.2, farthest_lds),
    Figure("LDS, 5 % left out", lds(5)),
    at_least("preflight warns or refuses", 1, distrusted),
]
DISTILLATION = [
    above("test accuracy above real images, points", lambda run: -points(run)),
    Figure("test accuracy, %", lambda run: 100 * run["test"]["after"]["accuracy"]),
]
CANARIES = [
    at_least(
        "IN/OUT gap, times that of random canaries",
        2,
        lambda run: run["gap"] / run["baselines"]["random"]["gap"],
    ),
    Figure("gap, nats", lambda run: run["gap"]),
]

CONTRASTIVE = [
    above("image to caption, above all data, points", ahead_in("accuracy", "all-data")),
    above("image to caption, above random, points", ahead_in("accuracy", "random")),
    above("caption to images, above all data, points", ahead_in("text_to_image", "all-data")),
    above("caption to images, above random, points", ahead_in("text_to_image", "random")),
    Figure("wrong captions, AUC", lambda run: run["auc"], "above 0.75", lambda r: r["auc"] > 0.75),
    Figure("image to caption above low loss, points", ahead_in("accuracy", "low-loss")),
    Figure(
        "image to caption above gradient similarity, points",
        ahead_in("accuracy", "gradient-similarity"),
    ),
    Figure("image to caption, %", lambda run: 100 * run["test"]["after"]["accuracy"]),
    Figure("caption to images, %", lambda run: 100 * run["test"]["after"]["text_to_image"]),
]

STEP_SIZES = tuple((f"outer.step_size={size}",) for size in (0.1, 0.2, 0.4))

AT_140 = "metaparameters.injection_step=140"
"""Algorithm 1 at 70 % of the run, by which these rows were measured; the default is later now."""

ROWS = {
    "digits-selection": Row("digits-selection", SELECTION, (AT_140,)),
    "digits-selection, 20 target examples": Row(
        "digits-selection",
        OVER_FITTED,
        (AT_140, "arguments.num_objective=20", "outer.num_steps=24", "baselines=[]"),
    ),
    "digits-exchange": Row("digits-exchange", SELECTION, (AT_140,)),
    "digits-mixture": Row("digits-mixture", MIXTURE),
    "digits-schedule, three step sizes": Row("digits-schedule", SCHEDULE, (), STEP_SIZES),
    "digits-poison": Row("digits-poison", POISON),
    "digits-attribution": Row("digits-attribution", ATTRIBUTION),
    "digits-attribution, ten times the rate": Row(
        "digits-attribution", TEN_TIMES, ("training.learning_rate=0.2", "preflight=advise")
    ),
    "digits-attribution-logistic": Row("digits-attribution-logistic", ATTRIBUTION),
    "digits-attribution-logistic, ten times the rate": Row(
        "digits-attribution-logistic", TEN_TIMES, ("training.learning_rate=5", "preflight=advise")
    ),
    "digits-distillation": Row("digits-distillation", DISTILLATION),
    "text-selection": Row("text-selection", TEXT),
    "fashion-selection": Row("fashion-selection", SELECTION),
    "fashion-schedule, three step sizes": Row("fashion-schedule", SCHEDULE, (), STEP_SIZES),
    "fashion-poison": Row("fashion-poison", POISON),
    "fashion-contrastive": Row("fashion-contrastive", CONTRASTIVE),
    "fashion-canaries": Row("fashion-canaries", CANARIES),
}
"""Name to row."""
