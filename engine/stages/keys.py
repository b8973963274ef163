"""The names of stages: a digest of everything that shapes what one makes.

Same key, same bits. Prefect's cache, the store's folders and the lineage in a report all use this
one key, so a changed learning rate can never reuse a stale stage.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from engine.errors import ConfigurationError
from engine.numerics.environment import environment
from engine.numerics.fingerprint import fingerprint
from engine.recipes.descent import DescentRecipe
from engine.recipes.settings import Document, digest
from engine.stages.run import Run

NOT_OUTER = {
    *("kind", "name", "description", "replay", "workers", "budget", "preflight", "baselines"),
    *("reruns", "schedules", "folder"),
}
"""Settings that cannot change an outer update, besides ``NOT_MOVING``."""

NOT_MOVING = ("num_steps", "choose_by", "choose")
"""Settings of ``outer`` that say how many outer steps there are and which iterate is chosen."""

NOT_INNER = NOT_OUTER | {"outer"}
"""Settings that cannot change a training run; any other counts in its key, new ones too."""

APART = {
    "docs/": "shows how the engine is used",
    "runs/": "lists, shows, budgets and cleans what stages made",
    "reports/": "draws and writes what stages made",
    "planning/": "chooses among schedules, which all make the same bits",
    "progress/": "notes how far a computation is, and shows it",
    "recipes/files.py": "finds recipes, whose content is in a key by itself",
    "recipes/forms/": "shows recipes as forms, whose content is in a key by itself",
    "recipes/names.py": "names runs",
    "recipes/titles.py": "names runs for people",
    "recipes/shipped_recipes.py": "says where recipes lie",
    "recipes/reading/yaml.py": "reads recipes, whose content is in a key by itself",
    "stages/claims.py": "notes which stages a run uses",
    "stages/lease.py": "says who is at work on a stage",
    "stages/owner.py": "says which process is at work on a stage",
    "stages/monitoring.py": "reads what reverse sweeps recorded",
    "storage/names.py": "says which files of a store are the engine's",
    "storage/places.py": "says where stages lie",
    "storage/readable.py": "asks whether a store can be read",
    "applications/descent/": "chooses an iterate, reports and verifies",
    "applications/kept_rows.py": "reads what runs left",
    "applications/kinds.py": "finds what a kind of run has of its own",
    "applications/made_again/": "compares what stages made with what they make again",
    "applications/verifying.py": "compares what stages made with what they make again",
    "applications/attribution/certificate.py": "verifies what stages made",
    "applications/open_run.py": "opens what runs left",
    "applications/side_by_side.py": "compares what runs left",
    "applications/trackers.py": "sends what runs left elsewhere",
    "applications/comparisons/damage.py": "judges what stages made",
    "applications/comparisons/rate_search_results.py": "gathers what stages made",
    "applications/comparisons/results.py": "gathers what stages made",
    **{
        f"applications/{name}/{file}.py": "reports what stages made, or says what they will take"
        for name in ("attribution", "canaries", "smoothness")
        for file in ("figures", "record", "report", "works")
    },
    **{
        f"applications/{name}/kind.py": "says of what a kind of run is made"
        for name in ("attribution", "canaries", "smoothness")
    },
    "recipes/kinds.py": "finds what kinds of runs are made of",
    "applications/attribution/queries.py": "reports what stages made",
    "applications/attribution/basis_report.py": "reports what stages made",
    "applications/attribution/query_scores.py": "reads what runs left",
    "applications/shown_examples.py": "shows examples to people",
    "applications/smoothness/search.py": "chooses among what stages made",
}
"""Files and folders of the engine that cannot change what a stage makes, and why they cannot.

Every other file is in the digest. A test holds that none of those imports one of these, but for
the pairs that it names.
"""


@dataclass(frozen=True)
class Declaration:
    """The facts about a kind of stage that its key depends on.

    Attributes:
        name: Kind of stage, e.g. train.
        application: Folder of ``engine/applications/`` that declares it; empty for a stage that
            all of them share.
        reverses: Whether it reverses steps: how one is reversed changes the last digits.
        moves: Whether it moves z as ``outer`` says.
    """

    name: str
    application: str = ""
    reverses: bool = False
    moves: bool = False


def stage_key(declared: Declaration, run: Run, inputs: dict[str, Any]) -> str:
    """Return the digest of everything that shapes a stage's result, 32 hex digits.

    Settings are left out by name, so that a new one counts until somebody decides that it cannot
    change a result.
    """
    recipe, problem = run.recipe, run.problem
    settings = recipe.model_dump(mode="json", exclude=NOT_OUTER if declared.moves else NOT_INNER)
    for name in NOT_MOVING:
        settings.get("outer", {}).pop(name, None)
    if declared.moves:  # what is empty in a recipe stands for a rule that may be written out
        settings["outer"] |= recipe.rule.model_dump(mode="json", include={"update", "step_size"})
    if declared.reverses:
        settings["product"] = [run.settled.replay.vjp, recipe.replay.micro_batch]
    found = problem.kind.computed()
    content = {
        "stage": declared.name,
        "settings": settings,
        "data": problem.data.fingerprint,
        "origin": problem.origin,
        # Clusters are found by a library, and another version of it may find others.
        "groups": "" if found is None else fingerprint(found),
        "inputs": plain(inputs),
        "engine": engine_version(declared.application),
        "environment": run_environment(recipe),
    }
    return digest(content)[:32]


def plain(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return a stage's inputs as JSON values.

    Raises:
        ConfigurationError: If one is no value: a tensor has no name, a set no order.
    """
    return json.loads(json.dumps(inputs, default=_plain))


def _plain(value: object) -> Any:  # noqa: ANN401 (JSON)
    if isinstance(value, Document):
        return value.model_dump(mode="json")
    raise ConfigurationError(
        f"An input of a stage is a {type(value).__name__}, which has no digest that says what is "
        "in it. Hand in the reference of the stage that made it, settings, or JSON values."
    )


def run_environment(recipe: DescentRecipe) -> dict[str, Any]:
    """Describe what the bits of a run depend on besides its inputs."""
    return environment(recipe.training.device, recipe.training.threads)


@cache
def engine_version(application: str | None = None) -> str:
    """Return the digest of the engine's source files: a changed engine reuses no stage.

    Args:
        application: Application whose stages it is for, see ``computing_files``.
    """
    texts = {
        name: (_ENGINE / name).read_text(encoding="utf-8") for name in computing_files(application)
    }
    return digest(texts)[:16]


def computing_files(application: str | None = None) -> list[str]:
    """Return the files that can change what a stage makes, relative to the engine's folder.

    Args:
        application: The application that declares the stage: the files of another one are nothing
            to it. Empty for a stage that all of them share. None for any stage at all, which is
            what the record of a run names.
    """
    names = (path.relative_to(_ENGINE).as_posix() for path in sorted(_ENGINE.rglob("*.py")))
    return [name for name in names if not is_apart(name) and _counts_for(name, application)]


def application_of(module: str) -> str:
    """Return the application that a module of the engine belongs to; empty for any other one."""
    parts = module.split(".")
    return parts[2] if parts[:2] == ["engine", "applications"] and len(parts) > 3 else ""


def _counts_for(name: str, application: str | None) -> bool:
    if application is None or not name.startswith("applications/"):
        return True
    return name.startswith(f"applications/{application}/")


def is_apart(name: str) -> bool:
    """Say whether a file, by its path in the engine's folder, is left out of the digest."""
    return any(name == each or (each.endswith("/") and name.startswith(each)) for each in APART)


_ENGINE = Path(__file__).parents[1]
