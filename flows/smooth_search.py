"""A search over the design menu for a routine that is smooth and good."""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from prefect import flow

from engine.applications.smoothness.search import (
    Measured,
    SearchRecord,
    Trial,
    closest_rate,
    measured,
    target_loss,
)
from engine.applications.smoothness.works import (
    MATCH,
    SCORE,
    TRY,
    scored_routines,
    scored_works,
    search_parts,
    tried_routines,
)
from engine.errors import NonFiniteError
from engine.planning.expected import Expected
from engine.planning.forecast import read_forecast
from engine.problems.segments import segments
from engine.progress.board import Course
from engine.progress.time_left import REPORT
from engine.recipes.descent import DescentRecipe
from engine.recipes.names import run_name
from engine.recipes.smoothness import SmoothSearchRecipe, at_rate
from engine.recipes.titles import run_title
from engine.stages.commits import read_scalars
from engine.storage.location import StoreUrl
from flows.metasmoothness import measure
from flows.parts.naming import flow_run_name
from flows.parts.opening import Form, opened
from flows.parts.sent import Arguments
from flows.parts.training import train
from tasks import smoothness, training
from tasks.growing import GrowingReport, growing
from tasks.running.bars import Parts, as_part
from tasks.running.progress import following
from tasks.running.runner import StageRunner
from tasks.running.workers import Workers


@flow(name="smooth-search", flow_run_name=flow_run_name)
def smooth_search(  # noqa: PLR0913 (the fields of its form)
    recipe: SmoothSearchRecipe,
    store: StoreUrl = "mgd-store",
    settings: tuple[str, ...] | None = (),
    arguments: Arguments = None,
    seed: int | None = None,
    device: str | None = None,
    max_seconds: float | None = None,
) -> SearchRecord:
    """Try the design menu and write the smoothest good routine as a recipe.

    Args:
        recipe: The training, and what to change of it.
        store: Folder for checkpoints, results and reports: a path, or a URL such as s3://bucket/folder.
        settings: Changes of the recipe, each dotted.key=value as in `mgd run --set`.
        arguments: Arguments of its problem in place of the recipe's own, by name.
        seed: Replaces ``training.seed``.
        device: Replaces ``training.device``.
        max_seconds: Replaces ``budget.max_seconds``.
    """
    fields = {"seed": seed, "device": device, "max_seconds": max_seconds}
    form = Form(settings, arguments, fields)
    with opened(recipe, store, form, _title, smoothness.check_search) as begun:
        return search(*begun)


def search(recipe: SmoothSearchRecipe, store: str, workers: Workers) -> SearchRecord:
    """Search on workers that are there, inside a flow run."""
    started = datetime.now(UTC).isoformat()
    with growing(recipe, store, _title(recipe)) as page:
        whole = _whole(recipe, store)
        trials = _try_all(_Search(recipe, store, workers, page, whole))
    with whole.board.at_work(REPORT, REPORT):
        record = smoothness.conclude_search(recipe, store, trials, started)
    whole.finish()
    return record


def _whole(recipe: SmoothSearchRecipe, store: str) -> Parts:
    """Return the progress of a whole search: the parts that are done, and the time left."""
    name = run_name(recipe.descent)
    expected = Expected(recipe.descent, read_forecast(store, name), recipe.num_outputs)
    course = Course(
        title=run_title(recipe),
        works=search_parts(recipe, expected, store),
        in_seconds=expected.in_seconds,
        noun="parts",
    )
    return Parts(f"progress-{name}", course)


def _title(recipe: SmoothSearchRecipe) -> str:
    return f"Search for a smooth routine: {recipe.name}"


@dataclass(frozen=True)
class _Search:
    """State that all parts of a search share."""

    recipe: SmoothSearchRecipe
    store: str
    workers: Workers
    page: GrowingReport
    whole: Parts


def _try_all(search: _Search) -> list[Trial]:
    """Measure all routines at their own rate, then at the rates that match the baseline's loss."""
    recipe, together = search.recipe, search.workers.together
    routines = tried_routines(recipe)
    nominal = together(
        [partial(_measure_and_say, search, name, routine) for name, routine in routines.items()]
    )
    target = target_loss([point for point, _ in nominal])
    losses = together(
        [
            partial(_score_as, search, f"{name}, learning rate {rate:g}", routine)
            for (name, rate), routine in scored_routines(recipe).items()
        ]
    )
    width = len(recipe.learning_rates)
    tuned = [
        dict(zip(recipe.learning_rates, losses[i : i + width], strict=True))
        for i in range(0, len(losses), width)
    ]
    matched = together(
        [
            partial(_match, search, name, routine, closest_rate(found, target))
            for (name, routine), found in zip(routines.items(), tuned, strict=True)
        ]
    )
    return [
        Trial(
            name=name,
            nominal=point,
            rates={f"{rate:g}": loss for rate, loss in found.items()},
            matched=match,
            failed=reason,
        )
        for name, (point, reason), found, match in zip(
            routines, nominal, tuned, matched, strict=True
        )
    ]


def _measure_and_say(
    search: _Search, name: str, routine: DescentRecipe
) -> tuple[Measured | None, str | None]:
    """Measure one routine, and log the result."""
    with as_part(search.whole, name, TRY):
        point, failed = _measure(search, routine)
    search.page.add_finding(
        f"{name} cannot be measured: {failed}"
        if point is None
        else f"{name}: metasmoothness {point.definition_2:.3f}, validation loss "
        f"{point.validation:.4f}."
    )
    return point, failed


def _measure(search: _Search, routine: DescentRecipe) -> tuple[Measured | None, str | None]:
    """Measure one routine; a training that diverges is a result, and does not end the search."""
    measurement = search.recipe.measurement(routine)
    try:
        smoothness.check(measurement, search.store)
        return measured(measure(measurement, search.store, search.workers)), None
    except NonFiniteError as error:
        return None, str(error)


def _match(
    search: _Search, name: str, routine: DescentRecipe, rate: float | None
) -> Measured | None:
    if rate is None:
        return None
    with as_part(search.whole, f"{name}, matching rate {rate:g}", MATCH):
        return _measure(search, at_rate(routine, rate))[0]


def _score_as(search: _Search, name: str, routine: DescentRecipe) -> float | None:
    with as_part(search.whole, name, SCORE):
        return _score(routine, search.store, search.workers)


def _score(routine: DescentRecipe, store: str, workers: Workers) -> float | None:
    """Train once and return the validation loss; None if the training diverges."""
    try:
        with following(routine, store, scored_works, workers) as progress:
            stages = StageRunner(routine, store, progress, workers)
            value = stages.run(training.initial_value, "initial metaparameters")
            _, final = train(stages, segments(routine), value)
            scores = stages.run(training.evaluate, "evaluate", final=final)
    except NonFiniteError:  # outside: what follows the run has to see that it has not ended
        return None
    return read_scalars(store, scores)["validation"]["loss"]
