"""What may be believed, and what it costs, as Prefect tasks: their findings become artifacts."""

from collections.abc import Sequence

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from rich.filesize import decimal

from engine.applications.descent.certificate import verify_run
from engine.applications.kinds import check_recipe, plan_recipe
from engine.errors import UntrustworthyError
from engine.numerics.process import prepare_cpu
from engine.planning.forecast import Forecast
from engine.preflight.verdict import Check, CheckReport, Verdict
from engine.recipes.files import Recipe
from engine.reports.units import write_duration, write_figure
from engine.storage.location import check_writable
from engine.storage.places import CERTIFICATE
from engine.storage.readable import check_readable
from tasks.running.artifacts import say_in_ui

_SAYS = {
    Verdict.PASS: "Its metagradient may be trusted.",
    Verdict.WARN: "Its metagradient may be trusted with the reservations below.",
    Verdict.REFUSE: "Its metagradient cannot be trusted.",
}


@task(task_run_name="check {recipe.name}")
def check(recipe: Recipe, store: str) -> CheckReport:
    """Try a recipe on short twins of its run, as ``mgd check`` does, and show what was found.

    Raises:
        UntrustworthyError: If the recipe is refused.
    """
    get_run_logger().info("%s", prepare_cpu(recipe.descent.training.threads))
    report = check_recipe(recipe, store)
    _show(f"check-{recipe.name}", recipe.name, report.checks, report.verdict)
    return report


@task(task_run_name="verify {run}")
def verify(run: str, store: str, seed: int | None, trusted: bool) -> str:
    """Make parts of a finished run again, keep a certificate, and show it; return the run's name.

    Raises:
        UntrustworthyError: If something differs.
    """
    check_readable(store)
    found = verify_run(store, run, seed, trusted=trusted)
    more = f"Kept beside the result as {CERTIFICATE}; the seed {found.seed} repeats it."
    _show(f"verify-{found.run}", found.run, found.checks, found.verdict, more)
    return found.run


@task(task_run_name="plan {recipe.name}")
def plan(recipe: Recipe, store: str, price: float | None) -> Forecast:
    """Measure a step, and show which schedule is fastest and what a run costs."""
    get_run_logger().info("%s", prepare_cpu(recipe.descent.training.threads))
    check_writable(store)
    found = plan_recipe(recipe, store, price)
    rows = [
        {
            "schedule": each.schedule,
            "parts": each.segments,
            "forward + reverse steps": f"{each.forward_steps} + {each.reverse_steps}",
            "memory": decimal(sum(each.peak_bytes[k] for k in ("graphs", "device", "host"))),
            "store": decimal(each.peak_bytes["store"]),
            "outer step": write_duration(each.seconds.outer_step),
            "run": write_duration(each.seconds.run),
        }
        for each in [found, *found.alternatives]
    ]
    settings = "\n".join(f"- `{name}={value}`" for name, value in found.settings.items())
    price_words = "" if found.price is None else f" Price of the run: {found.price:.3g}."
    words = (
        f"**{write_duration(found.seconds.run)} for a run of {recipe.name}**, with the fastest "
        f"schedule, {found.schedule}; {decimal(found.written_bytes)} written.{price_words}\n\n"
        f"{found.note}\n\nTo use it, as other settings:\n\n{settings}"
    )
    key = f"plan-{recipe.name}"
    create_markdown_artifact(words, key=key, description=f"Plan of {recipe.name}")
    create_table_artifact(rows, key=f"{key}-schedules", description="The fastest first")
    say_in_ui(f"{write_duration(found.seconds.run)} for the run")
    return found


def _show(key: str, name: str, checks: Sequence[Check], verdict: Verdict, more: str = "") -> None:
    """Show checks as a sentence and a table, and end the run as failed if they refuse.

    Raises:
        UntrustworthyError: If the verdict is to refuse.
    """
    wrong = [each for each in checks if each.verdict is not Verdict.PASS]
    reasons = "\n".join(
        f"- **{each.name}** {each.verdict.value}s: {each.meaning()}" for each in wrong
    )
    words = f"**{name}: {verdict.value}.** {_SAYS[verdict]}\n\n{reasons}\n\n{more}".strip()
    create_markdown_artifact(words, key=key, description=f"{verdict.value}: {name}")
    rows = [
        {
            "check": each.name,
            "verdict": each.verdict.value,
            "found": write_figure(each.value),
            "limit": each.bound(),
            "meaning": each.meaning(),
        }
        for each in checks
    ]
    create_table_artifact(rows, key=f"{key}-checks", description=f"Checks of {name}")
    say_in_ui(f"{name}: {verdict.value}")
    if verdict is Verdict.REFUSE:
        found = "\n".join(each.in_recipe() for each in wrong if each.verdict is Verdict.REFUSE)
        raise UntrustworthyError(f"{name}: {_SAYS[verdict]}\n{found}")
