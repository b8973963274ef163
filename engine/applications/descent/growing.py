"""Report of a descent that has not finished: the same page, with the results so far."""

from collections.abc import Sequence

from engine.applications.descent.figures import losses
from engine.applications.descent.iterates import Iterate, choose
from engine.applications.descent.record import RunRecord
from engine.preflight.verdict import CheckReport
from engine.recipes.descent import DescentRecipe
from engine.reports.sections import Page, Section
from engine.reports.units import write_number
from engine.runs.finished import how_made
from engine.runs.growing import REFRESH, goes_on
from engine.runs.report import TRUST, all_checks, changes_section, head, preflight_summary


def page_so_far(
    recipe: DescentRecipe, checks: CheckReport | None, started: str, iterates: Sequence[Iterate]
) -> Page:
    """Return the page with the results of a descent so far.

    Args:
        recipe: The set-up.
        checks: What the preflight found.
        started: UTC time of the start, ISO 8601.
        iterates: z_0, ..., z_n; the first at least.
    """
    record = RunRecord(
        **how_made(recipe, started),
        checks=checks,
        iterates=list(iterates),
        chosen=choose(iterates, recipe.outer),
        selection=None,
        digest="",
    )
    done, wanted = len(iterates) - 1, recipe.outer.num_steps
    test = iterates[-1].scores["test"]["loss"]
    so_far = (
        record.headline()
        if done
        else f"The set-up that it starts from has a test loss of {write_number(test)}."
    )
    sections = [changes_section(recipe), losses.of(record)]
    if checks is not None and checks.checks:
        notes, chips = preflight_summary(checks)
        sections.append(Section(TRUST, notes, chips=chips))
    folded = (losses.all_of(record), all_checks(checks))
    sections += [each for each in folded if each is not None]
    top = head(record, f"Metagradient descent: {recipe.name}", sections)
    return Page(
        title=top.title,
        run=f"{top.run}; {goes_on()}",
        headline=f"After outer step {done} of {wanted}: {so_far}",
        numbers=top.numbers,
        warnings=[] if checks is None else checks.warnings(),
        sections=top.sections,
        refresh=REFRESH,
    )
