"""Does metasmoothness predict what metagradient descent gains (A4, the paper's figure 4b)?

Question: over recipes from smooth to chaotic, how do Definition 2 and the share of the objective
loss that five outer steps take away go together? Required: Spearman of 0.5 or more.

Each recipe is measured as it is: metasmoothness along four directions by class with weights, then
five outer steps with masked signs on digits with 40 % wrong labels: of Algorithm 1 (``counts``,
whose metagradient is that of one more use at one late step), or of the weights themselves
(``--kind weights``, which is what the smoothness is of). The gain is that of the test loss
at the last iterate; nothing is chosen. One draw of the masks moves it by tens of per cent, so it is
the mean over three. A metagradient that is not finite ends a descent: its gain
is that of the iterates before.

It is here and not among the tests because it takes minutes; a bounded version is
``tests/bench/test_smooth_gain.py``.

    python -m tests.bench.bench_smooth_gain --date 20261124
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from engine import metagradient
from engine.errors import NonFiniteError
from engine.metaparameters.outer_updates import make_outer
from engine.numerics.determinism import deterministic
from engine.numerics.process import keep_freed_memory
from engine.preflight.metasmoothness import INDEPENDENT, metasmoothness
from engine.problems.built import BuiltProblem, build_problem
from engine.recipes.descent import DescentRecipe
from engine.recipes.smoothness import SmoothnessSettings
from engine.replay.plain_training import train_unchecked
from engine.reports.canvas import BLUE, GREY, new_figure, png
from engine.routine.outputs import classification_scores
from tests.bench.record import write_record

BASE: dict[str, Any] = {
    "name": "gain",
    "optimizer": {"name": "sgd", "momentum": 0.9},
    "outer": {"num_steps": 5, "update": "masked-sign", "probability": 0.2},
}

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    f"{activation}{extra} lr {rate:g} batch {batch}": {
        "model": {"activation": activation, **model},
        "training": {"learning_rate": rate, "batch_size": batch},
    }
    for activation, extra, model, rate, batch in [
        ("gelu", " /10", {"output_scale": 0.1}, 0.5, 100),
        ("gelu", " /10 LN", {"output_scale": 0.1, "norm": "layer"}, 0.3, 100),
        ("gelu", "", {}, 0.02, 100),
        ("gelu", "", {}, 0.05, 100),
        ("gelu", "", {}, 0.1, 100),
        ("gelu", "", {}, 0.3, 100),
        ("gelu", "", {}, 0.5, 100),
        ("gelu", "", {}, 0.1, 20),
        ("relu", "", {}, 0.02, 100),
        ("relu", "", {}, 0.1, 100),
        ("relu", "", {}, 0.5, 100),
        ("relu", " LN", {"norm": "layer"}, 0.3, 100),
        ("relu", " /10", {"output_scale": 0.1}, 0.5, 100),
        ("tanh", "", {}, 0.1, 100),
    ]
}
"""Fourteen recipes; steps are so many that each sees the same number of examples."""


def problem(settings: dict[str, dict[str, Any]], kind: str, num_examples: int) -> BuiltProblem:
    """Build one recipe with another metaparameter."""
    batch = settings["training"]["batch_size"]
    training = {
        "num_steps": num_examples // batch,
        "rate_schedule": "one-cycle",
        "threads": 1,
        **settings["training"],
    }
    content = {
        **BASE,
        "arguments": {
            "num_train": 1000,
            "num_objective": 400,
            "num_validation": 1,
            "flip_fraction": 0.4,
            "model": {"width": 64, "depth": 2, **settings["model"]},
        },
        "training": training,
        "metaparameters": {"name": kind},
    }
    if kind != "counts":
        content["outer"] = {"update": "sign"}
    return build_problem(DescentRecipe.model_validate(content))


def smoothness(
    settings: dict[str, dict[str, Any]], num_examples: int, directions: int = 4
) -> tuple[float, float]:
    """Return both definitions by class, with weights."""
    built = problem(settings, "weights", num_examples)
    found = metasmoothness(
        built.routine,
        built.output,
        SmoothnessSettings(directions=directions),
        groups=built.data.splits["train"].labels,
    )
    return found.definition_1.mean, found.definition_2.mean


def gain(
    settings: dict[str, dict[str, Any]], num_examples: int, seed: int, kind: str = "counts"
) -> tuple[float, float, bool]:
    """Return the test loss at the start, the share that was gained, and whether all was finite."""
    built = problem(settings, kind, num_examples)
    outer = {**BASE["outer"], "seed": seed}
    recipe = DescentRecipe.model_validate(
        {**BASE, "outer": outer, "metaparameters": {"name": "counts"}}
    )
    move = make_outer(recipe.rule)
    value, memory, finite = built.kind.value, {}, True

    def test_loss() -> float:
        routine = built.routine.at(value)
        examples = built.held_out["test"]
        return routine.evaluate(
            lambda model: classification_scores(model, examples.inputs, examples.labels),
            train_unchecked(routine),
        )["loss"]

    before = test_loss()
    for step in range(recipe.outer.num_steps):
        try:
            gradient = metagradient(built.routine.at(value), built.output, schedule="store-all")
        except NonFiniteError:
            finite = False
            break
        moved, memory = move(value, gradient[kind], memory, step)
        value = built.kind.project(moved)
    try:
        after = test_loss()
    except NonFiniteError:
        return before, -1.0, False
    return before, 1 - after / before, finite


def spearman(first: list[float], second: list[float]) -> float:
    """Return the rank correlation."""
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic)


def measure(
    recipes: dict[str, dict[str, dict[str, Any]]],
    num_examples: int = 20_000,
    seeds: Sequence[int] = (0, 1, 2),
    kind: str = "counts",
) -> list[dict[str, Any]]:
    """Measure each recipe, with the masks of several seeds."""
    rows = []
    for name, settings in recipes.items():
        started = time.perf_counter()
        with deterministic(1):
            try:
                first, second = smoothness(settings, num_examples)
                found = [gain(settings, num_examples, seed, kind) for seed in seeds]
            except NonFiniteError:
                continue  # a training that diverges as it is is no recipe
        rows.append(
            {
                "recipe": name,
                "definition_1": first,
                "definition_2": second,
                "before": found[0][0],
                "gains": [share for _, share, _ in found],
                "gain": statistics.fmean(share for _, share, _ in found),
                "finite": all(finite for *_, finite in found),
                "seconds": time.perf_counter() - started,
            }
        )
        print(json.dumps(rows[-1]), flush=True)  # noqa: T201 (a benchmark's output)
    return rows


def draw(rows: list[dict[str, Any]], correlation: float) -> bytes:
    """Draw the scatter plot."""
    figure, (axes,) = new_figure(4.2)
    axes.axvline(INDEPENDENT, color=GREY, linestyle="--", linewidth=1, zorder=0)
    axes.axhline(0, color=GREY, linewidth=1, zorder=0)
    axes.annotate(
        "independent increments",
        (INDEPENDENT, 1),
        xycoords=("data", "axes fraction"),
        rotation=90,
        ha="right",
        va="top",
        color=GREY,
        fontsize=8,
    )
    for number, row in enumerate(rows, start=1):
        axes.plot(row["definition_2"], row["gain"], "o", color=BLUE)
        place = (row["definition_2"], row["gain"])
        axes.annotate(str(number), place, xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set_title(f"Spearman {correlation:.2f} over {len(rows)} recipes", loc="left", fontsize=10)
    axes.set(
        xlabel="metasmoothness (Definition 2, by class)",
        ylabel="share of the test loss gained\nby five outer steps",
    )
    return png(figure)


def main() -> None:
    """Measure all recipes and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--date", required=True, help="YYYYMMDD, for the name of the record")
    parser.add_argument("--kind", choices=("counts", "weights"), default="counts")
    arguments = parser.parse_args()
    date, kind = arguments.date, arguments.kind
    keep_freed_memory()
    torch.set_num_threads(1)
    rows = measure(RECIPES, kind=kind)
    correlation = spearman([row["definition_2"] for row in rows], [row["gain"] for row in rows])
    draws = [
        spearman([row["definition_2"] for row in rows], [row["gains"][each] for row in rows])
        for each in range(len(rows[0]["gains"]))
    ]
    lines = [
        f"Spearman of Definition 2 and the mean gain: {correlation:.2f} over {len(rows)} recipes "
        f"(of single draws of the masks: {', '.join(f'{each:.2f}' for each in draws)}). "
        "Required: 0.5.",
        "",
        "| # | recipe | Definition 2 | Definition 1 | test loss | gain | each draw | finite |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(
            f"| {number} | {row['recipe']} | {row['definition_2']:.3f} | {row['definition_1']:.3g} "
            f"| {row['before']:.3f} | {100 * row['gain']:+.0f} % | "
            f"{', '.join(f'{100 * each:+.0f}' for each in row['gains'])} | "
            f"{'yes' if row['finite'] else 'no'} |"
            for number, row in enumerate(rows, start=1)
        ),
    ]
    place = write_record(
        "smooth_gain" if kind == "counts" else f"smooth_gain_{kind}",
        f"Metasmoothness and what metagradient descent gains, by {kind}",
        f"python -m tests.bench.bench_smooth_gain --date {date} --kind {kind}",
        lines,
        date,
    )
    place.with_suffix(".png").write_bytes(draw(rows, correlation))


if __name__ == "__main__":
    main()
