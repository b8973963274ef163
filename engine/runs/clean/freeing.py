"""Deletes what a clean has planned, except what a run has claimed meanwhile.

Only files of the plan go, which are the engine's own. A folder goes when it is empty then.
"""

import logging
import os
from contextlib import suppress
from itertools import islice
from typing import Any

from engine.errors import ConfigurationError
from engine.problems.kept_code import code_key
from engine.runs.clean.clean_plan import CleanPlan, CleanReport, Victim
from engine.runs.inventory import StoredRun, stored_run
from engine.runs.run import list_runs
from engine.stages.claims import claim_url, read_claim, read_claims
from engine.storage import places
from engine.storage.listing import File, describe_file, relative_paths
from engine.storage.location import (
    filesystem,
    is_local,
    linked_folders,
    list_files,
    remove_files,
    store_errors,
)
from engine.storage.names import label
from engine.storage.records import read_bytes, read_records, write_bytes

logger = logging.getLogger(__name__)

_BATCH = 64  # stages between two looks at the claims


def carry_out(plan: CleanPlan) -> CleanReport:
    """Delete everything in a plan except what a run has claimed since; return what was deleted.

    Killed at any moment, it leaves a store in which every committed stage is whole; the next clean
    frees the rest.
    """
    refuse_shared_folders(plan.report.store)
    with store_errors(plan.report.store):
        return _carry_out(plan)


def refuse_shared_folders(store: str) -> None:
    """Refuse to free anything in a store that has a link for a folder, e.g. to a larger disk.

    What lies there may be another store's, whose runs claim it where nobody looks from here.

    Raises:
        ConfigurationError: Names the link, and where it leads.
    """
    names = (places.STAGES, places.RUNS, places.RESULTS, places.CODE)
    linked = linked_folders(store, *names)
    if linked:
        raise ConfigurationError(
            f"{linked[0]} is a link, and runs of another store may use what lies there, so nothing "
            "of this store is freed. Move the whole store to where the link leads, in the link's "
            "place, and name the store there: --store URL."
        )


def _carry_out(plan: CleanPlan) -> CleanReport:
    store = plan.report.store
    spared: set[str] = set()
    victims = iter(plan.victims)
    while batch := list(islice(victims, _BATCH)):
        spared |= _free(store, batch)
    kept = {name.replace("/", "-") for name in spared}
    results = [file.path for name, file in plan.results.items() if name not in kept]
    remove_files(places.results_folder(store), results)
    for run in plan.runs:
        if _is_untouched(store, run):
            _free_run(store, run)
        else:
            spared.add(run.name)
    spared |= _free_sources(store, plan.sources)
    for name in sorted(spared):
        logger.info("%s stays: a run has asked for it meanwhile", name)
    freed = [
        each for each in plan.report.freed if each.name not in spared and each.name not in kept
    ]
    num_bytes = sum(each.bytes for each in freed)
    return plan.report.model_copy(
        update={
            "deleted": True,
            "freed": freed,
            "bytes": num_bytes,
            "kept_bytes": plan.report.kept_bytes + plan.report.bytes - num_bytes,
        }
    )


def _free(store: str, victims: list[Victim]) -> set[str]:
    """Delete stages, except those that a run has claimed since; return the exceptions."""
    records: dict[str, bytes | None] = {}
    for victim in victims:
        url = places.stage_record_url(store, *victim.stage.name)
        records[victim.name] = read_bytes(url)
        remove_files(store, [filesystem(url)[1]])  # from here on nobody finds it
    spared: set[str] = set()
    now_claimed = claims_now(store, victims)
    for victim in victims:
        record = records[victim.name]
        if now_claimed[victim.name] != victim.claims:
            spared.add(victim.name)
            if record is not None:
                write_bytes(places.stage_record_url(store, *victim.stage.name), record)
            continue
        remove_files(places.stages_folder(store), [file.path for file in victim.stage.files])
        _remove_empty(places.stage_folder(store, *victim.stage.name))
        for run in victim.claims:
            url = claim_url(store, run, *victim.stage.name)
            remove_files(store, [filesystem(url)[1]])
    return spared


def _free_run(store: str, run: StoredRun) -> None:
    """Delete the folder of a run; last of all what makes it one, or a kill would leave rubbish.

    A folder without settings and claims may be anything, and nothing in it is ever deleted.
    """
    folder, whole = places.runs_folder(store), places.run_folder(store, run.name)
    kinds: dict[bool, list[str]] = {False: [], True: []}
    for name, file in relative_paths(whole, run.files).items():
        kinds[name == places.RECIPE or name.startswith(f"{places.CLAIMS}/")].append(file.path)
    remove_files(folder, kinds[False])
    remove_files(folder, kinds[True])
    _remove_empty(whole)


def _free_sources(store: str, sources: dict[str, list[File]]) -> set[str]:
    """Delete kept sources, except those that a run names by now; return the digests of the latter.

    A run writes its recipe before it keeps the source. Here the source is taken away before the
    recipes are read, so whatever the order of the two, a run that starts during a clean has it.
    """
    held: dict[str, bytes] = {}
    spared: set[str] = set()
    for name, files in sources.items():
        url = places.kept_code_url(store, name)
        content = read_bytes(url)
        if content is not None and describe_file(url) not in files:
            spared.add(name)  # kept anew since it was looked at
            continue
        remove_files(places.code_folder(store), [file.path for file in files])
        if content is not None:
            held[name] = content
    if not held:
        return spared
    recipes = read_records([places.run_file(store, run, places.RECIPE) for run in list_runs(store)])
    named = {named_source(recipe) for recipe in recipes.values()}
    for name, content in held.items():
        deployed = read_bytes(places.deployed_code_url(store, name)) is not None
        if deployed or None in named or name in named:
            write_bytes(places.kept_code_url(store, name), content)
            spared.add(name)
    return spared


def named_source(recipe: dict[str, Any] | None) -> str | None:
    """Return the digest by which the source of a stored recipe would be kept.

    Returns:
        None if that cannot be told.
    """
    code = {} if recipe is None else recipe.get("code", {})
    if recipe is None or not isinstance(code, dict):
        return None
    return code_key(code)


def claims_now(store: str, victims: list[Victim]) -> dict[str, dict[str, str]]:
    """Return the present claims to stages: run to token, by name of the stage."""
    found: dict[str, dict[str, str]] = {victim.name: {} for victim in victims}
    wanted = {f"{label(*victim.stage.name)}.json": victim for victim in victims}
    for run in list_runs(store):
        for name in wanted.keys() & set(list_files(places.claims_folder(store, run))):
            victim = wanted[name]
            claim = read_claim(store, run, *victim.stage.name)
            if claim is not None:
                found[victim.name][run] = claim.token
    return found


def _is_untouched(store: str, run: StoredRun) -> bool:
    """Say whether nothing was written to a run's folder since it was looked at."""
    before = {file.path: file for file in run.files}
    tokens = {each.token for each in run.claims}  # object stores tell times in whole seconds
    now = stored_run(store, run.name)
    return all(before.get(file.path) == file for file in now.files) and all(
        each.token in tokens for each in read_claims(store, run.name)
    )


def _remove_empty(url: str) -> None:
    """Remove a folder and those in it, as far as they are empty; object stores have none."""
    file_system, path = filesystem(url)
    if is_local(file_system):
        for folder, _, _ in os.walk(path, topdown=False):
            with suppress(OSError):  # somebody's files are in it, or it is gone
                os.rmdir(folder)
