"""Frees what no run needs: runs by age, count or name, and whatever nobody refers to any more.

``plan_clean`` only looks; ``carry_out`` deletes what a plan says, unless a run has claimed it
meanwhile (``engine.stages.claims`` says why that is safe).

What stays, always: whatever the engine has not made; all stages of a run that has not finished,
unless that run itself is freed; everything of a run that is at work, which its leases show however
long a stage takes; every stage that another run uses; source that a run or a deployment names.
What a kept finished run needs for its result stays too, as its own record says, whatever its kind.
With ``intermediate`` the rest of it goes: states and adjoints that only a repetition or a longer
run would use, and would make again.
"""

import time
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Literal

from engine.errors import ConfigurationError, StoreFullError, StoreRefusedError
from engine.reports.units import write_duration
from engine.runs.clean.clean_plan import CleanPlan, CleanReport, CleanRules, Freed, Victim
from engine.runs.clean.freeing import carry_out, named_source, refuse_shared_folders
from engine.runs.inventory import (
    Inventory,
    StageName,
    StoredRun,
    StoredStage,
    take_inventory,
    wholes_of,
    with_parts,
)
from engine.runs.stages_at_work import stages_at_work
from engine.runs.store_mark import check_mark, store_time
from engine.storage.listing import File
from engine.storage.location import store_errors
from engine.storage.names import label
from engine.storage.places import stage_record_url
from engine.storage.records import read_records

__all__ = ["CleanReport", "CleanRules", "carry_out", "plan_clean"]


def plan_clean(store: str, rules: CleanRules) -> CleanPlan:
    """Decide what is freed; this changes nothing in the store.

    Raises:
        ConfigurationError: If the folder carries no mark of a store, has folders that are links, or
            a run is named that is not there or at work.
    """
    check_mark(store)
    refuse_shared_folders(store)
    with store_errors(store):
        found = take_inventory(store)
        return _plan(store, rules, found, _time(store, found))


def _time(store: str, found: Inventory) -> float:
    """Return the time by the store's clock, or when it wrote last, where it takes no file.

    Nothing is older than it seems then, so a clean frees rather less; but it can be made: a full
    disk is what it is for, and of a store that may only be read it can be told.
    """
    try:
        return store_time(store)
    except (StoreFullError, StoreRefusedError):
        written = max((file.modified for file in _files(found)), default=0.0)
        return min(written, time.time())  # a client whose clock was ahead may have dated a file


def _files(found: Inventory) -> Iterator[File]:
    """Yield all that the engine has made."""
    for each in (*found.runs, *found.stages.values()):
        yield from each.files
    yield from found.results.values()
    for files in found.code.values():
        yield from files


def _plan(store: str, rules: CleanRules, found: Inventory, now: float) -> CleanPlan:
    going = _chosen(store, found.runs, rules, now)
    working = _at_work(store, found, rules, going, now)
    for name in working.keys() & going.keys():
        if name in rules.runs:
            raise ConfigurationError(working[name])
        del going[name]
    for name in (with_parts(found.runs, working) & going.keys()) - set(rules.runs):
        del going[name]
    needed = _needed(store, found, rules, going, working.keys())
    before = now - rules.grace_seconds
    victims = _victims(store, found, going, needed, before)
    gone = {label(*victim.stage.name) for victim in victims}
    left = {label(*name) for name in found.stages} - gone
    orphans = {
        name: file
        for name, file in found.results.items()
        if name in gone or (name not in left and file.modified <= before)
    }
    doomed = [run for run in found.runs if run.name in going]
    sources = _sources(found, going, before)
    freed = [_freed("run", run.name, run.files, going[run.name], [run.name]) for run in doomed]
    for each in victims:
        users = sorted(each.claims)
        freed.append(_freed("stage", each.name, each.stage.files, each.reason, users))
    for name, file in orphans.items():
        freed.append(_freed("result", name, [file], "its stage is gone"))
    for name, users in sources.items():
        reason = _reason(dict.fromkeys(users, ""), going)
        freed.append(_freed("source", name, found.code[name], reason, users))
    gone_sources = {name: found.code[name] for name in sources}
    return CleanPlan(_report(store, found, freed, going), victims, orphans, doomed, gone_sources)


def _victims(
    store: str, found: Inventory, going: dict[str, str], needed: Collection[str], before: float
) -> list[Victim]:
    """Return the stages that nobody needs, and at which nobody is at work.

    Args:
        store: fsspec URL of the store.
        found: All of it.
        going: Runs that are freed, and why.
        needed: Stages that runs which stay need.
        before: A stage without a claim stays if it was changed after this time: a run may be about
            to claim it.
    """
    claims: dict[str, dict[str, str]] = {}
    for run in found.runs:
        tokens = {label(each.stage, each.key): each.token for each in run.claims}
        for name in run.uses | tokens.keys():
            claims.setdefault(name, {})[run.name] = tokens.get(name, "")
    victims = [
        Victim(stage, _reason(claims.get(label(*name), {}), going), claims.get(label(*name), {}))
        for name, stage in found.stages.items()
        if label(*name) not in needed and (label(*name) in claims or stage.modified <= before)
    ]
    # ``_at_work`` has looked at the stages that only runs which go have claimed.
    unknown = [each for each in victims if not each.claims or each.claims.keys() - going.keys()]
    alive = stages_at_work(store, [each.stage for each in unknown])
    return [each for each in victims if each.stage.name not in alive]


def _sources(found: Inventory, going: Iterable[str], before: float) -> dict[str, list[str]]:
    """Return the kept source that no run which stays names, and the runs that do name it.

    A run without a recipe that can be read may name any, and a deployment is in no store.
    """
    users: dict[str, list[str]] = {}
    for run in found.runs:
        name = named_source(run.recipe)
        if name is None and run.name not in going:
            return {}
        users.setdefault(name or "", []).append(run.name)
    return {
        name: sorted(users.get(name, []))
        for name, files in found.code.items()
        if name not in found.deployed
        and set(users.get(name, [])) <= set(going)
        # What nobody names and is new may be named in a moment.
        and (name in users or max(file.modified for file in files) <= before)
    }


def _report(store: str, found: Inventory, freed: list[Freed], going: dict[str, str]) -> CleanReport:
    num_bytes = sum(each.bytes for each in freed)
    return CleanReport(
        store=store,
        deleted=False,
        freed=freed,
        kept_runs=[run.name for run in found.runs if run.name not in going],
        bytes=num_bytes,
        kept_bytes=sum(file.bytes for file in _files(found)) - num_bytes,
        left=found.foreign,
    )


def _needed(
    store: str,
    found: Inventory,
    rules: CleanRules,
    going: Iterable[str],
    working: Iterable[str],
) -> set[str]:
    """Return the stages that the runs which stay need, in one word each."""
    upstream = _upstream(store, list(found.stages.values()))
    return {
        name
        for run in found.runs
        if run.name not in going
        for name in needed_stages(
            run, upstream, intermediate=not rules.intermediate or run.name in working
        )
    }


def needed_stages(
    run: StoredRun, upstream: dict[str, list[str]], *, intermediate: bool
) -> set[str]:
    """Return the names of the stages that a run needs.

    Args:
        run: The run, of any kind; its record says what its result needs.
        upstream: Each stage to those that it was made from.
        intermediate: Whether a finished run keeps what only a repetition would use.
    """
    claimed = {*run.uses, *(label(each.stage, each.key) for each in run.claims)}
    kept = {name.replace("/", "-", 1) for name in run.ending.keeps} if run.ending else set()
    if run.finished and not intermediate:
        return kept
    return claimed | _ancestors(kept, upstream)


def _chosen(store: str, runs: list[StoredRun], rules: CleanRules, now: float) -> dict[str, str]:
    """Return the runs that the rules name, and why.

    Parts of a run are not counted, as no list shows them, and stay as long as it stays.
    """
    chosen: dict[str, str] = {}
    if rules.older_than_seconds is not None or rules.keep is not None:
        number, wholes = 0, wholes_of(runs)
        for run in runs:  # the one that was active last first
            age = max(now - run.active, 0.0)
            old = rules.older_than_seconds is None or age >= rules.older_than_seconds
            surplus = rules.keep is None or number >= rules.keep
            if old and surplus:
                later = f"; {number} {'was' if number == 1 else 'were'} active later"
                ago = f"last active {write_duration(age)} ago"
                chosen[run.name] = ago + (later if rules.keep is not None else "")
            number += run.name not in wholes
        staying = [run.name for run in runs if run.name not in wholes and run.name not in chosen]
        for name in with_parts(runs, staying) & chosen.keys():
            del chosen[name]
    names = [run.name for run in runs]
    for asked in rules.runs:
        if asked not in names:  # a beginning of a name would free what nobody meant
            known = ", ".join(names) or "none"
            raise ConfigurationError(
                f"No run in {store} is named {asked!r}. The runs: {known}. Give the whole name of "
                "one of them, or another --store."
            )
        chosen[asked] = "asked for by name"
    return chosen


def _at_work(
    store: str, found: Inventory, rules: CleanRules, chosen: Iterable[str], now: float
) -> dict[str, str]:
    """Return the runs that are being carried out, each with the evidence.

    Leases are looked at for runs that the rules name: nothing else depends on them. Between two
    stages, as while data are loaded, a run holds none; on this machine its process is asked for.
    """
    used: dict[str, list[StoredStage]] = {}
    by_label = {label(*name): stage for name, stage in found.stages.items()}
    working: dict[str, str] = {}
    for run in found.runs:
        names = run.uses | {label(each.stage, each.key) for each in run.claims}
        stages = [by_label[name] for name in sorted(names) if name in by_label]
        signs = [file.modified for stage in stages for file in stage.leases]
        # A file of the future was dated by another clock, or by this one before it was set right.
        fresh = max(now - max([run.active, *signs]), 0.0) < rules.grace_seconds
        if fresh and (run.starting or not run.finished):
            working[run.name] = (
                f"Run {run.name} has not finished, and its last write was less than "
                f"{rules.grace_seconds:.0f} s ago, so it may be at work. Stop it, and use "
                "--grace 0s to free it anyway."
            )
        elif run.name in chosen and (living := [each for each in run.starts if each.lives_here]):
            working[run.name] = (
                f"Run {run.name} is being carried out. {living[-1].goes_on()} "
                "Stop that process first; only runs without a process can be freed."
            )
        elif run.name in chosen:
            used[run.name] = stages
    every = {stage.name: stage for stages in used.values() for stage in stages}
    alive = stages_at_work(store, every.values())
    for name, stages in used.items():
        busy = [f"{stage.stage}/{stage.key}" for stage in stages if stage.name in alive]
        if busy:
            working[name] = (
                f"Run {name} is being computed: a process holds the lease of its stage {busy[0]}. "
                "Stop that process first; only runs without a process can be freed."
            )
    return working


def _reason(users: dict[str, str], going: dict[str, str]) -> str:
    if not users:
        return "no run refers to it"
    if users.keys() <= going.keys():
        return "no run that stays uses it"
    return "only a repetition of its run would use it"


def _upstream(store: str, stages: list[StoredStage]) -> dict[str, list[str]]:
    """Return the inputs of every committed stage, by its record."""
    urls = {stage_record_url(store, *stage.name): stage.name for stage in stages}
    return {
        label(*urls[url]): [label(*name) for name in _inputs(record or {})]
        for url, record in read_records(list(urls)).items()
    }


def _inputs(record: dict[str, Any]) -> list[StageName]:
    """Return the stages that a record names as its inputs, as far as it can be understood."""
    inputs = record.get("inputs")
    refs = inputs.values() if isinstance(inputs, dict) else []
    pairs = [(each.get("stage"), each.get("key")) for each in refs if isinstance(each, dict)]
    return [(a, b) for a, b in pairs if isinstance(a, str) and isinstance(b, str)]


def _ancestors(names: Iterable[str], upstream: dict[str, list[str]]) -> set[str]:
    """Return stages, their inputs, and the inputs of those in turn."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(upstream.get(name, []))
    return found


def _freed(
    what: Literal["run", "stage", "result", "source"],
    name: str,
    files: Iterable[File],
    reason: str,
    runs: Iterable[str] = (),
) -> Freed:
    size = sum(file.bytes for file in files)
    return Freed(what=what, name=name, bytes=size, reason=reason, runs=list(runs))
