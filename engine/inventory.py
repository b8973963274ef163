"""What lies in a store: stages, Prefect's records of them, and runs, with bytes and ages.

One listing of each folder, whatever the number of stages; any fsspec URL.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fsspec import AbstractFileSystem

from engine.claims import Claim, read_claims
from engine.location import filesystem, join
from engine.records import read_records
from engine.runs import list_runs, run_folder

StageName = tuple[str, str]
"""Kind and key of a stage."""


@dataclass(frozen=True)
class File:
    """One stored object.

    Attributes:
        path: As its filesystem names it.
        bytes: Its size.
        modified: When it was written, in seconds since 1970.
    """

    path: str
    bytes: int
    modified: float


@dataclass
class StoredStage:
    """All that lies in the folder of a stage.

    Attributes:
        stage: Kind of stage.
        key: Digest of what shaped it.
        files: Everything below it.
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
    def attempts(self) -> int:
        """Times that somebody began to make it."""
        return sum("/leases/" in file.path for file in self.files)

    @property
    def modified(self) -> float:
        """When the newest file was written, in seconds since 1970."""
        return max(file.modified for file in self.files)


CERTIFICATE = "certificate.json"
"""File of a run that is written after its end, see ``engine.verify``."""


@dataclass(frozen=True)
class StoredRun:
    """A run as its folder shows it.

    Attributes:
        name: Of the run.
        recipe: Its settings; None if a process has claimed stages and written nothing else.
        record: What it did; None if it has not finished.
        claims: The stages that it uses.
        files: Everything in its folder.
    """

    name: str
    recipe: dict[str, Any] | None
    record: dict[str, Any] | None
    claims: list[Claim]
    files: list[File]

    @property
    def active(self) -> float:
        """When it last wrote something, in seconds since 1970."""
        return max((file.modified for file in self.files), default=0.0)

    @property
    def finished(self) -> bool:
        """Whether it has ended, and no start of it is under way that has claimed a stage since."""
        ended = [file.modified for file in self.files if file.path.endswith("/run.json")]
        own = [file.modified for file in self.files if not file.path.endswith(f"/{CERTIFICATE}")]
        return self.record is not None and bool(ended) and max(own) <= ended[0] + 1.0


def stored_stages(store: str) -> dict[StageName, StoredStage]:
    """Return every stage folder, by kind and key, committed or not."""
    found: dict[StageName, StoredStage] = {}
    folder = join(store, "stages")
    root = _root(folder)
    for file in list_tree(folder):
        stage, key, *_ = file.path.removeprefix(root).split("/")
        found.setdefault((stage, key), StoredStage(stage, key)).files.append(file)
    return found


def stage_record_url(store: str, stage: str, key: str) -> str:
    """Return where the record lies that commits a stage."""
    return join(store, "stages", stage, key, "record.json")


def stored_results(store: str) -> dict[str, File]:
    """Return Prefect's records of finished stages, by name (``<stage>-<key>``)."""
    return {file.path.rsplit("/", 1)[-1]: file for file in list_tree(join(store, "results"))}


def stored_runs(store: str) -> list[StoredRun]:
    """Return every run, the one that was active last first."""
    names = list_runs(store)
    files: dict[str, list[File]] = {name: [] for name in names}
    folder = join(store, "runs")
    root = _root(folder)
    for file in list_tree(folder):
        files.setdefault(file.path.removeprefix(root).split("/")[0], []).append(file)
    folders = {name: run_folder(store, name) for name in names}
    wanted = [join(each, name) for each in folders.values() for name in ("recipe.json", "run.json")]
    records = read_records(wanted)
    runs = [
        StoredRun(
            name=name,
            recipe=records.get(join(folder, "recipe.json")),
            record=records.get(join(folder, "run.json")),
            claims=read_claims(store, name),
            files=files[name],
        )
        for name, folder in folders.items()
    ]
    return sorted(runs, key=lambda run: run.active, reverse=True)


def list_tree(url: str) -> list[File]:
    """Return every file below a location; none if it is absent."""
    file_system, path = filesystem(url)
    found = file_system.find(path, detail=True)
    assert isinstance(found, dict)  # with detail=True
    return list(_files(file_system, found.values()))


def _files(file_system: AbstractFileSystem, entries: Iterable[dict[str, Any]]) -> Iterator[File]:
    for entry in entries:
        if entry["type"] == "file":
            yield File(entry["name"], int(entry["size"] or 0), _modified(file_system, entry))


def _modified(file_system: AbstractFileSystem, entry: dict[str, Any]) -> float:
    # Each filesystem has a name of its own for it; the method asks once more for each file.
    for name in ("mtime", "LastModified", "last_modified", "updated", "created"):
        if name in entry:
            value = entry[name]
            break
    else:
        value = file_system.modified(entry["name"])
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        value = (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    return float(value)


def _root(url: str) -> str:
    """Return how the filesystem begins the names of all files below a location."""
    return filesystem(url)[1].rstrip("/") + "/"
