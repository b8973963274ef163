"""A small run in float64, and results of it changed as a forger would."""

from engine.stages import commits
from engine.stages.run import Run
from engine.stages.stage import STAGES
from tests.helpers.runs.tiny_stages import kind, recipe


def settings():
    """The tiny run in float64, with one outer step and one segment."""
    return recipe(
        *kind("weights"),
        ("outer", "num_steps", 1),
        ("optimizer", "eps_root", 1e-6),
        ("replay", "steps_per_segment", 12),
        ("training", "dtype", "float64"),
        ("training", "threads", 1),
    )


def forge(store, ref, change, recipe=None):
    """Change what a stage stored as a forger would: rows, fingerprints, record and digest agree.

    The recipe is that of the stage's run; that of ``settings`` by default.
    """
    rows, scalars = commits.read_rows(store, ref), commits.read_scalars(store, ref)
    inputs = commits.read_inputs(store, ref)
    commits.discard(store, ref)
    run = Run(recipe or settings(), store)
    made = commits.run_stage(
        STAGES[ref.stage].declared, run, inputs, lambda: (change(rows), scalars)
    )
    assert made.key == ref.key
    assert made.content != ref.content
    assert commits.find(ref.stage, ref.key, store) == made  # nothing but a second run tells
    return made


def moved(name, by):
    def change(rows):
        row = rows[name].clone()
        row[3] += by
        return {**rows, name: row}

    return change
