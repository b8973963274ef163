"""The stages of a metagradient descent as Prefect tasks."""

from prefect import task

from engine.planning import plan as planning
from engine.recipes.descent import DescentRecipe
from engine.runs.run import begin_run
from engine.stages import training as stages
from engine.stages.run import Run
from tasks.running.stage_task import stage_task


@task(task_run_name="check the recipe")
def check(recipe: DescentRecipe, store: str) -> None:
    """Refuse an impossible run before anything is trained; keep settings and plan of another.

    See ``engine.stages.training.prepare``, ``engine.runs.run.begin_run`` and
    ``engine.planning.plan.keep_plan``.
    """
    stages.prepare(Run(recipe, store))
    begin_run(recipe, store)
    planning.keep_plan(recipe, store)


preflight = stage_task(stages.preflight)
initial_value = stage_task(stages.initial_value)
train_segment = stage_task(stages.train_segment)
replay_segment = stage_task(stages.replay_segment)
seed = stage_task(stages.seed)
reverse_segment = stage_task(stages.reverse_segment)
update = stage_task(stages.update)
evaluate = stage_task(stages.evaluate)
