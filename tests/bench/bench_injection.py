"""At which step is it best to inject counts, and does the preflight know?

For each training of the digits with 40 % wrong labels: how well the first metagradient tells wrong
labels from right ones (AUC) by the step k at which it is injected, beside the correlation that the
preflight refuses by; and of the sum over several k.

    python -m tests.bench.bench_injection --date 20261128
"""

import argparse
from dataclasses import replace

from sklearn.metrics import roc_auc_score

import engine
from engine.preflight.injection import by_step, check_injection
from engine.problems.built import build_problem
from engine.recipes.files import load_recipe
from engine.recipes.replay import ReplaySettings
from tests.bench.record import write_record

STEPS = (60, 100, 120, 140, 150, 160, 170, 180, 190, 195)
SUMS = (tuple(range(140, 200, 6)), tuple(range(170, 200, 5)))

TRAININGS = {
    "momentum 0.9, one-cycle 0.05 (the recipe)": [],
    "momentum 0.9, flat 0.05": ["training.rate_schedule=flat"],
    "momentum 0.9, one-cycle 0.2": ["training.learning_rate=0.2"],
    "momentum 0.9, flat 0.2": ["training.learning_rate=0.2", "training.rate_schedule=flat"],
    "no momentum, one-cycle 0.05": ["optimizer.momentum=0"],
    "no momentum, flat 0.5": [
        *("optimizer.momentum=0", "training.learning_rate=0.5", "training.rate_schedule=flat"),
    ],
    "AdamW, flat 0.005": [
        "optimizer={name: adamw, eps_root: 1.0e-8}",
        *("training.learning_rate=0.005", "training.rate_schedule=flat"),
    ],
}


def cells(changes):
    """Return AUC and correlation of each k, then of each sum."""
    built = build_problem(load_recipe("digits-selection", changes))
    found = by_step(built.routine, built.output, "counts", sorted({*STEPS, *sum(SUMS, ())}))
    rows = dict(zip(sorted({*STEPS, *sum(SUMS, ())}), found, strict=True))
    written = []
    for steps in [*((step,) for step in STEPS), *SUMS]:
        counts = engine.Counts(built.kind.value, injection_steps=steps)
        run = replace(built.routine, metaparameters={"counts": counts})
        agreed = check_injection(run, built.output, "counts", ReplaySettings()).value
        scores = sum(rows[step] for step in steps)
        auc = roc_auc_score(built.data.corrupted.numpy(), scores.numpy())
        written.append(f"{auc:.2f} ({agreed:+.2f})")
    return written


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--date", required=True)
    date = parser.parse_args().date
    heads = [*(f"k = {step}" for step in STEPS), *(f"{s[0]}, {s[1]}, ..., {s[-1]}" for s in SUMS)]
    lines = [
        "AUC of wrong labels by the first metagradient of `digits-selection` (T = 200), and in "
        "brackets the correlation with later steps, which the preflight refuses below 0 and warns "
        "of below 0.3.",
        "",
        f"| training | {' | '.join(heads)} |",
        f"| --- |{' --- |' * len(heads)}",
        *(f"| {name} | {' | '.join(cells(changes))} |" for name, changes in TRAININGS.items()),
    ]
    command = f"python -m tests.bench.bench_injection --date {date}"
    print(write_record("injection", "Where counts are injected", command, lines, date))  # noqa: T201


if __name__ == "__main__":
    main()
