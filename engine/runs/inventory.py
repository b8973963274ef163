"""Inventory of a store: stages, Prefect's records of them, and runs.

One listing of each folder, whatever the number of stages; any fsspec URL. What lies there under
names that the engine does not give (``engine.storage.names``) is not the engine's: it is named, and
no more.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from engine.runs.endings import Ending, intact, read_ending
from engine.runs.starts import Start, understood_starts
from engine.stages.claims import Claim, understand_claims
from engine.storage import places
from engine.storage.listing import File, list_tree, relative_paths
from engine.storage.location import filesystem, is_local
from engine.storage.names import (
    claimed_label,
    is_result,
    is_run,
    is_run_file,
    kept_code,
    own_stage,
)
from engine.storage.records import SMALL, read_records

StageName = tuple[str, str]
"""Kind and key of a stage."""

_LONGEST = 200
"""Letters of what a part is called: a line of a table."""

_AT_ONCE = 16
"""Folders that are listed at once: a store may be far away."""


@dataclass
class StoredStage:
    """A stage as its folder shows it: its kind, its key and its files.

    Attributes:
        stage: Kind of stage.
        key: Digest of what shaped it.
        files: Everything of ours below it.
    """

    stage: str
    key: str
    files: list[File] = field(default_factory=list)

    @property
    def name(self) -> StageName:
        """Kind and key."""
        return self.stage, self.key

    @property
    def bytes(self) -> int:
        """Sum of the sizes."""
        return sum(file.bytes for file in self.files)

    @property
    def leases(self) -> list[File]:
        """Lease files, one for each attempt to make the stage."""
        return [file for file in self.files if f"/{places.LEASES}/" in file.path]

    @property
    def attempts(self) -> int:
        """Number of attempts to make the stage."""
        return len(self.leases)

    @property
    def modified(self) -> float:
        """When the newest file was written, in seconds since 1970."""
        return max((file.modified for file in self.files), default=0.0)


@dataclass(frozen=True)
class StoredRun:
    """A run as its folder shows it.

    Attributes:
        name: Name of the run.
        recipe: Its settings; None if a process has claimed stages and written nothing else.
        record: What it did; None if it has not ended, or that cannot be read.
        claims: The stages that it uses.
        files: Everything of ours in its folder.
        uses: The stages that it uses in one word each, also those whose claim is damaged.
        parts: The runs that are parts of it, each with what people call it.
        starts: Starts of the run that its record does not count.
        is_damaged: Whether there is a record that is not the one that was written.
    """

    name: str
    recipe: dict[str, Any] | None
    record: dict[str, Any] | None
    claims: list[Claim]
    files: list[File]
    uses: frozenset[str] = frozenset()
    parts: dict[str, str] = field(default_factory=dict)
    starts: list[Start] = field(default_factory=list)
    is_damaged: bool = False

    @property
    def active(self) -> float:
        """Time of its last write, in seconds since 1970, by the clock of the store."""
        return max((file.modified for file in self.files), default=0.0)

    @cached_property
    def ending(self) -> Ending | None:
        """How it ended; None if it has not, or if its record cannot be read."""
        return read_ending(self.record)

    @property
    def finished(self) -> bool:
        """Whether it has ended, and no start has claimed a stage since. No clock is asked."""
        if self.ending is None:
            return False
        return {each.token for each in self.claims} <= set(self.ending.claims)

    @property
    def starting(self) -> bool:
        """Whether there is a start that its record does not count: under way, or killed."""
        return any("/starts/" in file.path for file in self.files)


@dataclass(frozen=True)
class Inventory:
    """Inventory of a store: its stages, runs and other files.

    Attributes:
        runs: The one that was active last first.
        stages: Stages by kind and key, committed or not.
        results: Prefect's records of finished stages, by ``<stage>-<key>``.
        code: Source that is kept for workers, by the digest that it is named by.
        deployed: Those of it that a deployment asks for.
        foreign: Paths of files that the engine did not make, below the store.
    """

    runs: list[StoredRun]
    stages: dict[StageName, StoredStage]
    results: dict[str, File]
    code: dict[str, list[File]]
    deployed: frozenset[str]
    foreign: list[str]


def take_inventory(store: str) -> Inventory:
    """List a whole store."""
    foreign: list[str] = []
    runs = _stored_runs(store, foreign)
    stages = _stored_stages(store, foreign)
    results: dict[str, File] = {}
    for path, file in _below(places.results_folder(store)).items():
        if is_result(path):
            results[path] = file
        else:
            foreign.append(f"{places.RESULTS}/{path}")
    code: dict[str, list[File]] = {}
    deployed: set[str] = set()
    for path, file in _below(places.code_folder(store)).items():
        name = kept_code(path)
        if name is None:
            foreign.append(f"{places.CODE}/{path}")
        elif name[1]:
            deployed.add(name[0])
        else:
            code.setdefault(name[0], []).append(file)
    return Inventory(runs, stages, results, code, frozenset(deployed), sorted(foreign))


def stored_runs(store: str) -> list[StoredRun]:
    """Return every run, the most recently active first."""
    return _stored_runs(store, [])


def stored_run(store: str, run: str) -> StoredRun:
    """Return one run, without listing the others."""
    folder = places.run_folder(store, run)
    paths = relative_paths(folder, list_tree(folder))
    own = {path: file for path, file in paths.items() if is_run_file(path)}
    return _described(store, {run: own})[0]


def stored_stage(store: str, stage: str, key: str) -> StoredStage:
    """Return one stage, without files if it does not exist."""
    files = list_tree(places.stage_folder(store, stage, key))
    root = places.stages_folder(store)
    own = [file for path, file in relative_paths(root, files).items() if own_stage(path)]
    return StoredStage(stage, key, own)


def stages_of(store: str, names: Iterable[StageName]) -> list[StoredStage]:
    """Return some stages, without listing the others."""
    if is_local(filesystem(store)[0]):
        return [stored_stage(store, *name) for name in names]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda name: stored_stage(store, *name), names))


def wholes_of(runs: Iterable[StoredRun]) -> dict[str, list[str]]:
    """Return, for each run that is a part, the runs that it is a part of.

    Runs that are parts of one another, and of none besides, are parts of nothing: a run that nobody
    would see or count could neither be found nor freed.

    Cost:
        Linear in the runs and in their parts that are there, whatever the files of parts hold.
    """
    by_name = {run.name: run for run in runs}
    found: dict[str, list[str]] = {}
    for run in by_name.values():
        for part in run.parts.keys() & by_name.keys():
            found.setdefault(part, []).append(run.name)
    below = with_parts(by_name.values(), by_name.keys() - found.keys())
    return {name: wholes for name, wholes in found.items() if name in below}


def with_parts(runs: Iterable[StoredRun], names: Iterable[str]) -> set[str]:
    """Return the names of some runs and of all that are parts of them, and of their parts."""
    by_name = {run.name: run for run in runs}
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in by_name and name not in found:
            found.add(name)
            waiting.extend(by_name[name].parts.keys() & by_name.keys())
    return found


def _stored_stages(store: str, foreign: list[str]) -> dict[StageName, StoredStage]:
    found: dict[StageName, StoredStage] = {}
    for path, file in _below(places.stages_folder(store)).items():
        name = own_stage(path)
        if name is None:
            foreign.append(f"{places.STAGES}/{path}")
        else:
            found.setdefault(name, StoredStage(*name)).files.append(file)
    return found


def _stored_runs(store: str, foreign: list[str]) -> list[StoredRun]:
    folders: dict[str, dict[str, File]] = {}
    for path, file in _below(places.runs_folder(store)).items():
        run, _, rest = path.partition("/")
        if rest and is_run(run) and is_run_file(rest):
            folders.setdefault(run, {})[rest] = file
        else:
            foreign.append(f"{places.RUNS}/{path}")
    # A folder of that name which holds neither settings nor claims may be anything.
    for run in [run for run, files in folders.items() if not _is_of_a_run(files)]:
        foreign.extend(f"{places.RUNS}/{run}/{path}" for path in folders.pop(run))
    return sorted(_described(store, folders), key=lambda run: run.active, reverse=True)


def _is_of_a_run(files: Iterable[str]) -> bool:
    return any(path == places.RECIPE or path.startswith(f"{places.CLAIMS}/") for path in files)


def _described(store: str, folders: dict[str, dict[str, File]]) -> list[StoredRun]:
    """Read what the folders of runs hold."""
    claims = {
        run: {path: name for path in files if (name := _claimed(path)) is not None}
        for run, files in folders.items()
    }
    said = [
        places.run_file(store, run, path)
        for run, files in folders.items()
        for path in files
        if path in (places.RECIPE, places.RUN, places.PARTS)
    ]
    begun = {
        run: [path for path in files if path.startswith(f"{places.STARTS}/")]
        for run, files in folders.items()
    }
    small = [
        places.run_file(store, run, path) for run in folders for path in [*claims[run], *begun[run]]
    ]
    records = read_records(said) | read_records(small, largest=SMALL)

    def read(run: str, paths: Iterable[str]) -> dict[str, dict[str, Any] | None]:
        urls = [places.run_file(store, run, path) for path in paths]
        return {url: records[url] for url in urls if url in records}

    results = {run: read(run, [places.RUN]) for run in folders}
    ended = {run: intact(next(iter(found.values()), None)) for run, found in results.items()}
    return [
        StoredRun(
            name=run,
            recipe=records.get(places.run_file(store, run, places.RECIPE)),
            record=ended[run],
            claims=understand_claims(read(run, claims[run])),
            files=list(files.values()),
            uses=frozenset(claims[run].values()),
            parts=_parts(run, records.get(places.run_file(store, run, places.PARTS))),
            starts=understood_starts(read(run, begun[run]).values()),
            is_damaged=bool(results[run]) and ended[run] is None,
        )
        for run, files in folders.items()
    ]


def _parts(run: str, record: dict[str, Any] | None) -> dict[str, str]:
    """Return the parts that a run has noted; a record that cannot be read has none."""
    found = (record or {}).get("parts")
    named = found.items() if isinstance(found, dict) else ()
    return {part: str(words)[:_LONGEST] for part, words in named if is_run(part) and part != run}


def _claimed(path: str) -> str | None:
    """Return the stage that a file of a run's folder claims; None for any other file."""
    folder, _, name = path.rpartition("/")
    return claimed_label(name) if folder == places.CLAIMS else None


def _below(url: str) -> dict[str, File]:
    return relative_paths(url, list_tree(url))
