"""Recipes as YAML files: finding, changing and validating them.

A recipe of any kind is read here; its ``kind`` says which model validates it.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from engine.errors import ConfigurationError, did_you_mean
from engine.recipes.descent import DescentRecipe
from engine.recipes.kinds import Models
from engine.recipes.problem_functions import CODE_IS_CONFIRMED
from engine.recipes.reading.explain import explained
from engine.recipes.reading.yaml import (
    MOST_BYTES,
    assign_all,
    parse_yaml,
    read_text,
    says_nothing,
    set_value,
)
from engine.recipes.shipped_recipes import RECIPES
from engine.recipes.shipped_recipes import shipped_names as _names
from engine.secret_urls import redacted, refuse_secrets, refuse_secrets_in

if TYPE_CHECKING:
    from engine.recipes.smoothness import MetasmoothnessRecipe

DEFAULT_RECIPE = "digits-selection"
"""The main job."""

MEASURED = "metasmoothness"
"""The kind of a recipe that measures how smooth the training of another is."""

Recipe = DescentRecipe
"""A recipe of any kind."""

_Model = TypeVar("_Model", bound=BaseModel)
_Recipe = TypeVar("_Recipe", bound=Recipe)

KINDS = Models()
"""Kind to the model that validates it, loaded when it is looked up."""


def list_recipes() -> dict[str, Recipe]:
    """Return the shipped recipes by name, validated."""
    return {name: load_recipe(name) for name in _names()}


def load_recipe(recipe: str, changes: list[str] | None = None) -> Recipe:
    """Read a recipe, apply changes and validate the whole.

    Args:
        recipe: Name of a shipped recipe, or path of a YAML file.
        changes: Assignments ``dotted.key=value``; the value is read as YAML.

    Raises:
        ConfigurationError: Names each wrong setting, its value, the reason and the remedy.
    """
    path, content = read_recipe_file(recipe, changes)
    return validate_recipe(content, str(path))


def read_recipe_file(recipe: str, changes: list[str] | None = None) -> tuple[Path, dict[Any, Any]]:
    """Return the file of a recipe and its settings with the changes; defaults are left out.

    Args:
        recipe: Name of a shipped recipe, or path of a YAML file.
        changes: Assignments ``dotted.key=value``; the value is read as YAML.

    Raises:
        ConfigurationError: If there is no such recipe, or a change is no assignment.
    """
    path = _find(recipe)
    content = _read(path)
    content.setdefault("name", path.stem)
    if path.parent != RECIPES:
        content.setdefault("folder", str(path.resolve().parent))
    assign_all(content, changes or [])
    return path, content


def _read(path: Path) -> dict[Any, Any]:
    """Return the settings of a file, not yet validated."""
    try:
        with path.open("rb") as file:  # one byte more than may be, of a file of any size
            content = parse_yaml(read_text(file.read(MOST_BYTES + 1)))
    except ConfigurationError as error:
        raise ConfigurationError(
            redacted(f"{path} is not YAML of a recipe: {error}. Correct the file.")
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"The recipe {path} cannot be read ({type(error).__name__}: {error}). Name a file that "
            "can."
        ) from error
    if not isinstance(content, dict) or says_nothing(content):
        found = "nothing" if content is None else type(content).__name__
        held = "names no setting" if isinstance(content, dict) else f"holds {found}"
        raise ConfigurationError(
            f"{path} {held}, but a recipe is a mapping of settings: it needs at least its kind, "
            f"one of {', '.join(KINDS)}, and what differs from the defaults, e.g. problem, "
            f"arguments and training. Start from one of {_shipped()}."
        )
    return content


def validate_recipe(content: dict[Any, Any], origin: str, *, stored: bool = False) -> Recipe:
    """Validate settings as a recipe of their kind.

    Args:
        content: The settings.
        origin: Where they come from, for messages.
        stored: Whether that is a store, whose code nobody has confirmed; then none is loaded.

    Raises:
        ConfigurationError: Names each wrong setting, its value, the reason and the remedy.
    """
    strange = [key for key in content if not isinstance(key, str)]
    if strange:
        raise ConfigurationError(
            f"{origin}: the key {strange[0]!r} is not a name. Settings are named by words."
        )
    kind = content.get("kind", "descent")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigurationError(
            f"{origin}: kind is {kind!r}, and no flow runs that. Use one of {', '.join(KINDS)}."
        )
    model = KINDS[kind]
    for name, value in {} if stored else content.items():
        if name != "arguments":  # whose words are looked at where the function is known
            refuse_secrets_in(value, name)
    refuse_secrets("folder", str(content.get("folder", "")), is_place=True)
    try:
        return model.model_validate(content, context={CODE_IS_CONFIRMED: not stored})
    except ValidationError as error:
        found = explained(model, error)
        raise ConfigurationError(redacted(f"{origin} cannot be run.\n{found}")) from None


def validated(model: type[_Model], **content: Any) -> _Model:  # noqa: ANN401 (settings of any type)
    """Validate settings that were given as options of a command.

    Raises:
        ConfigurationError: Names each wrong one, its value, the reason and the remedy.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        found = explained(model, error)
        raise ConfigurationError(redacted(f"Impossible settings.\n{found}")) from None


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    """Return the recipe with another ``training.seed``.

    Raises:
        ConfigurationError: If the seed is none.
    """
    content = recipe.model_dump(mode="json")
    content["training"]["seed"] = seed
    return validate_recipe(content, f"Seed {seed}")


def changes_of_shipped(recipe: Recipe) -> dict[str, Any] | None:
    """Return the settings in which a recipe differs from the shipped one of its name.

    Returns:
        Dotted key to the value; None if no recipe of that name ships.
    """
    changes = beside_shipped(recipe)
    return None if changes is None else {key: ours for key, (ours, _) in changes.items()}


def beside_shipped(recipe: Recipe) -> dict[str, tuple[Any, Any]] | None:
    """Return the settings in which a recipe differs from the shipped one of its name.

    Returns:
        Dotted key to the value here and the one that ships; None if no recipe of that name ships.
    """
    return stored_beside_shipped(recipe.model_dump(mode="json"))


def stored_beside_shipped(content: Mapping[str, Any]) -> dict[str, tuple[Any, Any]] | None:
    """Return the same as ``beside_shipped``, for a recipe read from a store.

    Args:
        content: JSON, which may be damaged: what is no setting differs from none.
    """
    name = content.get("name")
    if name not in _names():
        return None
    theirs = _settings_that_ship(name)
    if content.get("kind") == MEASURED:  # its own settings differ from what is measured unasked
        theirs = _settings_measured(name) | theirs
    return {
        key: (value, theirs[key])
        for key, value in _flat(content).items()
        if theirs.get(key, value) != value
    }


def stored_beside_each_other(contents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return, for each recipe, the settings that are not the same in all of them.

    Args:
        contents: Recipes as they lie in a store, which may be damaged.
    """
    flat = [_flat(each) for each in contents]
    keys = dict.fromkeys(key for each in flat for key in each)
    differ = [key for key in keys if any(each.get(key) != flat[0].get(key) for each in flat)]
    return [{key: each.get(key) for key in differ} for each in flat]


@cache
def _settings_that_ship(name: str) -> dict[str, Any]:
    return _flat(load_recipe(name).model_dump(mode="json"))


@cache
def _settings_measured(name: str) -> dict[str, Any]:
    return _flat(to_measure(load_recipe(name), {}, []).model_dump(mode="json"))


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        elif key not in ("description", "folder", "code"):
            flat[f"{prefix}{key}"] = value
    return flat


def to_measure(
    recipe: Recipe, settings: dict[str, Any], changes: list[str]
) -> "MetasmoothnessRecipe":
    """Return the recipe that measures the metasmoothness of a descent's or another's training.

    Args:
        recipe: Any recipe that trains.
        settings: Settings of ``smoothness`` in place of the recipe's own.
        changes: Assignments ``smoothness.key=value``.

    Raises:
        ConfigurationError: Names each wrong setting, its value, the reason and the remedy.
    """
    from engine.recipes.smoothness import (
        MetasmoothnessRecipe,
    )  # loaded only by commands that measure

    content = recipe.model_dump(mode="json", include=set(MetasmoothnessRecipe.model_fields))
    content["kind"] = MEASURED
    content["smoothness"] = content.get("smoothness", {}) | settings
    assign_all(content, changes)
    made = validate_recipe(content, f"The measurement of {recipe.name}")
    assert isinstance(made, MetasmoothnessRecipe)  # by its kind
    return made


def load_to_measure(
    recipe: str, changes: Sequence[str], settings: dict[str, Any]
) -> "MetasmoothnessRecipe":
    """Load a recipe that trains, and return the one that measures its metasmoothness.

    Args:
        recipe: Name of a shipped recipe, or path of a YAML file.
        changes: Assignments ``dotted.key=value``, of the recipe or of ``smoothness``.
        settings: Settings of ``smoothness`` in place of the recipe's own.

    Raises:
        ConfigurationError: Names each wrong setting, its value, the reason and the remedy.
    """
    own = [each for each in changes if not each.strip().startswith("smoothness.")]
    more = [each for each in changes if each.strip().startswith("smoothness.")]
    return to_measure(load_recipe(recipe, own), settings, more)


def read_seeds(text: str) -> list[int]:
    """Read seeds as a command line has them: whole numbers, separated by commas.

    Raises:
        ConfigurationError: If one is no number, or is there twice.
    """
    words = [word.strip() for word in text.split(",")]
    wrong = [word for word in words if not word.isdecimal()]
    twice = [word for word in words if words.count(word) > 1]
    if wrong or twice:
        reason = f"{wrong[0]!r} is no seed" if wrong else f"{twice[0]} is there twice"
        raise ConfigurationError(
            f"--seeds {text!r}: {reason}. Write different numbers, 0 or more, with commas: 0,1,2."
        )
    return [int(word) for word in words]


def changed(
    recipe: _Recipe, changes: Sequence[str], values: Mapping[str, Any] | None = None
) -> _Recipe:
    """Return a recipe with other settings; the same one if there are none.

    Args:
        recipe: Recipe of any kind.
        changes: Assignments ``dotted.key=value``.
        values: Dotted key to the value, for what is no text; set before the assignments.

    Raises:
        ConfigurationError: Names each wrong setting, its value, the reason and the remedy.
    """
    values = values or {}
    if not changes and not values:
        return recipe
    content = recipe.model_dump(mode="json")
    said = recipe.model_dump(mode="json", exclude_defaults=True)
    for key, value in values.items():
        set_value(content, key, value)
    assign_all(content, changes, said)
    if content.get("kind") != recipe.kind:
        raise ConfigurationError(
            f"kind={content.get('kind')!r} makes the recipe {recipe.name} one of another kind, "
            "which another flow runs. Leave kind as it is."
        )
    asked = [*(f"{key}={value}" for key, value in values.items()), *changes]
    made = validate_recipe(content, f"The recipe {recipe.name} with {', '.join(asked)}")
    assert isinstance(made, type(recipe))  # by its kind
    return made


def change_workers(recipe: Recipe, changes: list[str]) -> Recipe:
    """Return the recipe of a run with other workers, which leave it the same run.

    Args:
        recipe: The settings of the run.
        changes: Assignments ``workers.key=value``. With any, all other settings of the workers
            are the defaults.

    Raises:
        ConfigurationError: If a change is of something else, or cannot be.
    """
    content = recipe.model_dump(mode="json")
    if changes:
        del content["workers"]
    for change in changes:
        if not change.strip().startswith("workers."):
            raise ConfigurationError(
                f"--set {change!r}: a resumed run keeps its settings, except for workers. For "
                "other settings, start another run with `mgd run`; it reuses every stage that both "
                "have in common."
            )
    assign_all(content, changes)
    return validate_recipe(content, f"The recipe of {recipe.name}")


def _find(recipe: str) -> Path:
    if recipe in _names():
        return RECIPES / f"{recipe}.yaml"
    with suppress(OSError, ValueError, RuntimeError):  # no file can have such a name
        path = Path(recipe).expanduser()
        if path.is_file():
            return path
    refuse_secrets("The recipe", recipe, is_place=True)
    raise ConfigurationError(
        f"There is no recipe {recipe!r}: neither a shipped one nor a file. Use one of "
        f"{_shipped()}, or the path of a YAML file.{_suggestion(recipe)}"
    )


def _suggestion(recipe: str) -> str:
    return did_you_mean(recipe, _names())


def _shipped() -> str:
    return ", ".join(_names())
