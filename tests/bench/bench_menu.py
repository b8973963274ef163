"""What does the design menu do to metasmoothness, at equal rate and at equal loss (A3)?

Question: against a ResNet-9 with ReLU, max pooling and batch norm after the activation, by how much
do Definition 2 rise and Definition 1 fall at the same nominal learning rate? Required: 0.3, and a
factor of 3. Beside it the same at matched validation loss, because an output scale is in part
another rate.

The routines are those of the recipes ``*-smooth-search``, which ``mgd run`` carries out as a flow;
here no server is needed. Rates are re-tuned over those of the recipe; matched is the rate whose
validation loss is closest to the baseline's best one.

    python -m tests.bench.bench_menu digits-smooth-search --date 20261124
    python -m tests.bench.bench_menu fashion-smooth-search --date 20261124
"""

import argparse
import math
from typing import Any

from engine.errors import NonFiniteError
from engine.numerics.determinism import deterministic
from engine.numerics.process import keep_freed_memory
from engine.preflight.metasmoothness import metasmoothness
from engine.problems.built import build_problem
from engine.recipes.descent import DescentRecipe
from engine.recipes.files import load_recipe
from engine.recipes.smoothness import SmoothnessSettings, SmoothSearchRecipe, at_rate
from engine.replay.plain_training import train_unchecked
from engine.routine.outputs import classification_scores
from tests.bench.record import write_record

Row = dict[str, Any]


def validation_loss(recipe: DescentRecipe) -> float:
    """Train once and score; infinite where training diverges."""
    problem = build_problem(recipe)
    examples = problem.held_out["validation"]
    try:
        state = train_unchecked(problem.routine)
        return problem.routine.evaluate(
            lambda model: classification_scores(model, examples.inputs, examples.labels), state
        )["loss"]
    except NonFiniteError:
        return math.inf


def definitions(
    recipe: DescentRecipe, smoothness: SmoothnessSettings
) -> tuple[float, float, float]:
    """Return Definition 1, Definition 2 and its spread, along directions by class."""
    problem = build_problem(recipe)
    labels = problem.data.splits["train"].labels
    found = metasmoothness(problem.routine, problem.output, smoothness, groups=labels)
    return found.definition_1.mean, found.definition_2.mean, found.definition_2.spread


def measure(search: SmoothSearchRecipe) -> list[Row]:
    """Measure every routine of a search at the nominal rate and at matched validation loss."""
    rows: list[Row] = []
    target = None
    for name, recipe in search.routines().items():
        losses = {rate: validation_loss(at_rate(recipe, rate)) for rate in search.learning_rates}
        target = min(losses.values()) if target is None else target  # the baseline is the first
        matched = min(losses, key=lambda rate: abs(losses[rate] - target))
        nominal = search.training.learning_rate
        row: Row = {"routine": name, "loss": losses[nominal], "matched": matched}
        row["nominal"] = definitions(recipe, search.smoothness)
        row["matched loss"] = losses[matched]
        row["at matched"] = (
            row["nominal"]
            if matched == nominal
            else definitions(at_rate(recipe, matched), search.smoothness)
        )
        rows.append(row)
        print(row, flush=True)  # noqa: T201 (a benchmark's output)
    return rows


def _table(search: SmoothSearchRecipe, rows: list[Row]) -> list[str]:
    base_1, base_2, _ = rows[0]["nominal"]
    last_1, last_2, _ = rows[-1]["nominal"]
    return [
        f"At rate {search.training.learning_rate:g} the whole menu raises Definition 2 by "
        f"{last_2 - base_2:+.2f} and lowers Definition 1 by a factor of {base_1 / last_1:.1f}.",
        "",
        "| routine | Definition 2 | Definition 1 | validation loss | matched rate | "
        "Definition 2 there | Definition 1 there | validation loss there |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(
            f"| {row['routine']} | {row['nominal'][1]:.3f} +- {row['nominal'][2]:.3f} | "
            f"{row['nominal'][0]:.3g} | {row['loss']:.3f} | {row['matched']:g} | "
            f"{row['at matched'][1]:.3f} +- {row['at matched'][2]:.3f} | "
            f"{row['at matched'][0]:.3g} | {row['matched loss']:.3f} |"
            for row in rows
        ),
    ]


def record(search: SmoothSearchRecipe, rows: list[Row], date: str) -> None:
    """Write the record of one recipe."""
    lines = [
        "Required: Definition 2 up by 0.3, Definition 1 down by a factor of 3, against the "
        "baseline (ReLU, max pooling, batch norm after the activation) at the same nominal rate.",
        "Independent increments have a Definition 2 of 0.414, chaos -0.293.",
        "",
        *_table(search, rows),
    ]
    write_record(
        f"menu_{search.problem.replace('_', '-')}",
        "What the design menu does to metasmoothness (A3)",
        f"python -m tests.bench.bench_menu {search.name} --date 20261124",
        lines,
        date,
    )


def main() -> None:
    """Measure the routines of one recipe and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", choices=["digits-smooth-search", "fashion-smooth-search"])
    parser.add_argument("--date", required=True, help="YYYYMMDD, for the name of the record")
    arguments = parser.parse_args()
    keep_freed_memory()
    search = load_recipe(arguments.recipe)
    assert isinstance(search, SmoothSearchRecipe)
    with deterministic(1):
        rows = measure(search)
    record(search, rows, arguments.date)


if __name__ == "__main__":
    main()
