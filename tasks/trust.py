"""Checks, verifications and plans as Prefect tasks, whose results become artifacts."""

from collections.abc import Sequence

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from rich.filesize import decimal

from engine.applications.kinds import check_recipe, plan_recipe
from engine.applications.verifying import verify_run
from engine.errors import UntrustworthyError
from engine.numerics.process import prepare_cpu
from engine.planning.forecast import Forecast
from engine.preflight.verdict import Check, CheckReport, Verdict
from engine.recipes.files import Recipe
from engine.recipes.titles import run_title
from engine.reports.page import as_markdown
from engine.reports.sections import Page, Section, Table
from engine.reports.units import write_duration, write_found
from engine.storage.location import check_writable
from engine.storage.places import CERTIFICATE
from engine.storage.readable import check_readable
from tasks.running.artifacts import say_in_ui, ui_address

_SAYS = {
    Verdict.PASS: "Its metagradient may be trusted.",
    Verdict.WARN: "Its metagradient may be trusted with these reservations.",
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
    run = run_title(recipe.descent)
    _show(f"check-{recipe.name}", recipe.name, run, report.checks, report.verdict)
    return report


@task(task_run_name="verify {run}")
def verify(run: str, store: str, seed: int | None, trusted: bool) -> str:
    """Make parts of a finished run again, keep a certificate, and show it; return the run's name.

    Raises:
        UntrustworthyError: If something differs.
    """
    check_readable(store)
    found = verify_run(store, run, seed, trusted=trusted)
    kept = f"Kept beside the result as {CERTIFICATE}"
    if found.unkept:
        kept = f"Not kept beside the result: {found.unkept.rstrip('.')}"
    more = f"{kept}; the seed {found.seed} repeats it."
    made = f"verified {found.made[:16].replace('T', ' ')} UTC"
    _show(f"verify-{found.run}", found.run, made, found.checks, found.verdict, more)
    return found.run


@task(task_run_name="plan {recipe.name}")
def plan(recipe: Recipe, store: str, price: float | None) -> Forecast:
    """Measure a step, and show which schedule is fastest and what a run costs."""
    get_run_logger().info("%s", prepare_cpu(recipe.descent.training.threads))
    check_writable(store)
    found = plan_recipe(recipe, store, price)
    settings = [f"{name}={value}" for name, value in found.settings.items()]
    written = "" if found.written_bytes is None else f"; {decimal(found.written_bytes)} written"
    page = Page(
        title=f"Plan of {recipe.name}",
        run=run_title(recipe.descent),
        headline=(
            f"{write_duration(found.seconds.run)} for a run of {recipe.name}, with the fastest "
            f"schedule, {found.schedule}{written}."
        ),
        findings=[] if found.price is None else [f"Price of the run: {found.price:.3g}."],
        warnings=[found.note] if found.note else [],
        sections=[
            Section("To use it, as other settings of the form", lines=settings),
            Section("Schedules, the fastest first", [_COLUMNS], tables=[Table(_schedules(found))]),
        ],
    )
    say_in_ui(f"{write_duration(found.seconds.run)} for the run")
    _publish(page, f"plan-{recipe.name}")
    return found


_COLUMNS = (
    "Parts are the segments of the training, one stage each. Steps are counted for one outer step. "
    "Memory is that of states and graphs."
)


def _schedules(found: Forecast) -> list[dict[str, str]]:
    """Return a row for each schedule, in few columns: a phone shows no more."""
    return [
        {
            "schedule": f"{each.schedule}, {each.segments} part{'s' * (each.segments != 1)}",
            "steps forward + reverse": f"{each.forward_steps} + {each.reverse_steps}",
            "memory": decimal(sum(each.peak_bytes[k] for k in ("graphs", "device", "host"))),
            "store": decimal(each.peak_bytes["store"]),
            "run": write_duration(each.seconds.run),
        }
        for each in [found, *found.alternatives]
    ]


def _show(
    key: str, name: str, run: str, checks: Sequence[Check], verdict: Verdict, more: str = ""
) -> None:
    """Show checks on a page, those first that did not pass; end the run as failed if they refuse.

    Raises:
        UntrustworthyError: If the verdict is to refuse.
    """
    wrong = [each for each in checks if each.verdict is not Verdict.PASS]
    passed = [each for each in checks if each.verdict is Verdict.PASS]
    page = Page(
        title=f"{name}: {verdict.value}",
        run=run,
        headline=f"{name}: {verdict.value}. {_SAYS[verdict]}",
        findings=[more] if more else [],
        warnings=[_line(each) for each in wrong],
        sections=[Section("What passed", lines=[_line(each) for each in passed])],
    )
    say_in_ui(f"{name}: {verdict.value}")
    _publish(page, key)
    if verdict is Verdict.REFUSE:
        found = "\n".join(each.in_recipe() for each in wrong if each.verdict is Verdict.REFUSE)
        raise UntrustworthyError(f"{name}: {_SAYS[verdict]}\n{found}")


def _line(check: Check) -> str:
    """Return a line for one check: its meaning, the measured value and the limit."""
    verb = "" if check.verdict is Verdict.PASS else f" {check.verdict.value}s"
    found, limit = write_found(check.value), check.bound()
    numbers = ", ".join(
        each for each in (found and f"found {found}", limit and f"allowed {limit}") if each
    )
    return f"{check.name}{verb}: {check.meaning()}{f' ({numbers})' if numbers else ''}"


def _publish(page: Page, key: str) -> None:
    """Show a page as an artifact, and say in the log where it is."""
    made = create_markdown_artifact(as_markdown(page), key=key, description=page.title)
    link = ui_address(f"/artifacts/artifact/{made}")
    if link:
        say_in_ui(f"What was found: {link}")
