"""The names of stages: a digest of everything that shapes what one makes.

Same key, same bits. Prefect's cache, the store's folders and the lineage in a report all use this
one key, so a changed learning rate can never reuse a stale stage.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.config import DescentRecipe, Settings, digest
from engine.determinism import environment
from engine.fingerprint import fingerprint
from engine.metaparameters import GroupWeights
from engine.problem import build_problem
from engine.safe_names import ContentDigest, StageKey, StageKind

NOT_OUTER = {
    *("kind", "name", "description", "replay", "workers", "budget", "preflight", "baselines"),
    *("reruns", "schedules"),
}
"""Settings that cannot change an outer update, besides ``outer.num_steps``."""

NOT_INNER = NOT_OUTER | {"outer"}
"""Settings that cannot change a training run; any other counts in its key, new ones too."""

_REVERSING = {"reverse", "move-canaries", "trial", "preflight"}
"""Stages that reverse steps."""

_READERS = {
    *("budget.py", "claims.py", "conclusion.py", "figures.py", "housekeeping.py", "inventory.py"),
    *("forecasts.py", "lease.py", "monitoring.py", "overview.py", "planner.py", "planning.py"),
    *("quantities.py", "recipes.py", "report.py", "runs.py", "step_costs.py", "verify.py"),
    *("smooth_recipes.py", "smooth_search.py", "smoothness_figures.py", "smoothness_runs.py"),
    *("sweep_figures.py", "comparison_figures.py", "comparison_report.py", "selection_file.py"),
    *("attribution_figures.py", "attribution_recipes.py", "attribution_runs.py", "pages.py"),
    *("damage.py", "damage_figures.py", "schedule_figures.py", "schedule_results.py"),
    *("canary_figures.py", "canary_recipes.py", "canary_runs.py", "attribution_texts.py"),
    *("source_figures.py", "source_shares.py"),
    *("endings.py", "finishing.py", "life.py", "listing.py", "names.py", "starts.py"),
    *("store_mark.py",),
}
"""Files of the engine that cannot change what a stage makes."""


class Ref(Settings):
    """Names a committed stage and the bits that it made."""

    stage: StageKind
    """Kind of stage, e.g. train."""

    key: StageKey
    """Digest of everything that shaped it, 32 hex digits."""

    content: ContentDigest
    """Digest of what it made, 16 hex digits."""


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
    content = {
        "stage": stage,
        "settings": settings,
        "data": problem.data.fingerprint,
        "origin": problem.origin,
        # Clusters are found by a library, and another version of it may find others.
        "groups": fingerprint(problem.kind.groups)
        if isinstance(problem.kind, GroupWeights)
        else "",
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
    """Return the digest of the engine's source files: a changed engine reuses no stage.

    Files that only read what stages made are left out, by name.
    """
    root = Path(__file__).parent
    files = [path for path in sorted(root.rglob("*.py")) if path.name not in _READERS]
    return digest({str(path.relative_to(root)): path.read_text() for path in files})[:16]
