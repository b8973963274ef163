"""Finds out whether a start of a descent would compute nothing, without a flow.

A run that has ended is started again by anyone who wants to see what came of it, or is not sure
that it had. What the flow would find then is on record: the claims that the run's record ended are
the stages that it asked for, and the record of a stage says what it was made from. So each key is
made again from today's code, data and settings, and every bit is compared with what was committed.
Whatever differs, or is not there, leaves the start to the flow.
"""

import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from engine.applications.comparisons import rate_search_stages, stages  # noqa: F401 (declare stages)
from engine.applications.descent.record import RunRecord
from engine.errors import ConfigurationError, EngineError
from engine.recipes.descent import DescentRecipe
from engine.reports.page import REPORT
from engine.runs.finished import read_finished_as
from engine.runs.run import OF_A_START, Stages
from engine.stages import training  # noqa: F401 (declares stages)
from engine.stages.claims import Claim, read_claims
from engine.stages.commits import find
from engine.stages.keys import stage_key
from engine.stages.run import Run
from engine.stages.stage import STAGES
from engine.stages.stage_records import intact_record
from engine.storage.location import list_files
from engine.storage.places import RUN, run_folder, stage_folder
from engine.storage.records import read_record

logger = logging.getLogger(__name__)

_ENGINE = Path(__file__).parents[2]
_CODE = (".py", ".html", ".css")

Content = dict[tuple[str, str], str]
"""Digest of what a stage has committed, by its kind and key."""


def repeated(recipe: DescentRecipe, store: str, packages: Sequence[Path] = ()) -> RunRecord | None:
    """Return the record of a descent whose start would compute nothing; None if it may compute.

    Args:
        recipe: The set-up.
        store: fsspec URL of the store.
        packages: Folders of the code that asks for stages, which is in none of their keys.

    Returns:
        The record that is there, with all of its stages counted as cached.

    Cost:
        Reads the data, as every key needs, and every row that the run has kept.
    """
    if recipe.kind != "descent" or recipe.budget.max_seconds or recipe.budget.max_bytes:
        return None
    run = Run(recipe, store)
    try:
        # Before anything of it is understood: a recipe in a store may name code.
        _refuse_another_recipe(run)
        record = read_finished_as(store, run.name, RunRecord)
        reason = _why_not(
            record, run, read_claims(store, run.name), _newest_code([_ENGINE, *packages])
        )
    except EngineError as error:
        reason = str(error)
    else:
        if reason is None:
            counted = Stages(total=record.stages.total, cached=record.stages.total)
            return record.model_copy(update={"stages": counted})
    logger.info("The run is started as a flow: %s", reason)
    return None


def _refuse_another_recipe(run: Run) -> None:
    there = read_record(run.file(RUN)).get("recipe")
    here = run.recipe.model_dump(mode="json")
    apart = set(OF_A_START)
    if not isinstance(there, dict) or any(
        there.get(name) != here.get(name) for name in (there.keys() | here.keys()) - apart
    ):
        raise ConfigurationError("The recorded recipe is a different one. Run the recipe.")


def _why_not(record: RunRecord, run: Run, claims: list[Claim], newest: datetime) -> str | None:
    """Say why a finished run needs its flow; None if the flow would find every stage committed."""
    if record.parts() or not claims or {each.token for each in claims} - set(record.ending.claims):
        return "another start has asked for stages since it ended."
    if not {REPORT, *record.ending.files} <= set(list_files(run_folder(run.store, run.name))):
        return "its report is not there."
    # By a clock that was ahead, nobody knows what came after it.
    ended = record.ending.ended
    if ended is None or not newest <= ended <= datetime.now(UTC):
        return "the program has changed since, and may draw another report, or ask for more."
    contents: Content = {}
    for each in claims:
        if not _has_todays_key(each, run):
            return f"{each.stage} {each.key[:8]} would be another stage today."
        found = find(each.stage, each.key, run.store)
        if found is None:
            return f"{each.stage} {each.key[:8]} is not there, or damaged."
        contents[each.stage, each.key] = found.content
    for each in claims:
        for read in _references(
            intact_record(stage_folder(run.store, each.stage, each.key)).inputs
        ):
            if contents.get((read["stage"], read["key"])) != read["content"]:
                return f"{each.stage} {each.key[:8]} was made from something else."
    return None


def _has_todays_key(claim: Claim, run: Run) -> bool:
    """Say whether a stage, asked for now with the inputs on record, would have its name."""
    declared = STAGES.get(claim.stage)
    inputs = intact_record(stage_folder(run.store, claim.stage, claim.key)).inputs
    return declared is not None and stage_key(declared.declared, run, inputs) == claim.key


def _references(value: Any) -> Iterator[dict[str, str]]:  # noqa: ANN401 (any JSON value)
    """Yield the references to stages in the inputs of one."""
    if isinstance(value, dict):
        if value.keys() == {"stage", "key", "content"}:
            yield value
        else:
            for each in value.values():
                yield from _references(each)
    elif isinstance(value, list):
        for each in value:
            yield from _references(each)


def _newest_code(folders: Sequence[Path]) -> datetime:
    """Return the time at which a file of the program was last changed or moved."""
    files = (path for folder in folders for path in folder.rglob("*"))
    found = [path.stat() for path in files if path.suffix in _CODE]
    # Copying a file may leave it the time of its content, as a cache of packages does.
    newest = max(max(each.st_mtime, each.st_ctime) for each in found)
    return datetime.fromtimestamp(newest).astimezone()
