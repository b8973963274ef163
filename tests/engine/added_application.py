"""An application as text that is written: what models of several starts lose, and how far apart."""

FOLDER = {
    "__init__.py": '"""How far apart models of several starts are."""\n',
    "kind.py": '''"""The kind of recipe that this application answers; loads nothing."""

from engine.recipes.kinds import Kind

KINDS = {
    "many-starts": Kind(
        recipe="engine.applications.many_starts.recipe:ManyStartsRecipe",
        record="engine.applications.many_starts.record:ManyStartsRecord",
        flow="flows.many_starts:many_starts",
    )
}
''',
    "recipe.py": '''"""Settings of several starts."""

from typing import Annotated, Literal

from pydantic import Field

from engine.recipes.descent import DescentRecipe
from engine.recipes.settings import digest
from engine.recipes.smoothness import descent_of


class ManyStartsRecipe(DescentRecipe):
    """One training from several starts."""

    kind: Literal["many-starts"] = "many-starts"
    """Which flow runs this recipe."""

    starts: Annotated[int, Field(ge=2)] = 3
    """Starts of the model."""

    @property
    def descent(self) -> DescentRecipe:
        """The recipe of a descent with the same training, under the name of these starts."""
        return descent_of(self, f"{self.name}-{digest(self.starts)[:4]}")
''',
    "stages.py": '''"""The stage of several starts."""

from engine.problems.built import build_problem
from engine.recipes.files import with_seed
from engine.replay.plain_training import evaluate
from engine.replay.training import train
from engine.stages.commits import Made
from engine.stages.run import Run
from engine.stages.stage import stage


@stage("many-starts-training")
def train_one(run: Run, start: int) -> Made:
    """Train from one start; the record holds the ``loss`` of the objective."""
    problem = build_problem(with_seed(run.recipe, start), run.store)
    state = train(problem.routine)
    return state, {"loss": float(evaluate(problem.routine, state, problem.output))}
''',
    "record.py": '''"""What several starts leave."""

from engine.applications.many_starts.recipe import ManyStartsRecipe
from engine.reports.sections import Number, Section, Table
from engine.runs.finished import FinishedRun, how_made
from engine.runs.finishing import finish
from engine.runs.report import Report
from engine.runs.run import Stages
from engine.stages.commits import read_scalars
from engine.stages.references import Ref


class ManyStartsRecord(FinishedRun):
    """Losses of the objective, one for each start."""

    recipe: ManyStartsRecipe
    trained: list[Ref]
    losses: list[float]

    def refs_to_keep(self, store):
        return self.trained

    def headline(self):
        return f"The losses of {len(self.losses)} starts are {self.spread:.3g} apart."

    def numbers(self):
        return [Number("largest less smallest loss", f"{self.spread:.3g}")]

    def findings(self):
        return [self.headline()]

    def table(self):
        return [{"start": start, "loss": loss} for start, loss in enumerate(self.losses)]

    def outcome(self):
        return {"spread": self.spread}

    @property
    def spread(self):
        return max(self.losses) - min(self.losses)


def conclude(
    recipe: ManyStartsRecipe, store: str, trained: list[Ref], counts: Stages, started: str
) -> ManyStartsRecord:
    """Write ``run.json`` and ``report.html``."""
    losses = [read_scalars(store, ref)["loss"] for ref in trained]
    made = how_made(recipe, started)
    record = ManyStartsRecord(**made, stages=counts, trained=trained, losses=losses)

    def report(record):
        section = Section("Losses of the starts", tables=[Table(record.table())])
        return Report(f"Many starts: {recipe.name}", [section])

    return finish(store, record, report)
''',
}

FLOW = '''"""Many starts: train each, and compare."""

from datetime import UTC, datetime

from prefect import flow, task

from engine.applications.many_starts.recipe import ManyStartsRecipe
from engine.applications.many_starts.record import ManyStartsRecord, conclude
from engine.applications.many_starts.stages import train_one
from engine.progress.time_left import Work
from engine.runs.run import begin_run
from engine.storage.location import StoreUrl, absolute
from flows.parts.naming import flow_run_name
from tasks.running.progress import following
from tasks.running.runner import StageRunner
from tasks.running.stage_task import stage_task
from tasks.running.workers import open_workers

train_stage, conclude_task = stage_task(train_one), task(conclude)


@flow(name="many-starts", flow_run_name=flow_run_name)
def many_starts(recipe: ManyStartsRecipe, store: StoreUrl = "mgd-store") -> ManyStartsRecord:
    """Train from several starts."""
    store, started = absolute(store), datetime.now(UTC).isoformat()
    begin_run(recipe, store)
    with open_workers(recipe.workers) as workers:
        with following(recipe, store, works, workers) as progress:
            stages = StageRunner(recipe.descent, store, progress, workers)
            trained = [
                stages.run(train_stage, f"start {start}", start=start)
                for start in range(recipe.starts)
            ]
            return conclude_task(recipe, store, trained, stages.counts, started)


def works(expected):
    """Return the stages, for the time left."""
    return [expected.report()]
'''

USE = """
import os, pathlib, tempfile
from engine.recipes.files import validate_recipe
from engine.applications.kinds import check_recipe, read_finished
from engine.runs.clean.clean_plan import CleanRules
from engine.runs.clean.cleaning import plan_clean
from engine.runs.overview import overview
from engine.reports.explained_settings import explained_settings
from engine.errors import ConfigurationError

content = {
    "kind": "many-starts", "name": "addition", "problem": "digits", "starts": 3,
    "arguments": {"num_train": 20, "num_objective": 20, "num_validation": 20, "num_test": 20,
                  "model": {"width": 4, "depth": 1}},
    "training": {"num_steps": 4, "batch_size": 5, "dtype": "float64", "threads": 1},
    "metaparameters": {"name": "weights"}, "outer": {"update": "sign"},
}
recipe = validate_recipe(content, "test")
assert type(recipe).__name__ == "ManyStartsRecipe"
assert "starts" in {each.key for each in explained_settings(recipe, content)}
try:
    validate_recipe({**content, "starts": 1}, "test")
except ConfigurationError as error:
    assert "starts is 1" in str(error), error
else:
    raise AssertionError("one start was not refused")

from flows.registry import FLOWS
flow = FLOWS["many-starts"]
assert flow.name == "many-starts"

from datetime import UTC, datetime
from engine.applications.many_starts.record import conclude
from engine.applications.many_starts.stages import train_one
from engine.runs.run import Stages, begin_run
from engine.stages.claims import claim
from engine.stages.run import Run
store, started = tempfile.mkdtemp(), datetime.now(UTC).isoformat()
begin_run(recipe, store)
run = Run(recipe.descent, store)
trained = [train_one(run, start) for start in range(3)]
for start, ref in enumerate(trained):
    claim(store, run.name, ref.stage, ref.key, f"start {start}", cached=False)
record = conclude(recipe, store, trained, Stages(total=3), started)

losses = []
for start in range(3):
    other = built(**{name: value for name, value in content.items() if name not in (
        "kind", "name", "starts", "training")}, training={**content["training"], "seed": start})
    state = engine.train(other.routine)
    losses.append(float(engine.evaluate(other.routine, state, other.output)))
close(torch.tensor(record.losses), torch.tensor(losses))
again = read_finished(store, run.name)
assert again == record and again.headline() == record.headline()
assert "Losses of the starts" in pathlib.Path(store, "runs", run.name, "report.html").read_text()
freed = plan_clean(store, CleanRules(grace_seconds=0, intermediate=True)).report.freed
assert freed == [], freed
removed = plan_clean(store, CleanRules(grace_seconds=0, runs=[run.name])).report.freed
assert {each.what for each in removed} == {"run", "stage"} and len(removed) == 4, removed
"""
