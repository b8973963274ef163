"""Work and output of ``mgd check`` and ``mgd verify``: a table for people, JSON for programs.

Neither needs Prefect: each is one stage of work, which is carried out here.
"""

import json
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from engine.applications.kinds import check_recipe
from engine.applications.verifying import verify_run
from engine.numerics.process import keep_freed_memory
from engine.preflight.verdict import Check, Verdict
from engine.recipes.files import Recipe
from engine.reports.units import write_found
from engine.storage.location import absolute, store_errors
from engine.storage.places import CERTIFICATE
from engine.storage.readable import check_readable
from flows.cli.terminal.colours import PASS, REFUSE, WARN
from flows.cli.terminal.screen import WIDE, Screen, plain, right, say, tell, text
from flows.cli.terminal.watching import seen_at_work

_COLOURS = {Verdict.PASS: PASS, Verdict.WARN: WARN, Verdict.REFUSE: REFUSE}


def check(recipe: Recipe, store: str, *, as_json: bool, quiet: bool = False) -> bool:
    """Check a recipe, or show what a check of the same settings has found; return if it is refused.

    The result stays in the store, where a run of the recipe finds it.
    """
    keep_freed_memory()
    place = absolute(store)
    with seen_at_work(quiet=quiet):
        report = check_recipe(recipe, place)
    if as_json:
        say(json.dumps({"recipe": recipe.name, **report.model_dump(mode="json")}))
    else:
        show_checks(report.checks, report.verdict, recipe.name, quiet=quiet)
    return report.verdict is Verdict.REFUSE


def verify(
    run: str,
    store: str,
    seed: int | None,
    *,
    trusted: bool,
    as_json: bool,
    quiet: bool = False,
) -> bool:
    """Verify a run and keep its certificate; return whether something differs."""
    keep_freed_memory()
    place = absolute(store)
    check_readable(place)
    with store_errors(place), seen_at_work(quiet=quiet):
        certificate = verify_run(place, run, seed, trusted=trusted)
    if as_json:
        unkept = {"unkept": certificate.unkept} if certificate.unkept else {}
        say(json.dumps(certificate.model_dump(mode="json") | unkept))
    else:
        show_checks(certificate.checks, certificate.verdict, certificate.run, quiet=quiet)
    if certificate.unkept:
        why = f"Not kept beside the result; --seed {certificate.seed} repeats it."
        tell(f"{why} {certificate.unkept}", err=True)
    elif not as_json:
        tell(f"Kept beside the result as {CERTIFICATE}; --seed {certificate.seed} repeats it.")
    return certificate.verdict is Verdict.REFUSE


def show_checks(
    checks: Sequence[Check], verdict: Verdict, what: str, *, quiet: bool = False
) -> None:
    """Print one row for each check, and the verdict.

    Args:
        checks: What was tried.
        verdict: The worst of theirs.
        what: What was checked.
        quiet: Leave out those that passed.
    """
    console = Screen()
    if quiet:
        checks = [each for each in checks if each.verdict is not Verdict.PASS]
    is_narrow = console.width < WIDE
    numbers = ("verdict", right("found"), right("limit"))
    table = (
        Table("check, and what it means", *numbers, show_lines=True)
        if is_narrow
        else Table("check", *numbers, "meaning")
    )
    for each in checks:
        shown = Text(each.verdict, style=_COLOURS[each.verdict])
        found, meaning = (write_found(each.value), each.bound()), each.meaning()
        if is_narrow:
            table.add_row(Text.assemble((each.name, "bold"), "\n", plain(meaning)), shown, *found)
        else:
            table.add_row(each.name, shown, *found, meaning)
    if checks:
        console.print(table)
    console.print(Text.assemble(text(what), ": ", (verdict.value, _COLOURS[verdict])))
