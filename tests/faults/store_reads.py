"""What every command reads of a store, without what it computes."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

from engine.applications.descent import record as runs
from engine.applications.descent.certificate import seeded_output
from engine.applications.made_again.stages import read_segment
from engine.errors import CheckpointMissingError
from engine.planning.forecast import read_forecast
from engine.preflight.verdict import CheckReport
from engine.recipes.execution import BudgetSettings
from engine.recipes.files import change_workers, load_recipe
from engine.recipes.names import run_name
from engine.runs import budget
from engine.runs import run as stored
from engine.runs.certificates import read_certificate
from engine.runs.clean import cleaning as housekeeping
from engine.runs.clean.clean_plan import CleanRules
from engine.runs.stored_places import check_places
from engine.stages import commits, lease
from engine.storage.location import copy_folder, join
from engine.storage.readable import check_readable
from flows.cli import showing
from tests.faults.opened_reads import opened_reads
from tests.faults.small_store import RECIPE


def reads(store: str, run: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """Name what each command reads of a store."""
    for as_json in (False, True):
        yield "show", partial(showing.show_runs, store, as_json=as_json)
        yield "show RUN", partial(showing.show_run, store, run, as_json=as_json)
    yield "clean", lambda: _clean(store, CleanRules(older_than_seconds=1e9, grace_seconds=0))
    yield "clean --intermediate", lambda: _clean(store, CleanRules(intermediate=True))
    yield "clean --keep", lambda: _clean(store, CleanRules(keep=0, grace_seconds=0))
    yield "resume", partial(_resume, store, run)
    yield "verify", partial(_verify, store, run)
    yield "check", partial(_check, store)
    yield "run", partial(_run, store, run)
    yield from opened_reads(store, [run, *_others()])


@cache
def _others() -> list[str]:
    """Return the names of the runs beside the first one."""
    changes = [[*RECIPE, f"training.seed={seed}"] for seed in (1, 2)]
    return [run_name(load_recipe("digits-selection", each).descent) for each in changes]


def _clean(store: str, rules: CleanRules) -> None:
    showing.show_clean(housekeeping.plan_clean(store, rules).report, as_json=False)


def _resume(store: str, run: str) -> None:
    check_readable(store)
    name = stored.find_run(store, run[:-3])
    recipe = stored.read_recipe(store, name)
    check_places(recipe, name, store)
    assert change_workers(recipe, []).workers.address is None
    budget.Budget(BudgetSettings(max_seconds=5), store, name)


def _verify(store: str, run: str) -> None:
    """Do what ``mgd verify`` does before it computes."""
    check_readable(store)
    record = runs.read_run(store, stored.find_run(store, run))
    read_certificate(store, run)
    for iterate in record.iterates:
        if iterate.gradient is None:
            continue
        for reverse in commits.lineage(store, iterate.gradient, "adjoint"):
            read_segment(store, reverse)
            for name in ("value", "start", "end", "adjoint"):
                each = commits.read_input(store, reverse, name)
                if each is not None:
                    with tempfile.TemporaryDirectory() as scratch:
                        copy_folder(
                            commits.committed_folder(store, each),
                            commits.committed_folder(scratch, each),
                        )
        seeded_output(store, iterate.gradient)
        commits.read_rows(store, iterate.gradient)
        commits.find(iterate.gradient.stage, iterate.gradient.key, store)


def _check(store: str) -> None:
    for key in _keys(store, "preflight"):
        ref = commits.find("preflight", key, store)
        if ref is not None:
            commits.read_scalars_as(store, ref, CheckReport)


def _run(store: str, run: str) -> None:
    """Do what a start does before it computes: look for every stage, its plan and its lease."""
    read_forecast(store, run)
    for stage in ("preflight", "initial", "train", "seed", "reverse", "evaluate", "update"):
        for key in _keys(store, stage):
            ref = commits.find(stage, key, store)
            folder = join(store, "stages", stage, key)
            token = lease.newest_token(folder)
            lease._is_over(lease._read(folder, token)) if token else None
            if ref is None:
                continue
            commits.read_scalars(store, ref)
            commits.read_inputs(store, ref)
            with contextlib.suppress(CheckpointMissingError):
                commits.read_rows(store, ref)


def _keys(store: str, stage: str) -> list[str]:
    folder = Path(store, "stages", stage)
    return sorted(os.listdir(folder)) if folder.is_dir() else []
