"""Runs in a store: begin one, find one by its name, and read its recipe."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from engine.errors import CheckpointCorruptError, ConfigurationError, did_you_mean
from engine.problems.kept_code import check_code, keep_code
from engine.recipes.descent import DescentRecipe
from engine.recipes.files import validate_recipe
from engine.recipes.names import run_name
from engine.recipes.problem_functions import names_code
from engine.recipes.settings import Document
from engine.runs.starts import begin_start
from engine.runs.store_mark import mark_store
from engine.secret_urls import without_secrets
from engine.stages.same_data import note_data
from engine.storage.location import list_folders, refuse_links
from engine.storage.names import is_run
from engine.storage.places import (
    AT_WORK,
    CLAIMS,
    PARTS,
    PROGRESS,
    RECIPE,
    STARTS,
    run_file,
    runs_folder,
)
from engine.storage.records import UNFORESEEN, read_bytes, read_record, write_record
from engine.storage.safe_names import is_part

if TYPE_CHECKING:  # it loads torch
    from engine.problems.built import BuiltProblem

Scores = dict[str, float]
"""``loss``, and ``accuracy`` for classifiers."""

_NAMED = 10
"""Runs that a message names."""


class Stages(Document):
    """Counts of a run's stages: in all, reused, and tried more than once."""

    total: int = 0
    """Stages of the run."""

    cached: int = 0
    """Stages whose committed result was used again."""

    retried: int = 0
    """Stages that took more than one attempt."""


_BEGUN: "WeakValueDictionary[int, BuiltProblem]" = WeakValueDictionary()
"""Problems with which this process has begun a run. Another start reads files and data anew."""

_RESUMABLE: set[tuple[str, str]] = set()
"""Stores and names of runs that this process has begun, or found begun."""


def is_begun(store: str, run: str) -> bool:
    """Return whether this process knows that a run can be resumed by its name; reads nothing."""
    return (store, run) in _RESUMABLE


def look_for_begun(store: str, runs: Sequence[str]) -> None:
    """Look which runs an earlier start has begun, for ``is_begun``.

    One that cannot be read now is none.

    Args:
        store: fsspec URL of the store.
        runs: Their names.
    """
    for run in runs:
        with suppress(OSError):
            if read_bytes(run_file(store, run, RECIPE)) is not None:
                _RESUMABLE.add((store, run))


def begin_run(recipe: DescentRecipe, store: str) -> None:
    """Keep the settings of a run of any kind, so that it can be found and resumed by its name.

    The store gets its mark if it has none, and the start is noted. Who carries it out and what it
    may spend is said anew at each start: where code runs must not be read from data. The source of
    its problem is kept only where this start asks for that (``workers.code``).
    """
    from engine.problems.built import build_problem  # loads torch, which has been used by now

    run = run_name(recipe.descent)
    for folder in (CLAIMS, STARTS, AT_WORK, PROGRESS):
        refuse_links(runs_folder(store), run, folder)
    check_code(recipe.descent)
    mark_store(store)
    begin_start(store, run, datetime.now(UTC))
    content = recipe.model_dump(mode="json", exclude=set(OF_A_START))
    write_record(run_file(store, run, RECIPE), content)
    problem = build_problem(recipe.descent, store)
    if _BEGUN.get(id(problem)) is problem:  # by an earlier start in this process
        problem = build_problem(recipe.descent, store, anew=True)
    _BEGUN[id(problem)] = problem
    note_data(store, run, problem)
    keep_code(recipe.descent, store)
    _RESUMABLE.add((store, run))


def note_parts(store: str, run: str, parts: Mapping[str, str]) -> None:
    """Note which runs will be parts of a run, so that a list is one of what people have started.

    Args:
        store: fsspec URL of the store.
        run: Name of the whole.
        parts: Name of each to what people call it.
    """
    write_record(run_file(store, run, PARTS), {"parts": dict(parts)})


OF_A_START = ("workers", "budget")
"""Settings that are those of a start, and not of a run."""


def read_recipe(store: str, run: str) -> DescentRecipe:
    """Read the settings of a run, finished or not.

    Raises:
        CheckpointMissingError: If there is none.
        ConfigurationError: If it cannot be run, or is no recipe of that run.
    """
    url = run_file(store, run, RECIPE)
    content = read_record(url)
    for name in OF_A_START:
        content.pop(name, None)
    own = names_code(content.get("problem"), content.get("arguments"))
    if own and not content.get("code"):  # validation would load the code to make the digests
        raise CheckpointCorruptError(
            f"The recipe at {url} names code, but has no digests of it. It was changed, or written "
            "by another version of this program. Put the old one back."
        )
    try:
        recipe = validate_recipe(content, f"The recipe of run {run}", stored=True)
    except UNFORESEEN as error:
        raise CheckpointCorruptError(
            f"The recipe at {url} cannot be understood ({type(error).__name__}: {error}). It was "
            "changed, or written by another version of this program. Put the old one back."
        ) from error
    if run_name(recipe.descent) != run:
        raise ConfigurationError(
            f"The recipe at {url} does not belong to run {run}, but of {run_name(recipe.descent)}. "
            "It was changed, or written by another version of this program. Put the old one back, "
            "or start the settings that you want with `mgd run`; what they share is reused."
        )
    return recipe


def find_run(store: str, run: str) -> str:
    """Return the name of the only run whose name is ``run`` or begins with it.

    Raises:
        ConfigurationError: If no run, or more than one, has that name.
    """
    if not run.strip():
        raise ConfigurationError(f"{run!r} names no run. See their names with `mgd show`.")
    runs = list_runs(store)
    found = [run] if run in runs else [name for name in runs if run and name.startswith(run)]
    if len(found) != 1:
        raise ConfigurationError(_not_one(run, found, runs, store))
    return found[0]


def _not_one(run: str, found: list[str], runs: list[str], store: str) -> str:
    """Return the message for a name that fits no run, or several."""
    if not runs:
        return f"There is no run in {store}. Name another --store, or make one with `mgd run`."
    more = len(found or runs) - _NAMED
    names = ", ".join((found or runs)[:_NAMED]) + (f" and {more} more" if more > 0 else "")
    if found:
        return (
            f"{len(found)} runs in {store} begin with {run!r}: {names}. Name one of them; "
            "`mgd show` says what came of each."
        )
    return (
        f"No run in {store} begins with {without_secrets(run)!r}. There are {names}. Name one of "
        f"them, or another --store.{did_you_mean(run, runs)}"
    )


def no_report(store: str, run: str) -> ConfigurationError:
    """Return the error for a missing report: the run goes on, or was stopped while writing it.

    Args:
        store: fsspec URL of the store.
        run: Full name of the run.
    """
    return ConfigurationError(
        f"Run {run} has no report yet. `mgd resume {run} --store {store}` continues "
        "the run, and writes the report at its end."
    )


def list_runs(store: str) -> list[str]:
    """Return the names of the runs in a store; folders with other names are left out."""
    return [name for name in list_folders(runs_folder(store)) if is_run(name) and is_part(name)]
