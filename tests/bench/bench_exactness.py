"""Is a metagradient exact, for every optimizer and kind of metaparameter (A1)?

Question: does REPLAY give the bits of store-all and the numbers of autograd through the whole run,
in float64 and in float32, and do two trainings along random directions confirm it? Required:
1e-12 in float64, 1e-4 in float32, a correlation above 0.9999.

Digits, a smooth MLP (GELU), one number format for data, model and metaparameters.

    python -m tests.bench.bench_exactness --date 20261124
"""

import argparse
from typing import Any

import numpy as np
import torch

from engine import central_difference, metagradient, whole_run_gradient
from engine.numerics.determinism import deterministic, generator
from engine.numerics.process import keep_freed_memory
from engine.problems.built import BuiltProblem, build_problem
from engine.recipes.descent import DescentRecipe
from tests.bench.record import write_record

KINDS: dict[str, dict[str, Any]] = {
    "weights": {},
    "counts": {"injection_step": 5},
    "learning-rate": {"num_key_points": 5},
    "scalars": {"scalars": ["weight_decay", "label_smoothing"]},
    "group-weights": {},
    "inputs": {},
    "initial-parameters": {},
}
OPTIMIZERS = {
    "sgd": ({"name": "sgd", "momentum": 0.9, "weight_decay": 1e-3}, 0.05),
    "adamw": ({"name": "adamw", "weight_decay": 0.1, "eps_root": 1e-6}, 0.005),
}
DIRECTIONS, DISTANCE = 20, 1e-4


def problem(kind: str, optimizer: str, dtype: str, num_steps: int) -> BuiltProblem:
    """Build one run."""
    settings, rate = OPTIMIZERS[optimizer]
    content = {
        "name": "exactness",
        "arguments": {
            "num_train": 200,
            "num_objective": 100,
            "num_validation": 1,
            "model": {"width": 24, "depth": 2, "activation": "gelu"},
        },
        "optimizer": settings,
        "training": {
            "num_steps": num_steps,
            "batch_size": 40,
            "learning_rate": rate,
            "label_smoothing": 0.1 if kind == "scalars" else 0.0,
            "dtype": dtype,
            "threads": 1,
        },
        "metaparameters": {"name": kind, **KINDS[kind]},
        "outer": {"update": "masked-sign" if kind == "counts" else "sign"},
    }
    return build_problem(DescentRecipe.model_validate(content))


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the relative error of a vector."""
    return float((found - expected).norm() / expected.norm())


def measure(kind: str, optimizer: str, num_steps: int, directions: int) -> dict[str, Any]:
    """Compare one metagradient with three references; see ``main``."""
    row: dict[str, Any] = {"kind": kind, "optimizer": optimizer}
    for dtype in ("float32", "float64"):
        built = problem(kind, optimizer, dtype, num_steps)
        name = next(iter(built.routine.metaparameters))
        found = metagradient(built.routine, built.output, arity=4)[name]
        stored = metagradient(built.routine, built.output, schedule="store-all")[name]
        _, whole = whole_run_gradient(built.routine, built.output)
        row[f"bits {dtype}"] = torch.equal(found, stored)
        row[f"error {dtype}"] = relative(found, whole[name])
        row[f"found {dtype}"] = found
    row["off"] = relative(row.pop("found float32").double(), row.pop("found float64"))
    predicted, differences = [], []
    for number in range(directions):
        drawn = generator(number, "exactness")
        vector = torch.randn(found.shape, generator=drawn, dtype=found.dtype)
        predicted.append(float((found * vector).sum()))
        differences.append(
            central_difference(built.routine, built.output, {name: vector}, step_size=DISTANCE)
        )
    row["correlation"] = float(np.corrcoef(predicted, differences)[0, 1])
    scale = float(np.abs(predicted).max())
    row["worst"] = max(abs(a - b) for a, b in zip(predicted, differences, strict=True)) / scale
    return row


def main() -> None:
    """Measure all kinds under both optimizers and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--date", required=True, help="YYYYMMDD, for the name of the record")
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    keep_freed_memory()
    with deterministic(1):
        rows = [
            measure(kind, optimizer, arguments.steps, DIRECTIONS)
            for optimizer in OPTIMIZERS
            for kind in KINDS
        ]
    worst = {name: max(row[f"error {name}"] for row in rows) for name in ("float64", "float32")}
    least = min(row["correlation"] for row in rows)
    off = max(row["off"] for row in rows)
    same = all(row[f"bits {name}"] for row in rows for name in worst)
    write_record(
        "exactness",
        "Exactness of metagradients (A1)",
        f"python -m tests.bench.bench_exactness --date {arguments.date} --steps {arguments.steps}",
        [
            f"REPLAY with k = 4 gives the bits of store-all: {'always' if same else 'NOT ALWAYS'}.",
            "Against autograd through the whole run the largest relative error is "
            f"{worst['float64']:.1e} in float64 (required 1e-12) and {worst['float32']:.1e} in "
            f"float32; that of float32 against float64 is {off:.1e} (required 1e-4).",
            f"Central differences along {DIRECTIONS} random directions, float64, correlate by "
            f"{least:.8f} or more (required 0.9999).",
            f"T = {arguments.steps}, h = {DISTANCE:g}; the last column is relative to the largest "
            "product.",
            "",
            "| optimizer | metaparameter | bits of store-all, float64, float32 | error float64 | "
            "error float32 | float32 against float64 | correlation | worst difference |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
            *(
                f"| {row['optimizer']} | {row['kind']} | {row['bits float64']}, "
                f"{row['bits float32']} | {row['error float64']:.1e} | {row['error float32']:.1e} "
                f"| {row['off']:.1e} | {row['correlation']:.8f} | {row['worst']:.1e} |"
                for row in rows
            ),
        ],
        arguments.date,
    )


if __name__ == "__main__":
    main()
