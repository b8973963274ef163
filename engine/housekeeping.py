"""Frees what no run needs: runs by age, count or name, and whatever nobody refers to any more.

``plan_clean`` only looks; ``carry_out`` deletes what a plan says, unless a run has claimed it
meanwhile (``engine.claims`` says why that is safe).

What stays, always: all stages of a run that has not finished, unless that run itself is freed;
everything of a run that is at work; every stage that another run uses.
What a kept finished run needs for its result stays too: its record and report, all metaparameters,
metagradients and scores, and the training of the chosen iterate. With ``intermediate`` the rest of
it goes: states and adjoints that only a repetition or a longer run would use, and would make again.
"""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Literal

from pydantic import Field

from engine.claims import claim_url, read_claim, read_claims
from engine.config import Settings
from engine.errors import ConfigurationError
from engine.inventory import (
    File,
    StageName,
    StoredRun,
    StoredStage,
    list_tree,
    stage_record_url,
    stored_results,
    stored_runs,
    stored_stages,
)
from engine.location import filesystem, join, list_files, remove_files, remove_folder
from engine.quantities import DAY
from engine.records import read_bytes, read_records, write_bytes
from engine.runs import find_run, list_runs, run_folder

logger = logging.getLogger(__name__)

INTERMEDIATE = {"train", "seed", "reverse", "replay"}
"""Kinds of stages that a result can do without; any other kind is kept, new ones too."""

_BATCH = 64  # stages between two looks at the claims


class CleanRules(Settings):
    """Which runs go, and how young a thing may be to be left alone."""

    older_than_seconds: Annotated[float | None, Field(ge=0)] = None
    """Free runs that have written nothing for so long; empty frees none by age."""

    keep: Annotated[int | None, Field(ge=0)] = None
    """Free all but so many runs, the ones that were active last; empty frees none by count."""

    runs: list[str] = []
    """Free these runs, whatever their age."""

    intermediate: bool = False
    """Free what finished runs keep only to be repeated or continued."""

    grace_seconds: Annotated[float, Field(ge=0)] = DAY
    """An unfinished run that wrote something within this time is at work, and what nobody refers
    to may be somebody's in a moment."""


class Freed(Settings):
    """One thing that goes."""

    what: Literal["run", "stage", "attempt", "result"]
    """Kind of thing."""

    name: str
    """Name of the run, or kind and key of the stage."""

    bytes: int
    """Bytes that it takes."""

    reason: str
    """Why nobody needs it."""


class CleanReport(Settings):
    """What a clean would free, or has freed."""

    store: str
    """URL of the store."""

    deleted: bool
    """Whether it is gone; a report alone deletes nothing."""

    freed: list[Freed]
    """What goes."""

    kept_runs: list[str]
    """Runs that stay, the one that was active last first."""

    bytes: int
    """Sum over ``freed``."""

    kept_bytes: int
    """Bytes of all that stays."""


@dataclass(frozen=True)
class Victim:
    """A stage that goes, and the claims to it (run to token) when that was decided."""

    stage: StoredStage
    reason: str
    claims: dict[str, str]

    @property
    def name(self) -> str:
        """Kind and key."""
        return f"{self.stage.stage}/{self.stage.key}"


@dataclass(frozen=True)
class CleanPlan:
    """What goes, and how to delete it.

    Attributes:
        report: For people.
        victims: Stages.
        results: Prefect's records of stages that are not there.
        runs: Runs whose folders go, last of all.
    """

    report: CleanReport
    victims: list[Victim]
    results: list[File]
    runs: list[StoredRun]


def plan_clean(store: str, rules: CleanRules) -> CleanPlan:
    """Decide what goes; changes nothing.

    Raises:
        ConfigurationError: If there is no store, or a run is named that is not there or at work.
    """
    now = time.time()
    runs, stages, results = stored_runs(store), stored_stages(store), stored_results(store)
    if not (runs or stages or results):
        raise ConfigurationError(
            f"There is no run and no stage in {store}, so there is nothing to free. "
            "Name the store of your runs: --store URL."
        )
    going = _going(store, runs, rules, now)
    upstream = _upstream(store, list(stages.values()))
    needed = {
        name
        for run in runs
        if run.name not in going
        for name in needed_stages(run, upstream, intermediate=not rules.intermediate)
    }
    claims: dict[StageName, dict[str, str]] = {}
    for run in runs:
        for each in run.claims:
            claims.setdefault((each.stage, each.key), {})[run.name] = each.token
    before = now - rules.grace_seconds
    victims = [
        Victim(stage, _reason(claims.get(name, {}), going), claims.get(name, {}))
        for name, stage in stages.items()
        # What nobody claims and is new may be claimed in a moment.
        if name not in needed and (name in claims or stage.modified <= before)
    ]
    gone = {f"{victim.stage.stage}-{victim.stage.key}" for victim in victims}
    left = {f"{stage}-{key}" for stage, key in stages} - gone
    orphans = [
        file
        for name, file in results.items()
        if name in gone or (name not in left and file.modified <= before)
    ]
    doomed = [run for run in runs if run.name in going]
    freed = [
        *(_freed("run", run.name, run.files, going[run.name]) for run in doomed),
        *(_freed("stage", each.name, each.stage.files, each.reason) for each in victims),
        *(_freed("result", _name(file), [file], "its stage is gone") for file in orphans),
    ]
    everything = [
        *(file for run in runs for file in run.files),
        *(file for stage in stages.values() for file in stage.files),
        *results.values(),
    ]
    num_bytes = sum(each.bytes for each in freed)
    report = CleanReport(
        store=store,
        deleted=False,
        freed=freed,
        kept_runs=[run.name for run in runs if run.name not in going],
        bytes=num_bytes,
        kept_bytes=sum(file.bytes for file in everything) - num_bytes,
    )
    return CleanPlan(report, victims, orphans, doomed)


def carry_out(plan: CleanPlan) -> CleanReport:
    """Delete what a plan says, except what a run has claimed since; return what was deleted.

    Killed at any moment, it leaves a store in which every committed stage is whole; the next clean
    frees the rest.
    """
    store = plan.report.store
    spared: set[str] = set()
    victims = iter(plan.victims)
    while batch := list(islice(victims, _BATCH)):
        spared |= _free(store, batch)
    kept = {name.replace("/", "-") for name in spared}
    remove_files(
        join(store, "results"), [file.path for file in plan.results if _name(file) not in kept]
    )
    for run in plan.runs:
        folder = run_folder(store, run.name)
        if _is_untouched(store, run):
            remove_files(folder, [file.path for file in run.files])
            remove_folder(folder)
        else:
            spared.add(run.name)
    for name in sorted(spared):
        logger.info("%s stays: a run has asked for it meanwhile", name)
    freed = [
        each for each in plan.report.freed if each.name not in spared and each.name not in kept
    ]
    return plan.report.model_copy(
        update={"deleted": True, "freed": freed, "bytes": sum(each.bytes for each in freed)}
    )


def needed_stages(
    run: StoredRun, upstream: dict[StageName, list[StageName]], *, intermediate: bool
) -> set[StageName]:
    """Return the stages that a run needs, by kind and key.

    Args:
        run: The run.
        upstream: Each stage to those that it was made from.
        intermediate: Whether a finished run keeps what only a repetition would use.
    """
    claimed = {(each.stage, each.key) for each in run.claims}
    if not run.finished or run.record is None:
        return claimed
    refs = [
        (ref["stage"], ref["key"])
        for iterate in run.record["iterates"]
        for ref in (iterate["value"], iterate["final"], iterate["gradient"])
        if ref is not None
    ]
    everything = claimed | _ancestors(refs, upstream)
    if intermediate:
        return everything
    iterates = run.record["iterates"]
    metagradients = {
        (each["gradient"]["stage"], each["gradient"]["key"])
        for each in iterates
        if each["gradient"] is not None
    }
    final = iterates[run.record["chosen"]]["final"]
    training = _ancestors([(final["stage"], final["key"])], upstream, kind=final["stage"])
    small = {name for name in everything if name[0] not in INTERMEDIATE}
    return small | metagradients | training


def _going(store: str, runs: list[StoredRun], rules: CleanRules, now: float) -> dict[str, str]:
    """Return the runs that go, and why; a run at work never does."""
    at_work = {run.name for run in runs if _is_at_work(run, now, rules.grace_seconds)}
    going: dict[str, str] = {}
    if rules.older_than_seconds is not None or rules.keep is not None:
        for number, run in enumerate(runs):  # the one that was active last first
            age = now - run.active
            old = rules.older_than_seconds is None or age >= rules.older_than_seconds
            surplus = rules.keep is None or number >= rules.keep
            if old and surplus and run.name not in at_work:
                going[run.name] = f"last active {age / DAY:.1f} days ago, number {number + 1}"
    for asked in rules.runs:
        name = find_run(store, asked)
        if name in at_work:
            raise ConfigurationError(
                f"Run {name} has not finished and wrote something less than "
                f"{rules.grace_seconds:.0f} s ago, so it may be at work. Stop it, and say "
                "--grace 0s to free it all the same."
            )
        going[name] = "asked for by name"
    return going


def _is_at_work(run: StoredRun, now: float, grace_seconds: float) -> bool:
    return not run.finished and now - run.active < grace_seconds


def _reason(users: dict[str, str], going: dict[str, str]) -> str:
    if not users:
        return "no run refers to it"
    if users.keys() <= going.keys():
        return f"only {', '.join(users)} used it"
    return "only a repetition of its run would use it"


def _upstream(store: str, stages: list[StoredStage]) -> dict[StageName, list[StageName]]:
    """Read of every committed stage what it was made from."""
    urls = {stage_record_url(store, *stage.name): stage.name for stage in stages}
    found: dict[StageName, list[StageName]] = {}
    for url, record in read_records(list(urls)).items():
        inputs = (record or {}).get("inputs", {}).values()
        refs = [each for each in inputs if isinstance(each, dict) and "key" in each]
        found[urls[url]] = [(ref["stage"], ref["key"]) for ref in refs]
    return found


def _ancestors(
    names: list[StageName], upstream: dict[StageName, list[StageName]], kind: str | None = None
) -> set[StageName]:
    """Return stages and all that they were made from; only those of one kind, if it is given."""
    found: set[StageName] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found and kind in (None, name[0]):
            found.add(name)
            waiting.extend(upstream.get(name, []))
    return found


def _free(store: str, victims: list[Victim]) -> set[str]:
    """Delete stages, except those that a run has claimed since they were chosen; name these."""
    records: dict[str, bytes | None] = {}
    for victim in victims:
        url = stage_record_url(store, *victim.stage.name)
        records[victim.name] = read_bytes(url)
        remove_files(store, [filesystem(url)[1]])  # from here on nobody finds it
    spared: set[str] = set()
    now_claimed = _claims_now(store, victims)
    for victim in victims:
        record = records[victim.name]
        if now_claimed[victim.name] != victim.claims:
            spared.add(victim.name)
            if record is not None:
                write_bytes(stage_record_url(store, *victim.stage.name), record)
            continue
        remove_files(join(store, "stages"), [file.path for file in victim.stage.files])
        for run in victim.claims:
            url = claim_url(store, run, *victim.stage.name)
            remove_files(store, [filesystem(url)[1]])
    return spared


def _claims_now(store: str, victims: list[Victim]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {victim.name: {} for victim in victims}
    for run in list_runs(store):
        names = set(list_files(join(run_folder(store, run), "stages")))
        for victim in victims:
            if claim_url(store, run, *victim.stage.name).rsplit("/", 1)[-1] in names:
                claim = read_claim(store, run, *victim.stage.name)
                if claim is not None:
                    found[victim.name][run] = claim.token
    return found


def _is_untouched(store: str, run: StoredRun) -> bool:
    """Say whether nothing was written to a run's folder since it was looked at."""
    before = {file.path: file for file in run.files}
    tokens = {each.token for each in run.claims}  # object stores tell times in whole seconds
    return all(
        before.get(file.path) == file for file in list_tree(run_folder(store, run.name))
    ) and all(each.token in tokens for each in read_claims(store, run.name))


def _freed(
    what: Literal["run", "stage", "result"], name: str, files: Iterable[File], reason: str
) -> Freed:
    return Freed(what=what, name=name, bytes=sum(file.bytes for file in files), reason=reason)


def _name(file: File) -> str:
    return file.path.rsplit("/", 1)[-1]
