"""The names that the engine gives to what it keeps in a store, and no others.

Ownership goes by name: whatever lies in a store under another name is somebody else's, is counted
nowhere and is never deleted.

Where they lie says ``engine.storage.places``; a run is called ``<name>-<8 hex digits>``.
"""

import re
from pathlib import Path

from engine.storage import places

STAGE_KINDS = frozenset(
    {
        *("preflight", "initial", "train", "replay", "seed", "reverse", "update", "evaluate"),
        *("baseline", "retrain", "schedules", "optuna"),
        *("seed-queries", "trial", "train-without", "final-gradients", "trak"),
        *("seed-basis", "basis-scores"),
        *("perturb", "train-at", "output", "compare", "along"),
        *("move-canaries", "audit-canaries"),
    }
)
"""Kinds of stages; a test compares them with what the stages say.

An application that is added names its stages by its folder: ``word-puzzle-solve`` is one of
a folder ``word_puzzle``.
"""

APPLICATIONS = frozenset(
    each.parent.name.replace("_", "-")
    for each in (Path(__file__).parents[1] / "applications").glob("*/kind.py")
)
"""Folders of applications, as names of stages begin with them."""

RUN_FILES = frozenset(
    {
        *(places.RECIPE, places.DATA, places.PLAN, places.BUDGET, places.RUN, places.CERTIFICATE),
        places.PARTS,
        *("report.html", "selection.csv", "selection.parquet", "scores.csv", "queries.csv"),
        *("landscape.png", "search.png", "chosen.yaml"),
    }
)
"""Files directly in a run's folder; a test compares them with what runs of each kind leave."""

_OF_APPLICATIONS = (f"{name}(?:-[a-z]+)+" for name in sorted(APPLICATIONS))
_KIND = "(?P<stage>" + "|".join([*sorted(STAGE_KINDS), *_OF_APPLICATIONS]) + ")"
_KEY = "(?P<key>[0-9a-f]{32})"
_PARTIAL = r"\.(?P<of>.+)\.[0-9a-f]{32}\.partial"  # of a file that was not written to its end
_RUN = re.compile(r"[a-z0-9][a-z0-9-]*-[0-9a-f]{8}")
_CLAIM = re.compile(rf"{_KIND}-{_KEY}\.json")
_START = re.compile(r"[0-9a-f]{32}\.json")
_CODE = re.compile(r"(?P<digest>[0-9a-f]{32})(?P<deployed>-deployed)?\.json")
_RESULT = re.compile(f"{_KIND}-{_KEY}")
_STAGE = re.compile(f"{_KIND}/{_KEY}/(?P<rest>.+)", re.DOTALL)
_ATTEMPT = places.ATTEMPTS + r"/\d{8,}-[0-9a-f]{8}"
_STAGE_FILE = re.compile(
    rf"{re.escape(places.RECORD)}|{places.LEASES}/"
    r"\d{8,}\.json|"
    rf"{_ATTEMPT}/(?:zarr\.json|committed/(?:zarr\.json|\d+/zarr\.json)|\w+/(?:zarr\.json|c/\d+/\d+))"
)
_ZARR_PARTIAL = re.compile(_ATTEMPT + r"/[\w/]+\.[0-9a-f]{32}\.partial")


def label(stage: str, key: str) -> str:
    """Return the name of a stage in one word, which claims and Prefect's records have."""
    return f"{stage}-{key}"


def own_stage(path: str) -> tuple[str, str] | None:
    """Return kind and key of the stage that a file below ``stages/`` belongs to, if it is ours."""
    found = _STAGE.fullmatch(path)
    if found is None:
        return None
    rest = found["rest"]
    if _STAGE_FILE.fullmatch(_completed(rest)) or _ZARR_PARTIAL.fullmatch(rest):
        return found["stage"], found["key"]
    return None


def is_result(path: str) -> bool:
    """Say whether a file below ``results/`` is Prefect's record of a stage."""
    return _RESULT.fullmatch(path) is not None


def kept_code(path: str) -> tuple[str, bool] | None:
    """Return the digest that a file below ``code/`` is named by, if it is ours.

    Returns:
        The digest, and whether the file is a deployment's note and not the source itself.
    """
    found = _CODE.fullmatch(_completed(path))
    return None if found is None else (found["digest"], found["deployed"] is not None)


def is_run(name: str) -> bool:
    """Say whether a folder below ``runs/`` has the name of a run."""
    return _RUN.fullmatch(name) is not None


def is_run_file(path: str) -> bool:
    """Say whether a file in a run's folder, by its path below it, is ours."""
    folder, _, name = _completed(path).rpartition("/")
    patterns = {
        places.CLAIMS: _CLAIM,
        places.STARTS: _START,
        places.AT_WORK: _START,
        places.PROGRESS: _CLAIM,
    }
    if folder in patterns:
        return patterns[folder].fullmatch(name) is not None
    return not folder and name in RUN_FILES


def claimed_label(name: str) -> str | None:
    """Return the stage that a claim's file is named by, whatever it holds; None for other files."""
    return name.removesuffix(".json") if _CLAIM.fullmatch(name) else None


def _completed(path: str) -> str:
    """Return a path, or for a file that was not written to its end what it would have become."""
    folder, slash, name = path.rpartition("/")
    partial = re.fullmatch(_PARTIAL, name)
    return path if partial is None else f"{folder}{slash}{partial['of']}"
