"""The names of stages: a digest of everything that shapes what one makes.

Same key, same bits. Prefect's cache, the store's folders and the lineage in a report all use this
one key, so a changed learning rate can never reuse a stale stage.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.numerics.environment import environment
from engine.numerics.fingerprint import fingerprint
from engine.problems.problem import build_problem
from engine.recipes.descent import DescentRecipe
from engine.recipes.settings import Settings, digest

NOT_OUTER = {
    *("kind", "name", "description", "replay", "workers", "budget", "preflight", "baselines"),
    *("reruns", "schedules", "folder"),
}
"""Settings that cannot change an outer update, besides ``outer.num_steps``."""

NOT_INNER = NOT_OUTER | {"outer"}
"""Settings that cannot change a training run; any other counts in its key, new ones too."""

_REVERSING = {"reverse", "move-canaries", "trial", "preflight"}
"""Stages that reverse steps."""

APART = {
    "runs/": "lists, shows, budgets and cleans what stages made",
    "reports/": "draws and writes what stages made",
    "planning/": "chooses among schedules, which all make the same bits",
    "recipes/files.py": "finds recipes, whose content is in a key by itself",
    "recipes/names.py": "names runs",
    "recipes/yaml.py": "reads recipes, whose content is in a key by itself",
    "stages/claims.py": "notes which stages a run uses",
    "stages/lease.py": "says who is at work on a stage",
    "stages/monitoring.py": "reads what reverse sweeps recorded",
    "stages/places.py": "says where stages lie",
    "storage/names.py": "says which files of a store are the engine's",
    "storage/readable.py": "asks whether a store can be read",
    "applications/descent/": "chooses an iterate, reports and verifies",
    "applications/comparisons/damage.py": "judges what stages made",
    "applications/comparisons/rate_search_results.py": "gathers what stages made",
    "applications/comparisons/results.py": "gathers what stages made",
    **{
        f"applications/{name}/{file}.py": "reports what stages made"
        for name in ("attribution", "canaries", "smoothness")
        for file in ("figures", "record")
    },
    "applications/attribution/texts.py": "reports what stages made",
    "applications/smoothness/search.py": "chooses among what stages made",
}
"""Files and folders of the engine that cannot change what a stage makes, and why they cannot.

Every other file is in the digest. A test holds that none of those imports one of these, but for
the pairs that it names.
"""


def stage_key(stage: str, recipe: DescentRecipe, inputs: dict[str, Any]) -> str:
    """Return the digest of everything that shapes a stage's result, 32 hex digits.

    Settings are left out by name, so that a new one counts until somebody decides that it cannot
    change a result.
    """
    settings = recipe.model_dump(mode="json", exclude=NOT_OUTER if stage == "update" else NOT_INNER)
    settings.get("outer", {}).pop("num_steps", None)
    if stage in _REVERSING:  # how a step is reversed changes the last digits
        settings["product"] = [recipe.replay.vjp, recipe.replay.micro_batch]
    problem = build_problem(recipe)
    found = problem.kind.found()
    content = {
        "stage": stage,
        "settings": settings,
        "data": problem.data.fingerprint,
        "origin": problem.origin,
        # Clusters are found by a library, and another version of it may find others.
        "groups": "" if found is None else fingerprint(found),
        "inputs": plain(inputs),
        "engine": engine_version(),
        "environment": run_environment(recipe),
    }
    return digest(content)[:32]


def plain(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return a stage's inputs as JSON values."""
    return {
        name: value.model_dump(mode="json") if isinstance(value, Settings) else value
        for name, value in inputs.items()
    }


def run_environment(recipe: DescentRecipe) -> dict[str, Any]:
    """Describe what the bits of a run depend on besides its inputs."""
    return environment(recipe.training.device, recipe.training.threads)


@lru_cache(maxsize=1)
def engine_version() -> str:
    """Return the digest of the engine's source files: a changed engine reuses no stage."""
    return digest({name: (_ENGINE / name).read_text() for name in computing_files()})[:16]


def computing_files() -> list[str]:
    """Return the files that can change what a stage makes, relative to the engine's folder."""
    names = (path.relative_to(_ENGINE).as_posix() for path in sorted(_ENGINE.rglob("*.py")))
    return [name for name in names if not is_apart(name)]


def is_apart(name: str) -> bool:
    """Say whether a file, by its path in the engine's folder, is left out of the digest."""
    return any(name == each or (each.endswith("/") and name.startswith(each)) for each in APART)


_ENGINE = Path(__file__).parents[1]
