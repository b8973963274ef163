"""A descent carried out stage by stage in this process, for tests that need a finished run."""

from datetime import UTC, datetime

from engine.applications.descent.iterates import Iterate
from engine.applications.descent.record import RunRecord
from engine.applications.descent.report import conclude
from engine.preflight.verdict import CheckReport
from engine.problems.segments import first_step, segments
from engine.recipes.descent import DescentRecipe
from engine.recipes.names import run_name
from engine.runs.run import Stages, begin_run
from engine.stages import commits
from engine.stages import training as stages
from engine.stages.run import Run


def finish(recipe: DescentRecipe, store: str) -> RunRecord:
    """Do what the flow ``descent`` does, without a server; baselines are left out."""
    begin_run(recipe, store)
    run = Run(recipe, store)
    started = datetime.now(UTC).isoformat()
    checks = CheckReport.model_validate(commits.read_scalars(store, stages.preflight(run)))
    parts, iterates = segments(recipe), []
    value = stages.initial_value(run)
    for outer_step in range(recipe.outer.num_steps + 1):
        borders = [None]
        for part in parts:
            borders.append(stages.train_segment(run, part, value, borders[-1]))
        gradient = None
        if outer_step < recipe.outer.num_steps:
            gradient = stages.seed(run, value, borders[-1])
            rows = list(zip(parts, borders, borders[1:], strict=False))
            for part, start, end in reversed(rows):
                if part.start >= first_step(recipe):
                    gradient = stages.reverse_segment(run, part, value, start, end, gradient)
        scores = stages.evaluate(run, borders[-1])
        iterates.append(
            Iterate(
                outer_step=outer_step,
                value=value,
                final=borders[-1],
                gradient=gradient,
                scores=commits.read_scalars(store, scores),
            )
        )
        if gradient is not None:
            value = stages.update(run, outer_step, value, gradient)
    record = conclude(recipe, store, iterates, Stages(), started, checks)
    assert record.run == run_name(recipe)
    return record
