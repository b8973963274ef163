"""What does REPLAY cost in steps and states (A2)?

Question: are forward steps and live states those of the published lazy k-ary tree, or below, and
what do the other schedules need? Counted on integers by ``engine.schedules.simulator``, which
executes the actions that a run executes.

Forward steps are those of training and replay together, up to s_{T-1} or s_T; the paper's count of
the tree over T + 1 states is T (1 - 1/k) log_k T + 1 for powers of k, its bound on live states
(k - 1) ceil(log_k(T + 1)) + 1.

    python -m tests.bench.bench_counts --date 20261124
"""

import argparse

from engine.recipes.replay import ReplaySettings
from engine.replay.borders import count_borders
from engine.schedules.by_name import NamedScheduleMaker, schedule_maker
from engine.schedules.simulator import Cost, measure
from engine.schedules.trees import whole_run
from tests.bench.record import write_record

PUBLISHED = {
    (64, 2): (193, 8), (64, 4): (145, 11), (64, 8): (113, 16),
    (256, 2): (1025, 10), (256, 4): (769, 14), (256, 8): (641, 19),
    (1024, 2): (5121, 12), (1024, 4): (3841, 17), (1024, 32): (1985, 64),
    (4096, 2): (24577, 14), (4096, 4): (18433, 20), (4096, 32): (11009, 67),
}  # fmt: skip
"""T and k to forward steps and peak live states, as simulated for the paper's tree."""


def named(schedule: str, **settings: int) -> NamedScheduleMaker:
    """Return what makes the schedules of a name."""
    return schedule_maker(ReplaySettings.model_validate({"schedule": schedule, **settings}))


def cost(plan: NamedScheduleMaker, num_steps: int) -> tuple[Cost, int]:
    """Count a whole run, and the borders that it compares."""
    actions = list(whole_run(num_steps, plan, tier=plan.first_tier))
    return measure(actions), count_borders(actions)


def tree_rows(longest: int = 4096) -> list[tuple[int, int, Cost, int]]:
    """Count the trees of the published table, up to a length."""
    return [(t, k, *cost(named("k-ary", arity=k), t)) for t, k in PUBLISHED if t <= longest]


def _other_rows() -> list[str]:
    rows = []
    for num_steps in (64, 1024, 4096):
        slots = named("k-ary", arity=4).slots(num_steps)
        for name, plan in {
            "k-ary, k = 4": named("k-ary", arity=4),
            f"binomial, {slots} states": named("binomial", num_slots=slots),
            "sqrt": named("sqrt"),
            "two-level, 8 fast states": named("two-level", num_slots=8),
            "k-ary, k = 4, graphs of 4 steps": named("k-ary", arity=4, unroll=4),
            "store-all": named("store-all"),
        }.items():
            found, borders = cost(plan, num_steps)
            rows.append(
                f"| {num_steps} | {name} | {found.forward_steps} | "
                f"{found.forward_steps / num_steps:.2f} | {found.peak_states} | "
                f"{found.peak_graphs} | {borders} |"
            )
    return rows


def main() -> None:
    """Count and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--date", required=True, help="YYYYMMDD, for the name of the record")
    date = parser.parse_args().date
    lines = [
        "| T | k | forward steps | published | live states | published | borders compared |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(
            f"| {t} | {k} | {found.forward_steps} | {PUBLISHED[t, k][0]} | {found.peak_states} | "
            f"{PUBLISHED[t, k][1]} | {borders} |"
            for t, k, found, borders in tree_rows()
        ),
        "",
        "Live states count the working state. A border is compared by one plain step more.",
        "",
        "| T | schedule | forward steps | in T | live states | graphs | borders compared |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *_other_rows(),
        "",
        "Broken determinism (another order, dropout, augmentation, number format, threads, one "
        "flipped bit) is stopped at the first border in six ways of six: "
        "`tests/engine/replay/test_borders.py`, under the k-ary tree and, but for the flipped bit, "
        "under each schedule here that replays.",
        "Where every state is stored nothing is replayed, and nothing compared.",
    ]
    write_record(
        "counts",
        "Steps and states of REPLAY (A2)",
        "python -m tests.bench.bench_counts --date 20261124",
        lines,
        date,
    )


if __name__ == "__main__":
    main()
