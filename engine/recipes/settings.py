"""The base of all settings, and the digest that names them. This module does not know torch."""

import ast
import hashlib
import json
import sys
from collections.abc import Mapping
from functools import cache
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)


def digest(content: Any) -> str:  # noqa: ANN401 (any JSON value)
    """Return 64 hex digits that identify a JSON value, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def with_setting(content: dict[str, Any], key: str, value: Any) -> dict[str, Any]:  # noqa: ANN401 (any JSON value)
    """Return settings in which one is another, named by dots: ``arguments.model.width``.

    Raises:
        ValueError: If a part of the name is a single setting.
    """
    first, _, rest = key.partition(".")
    if not rest:
        return {**content, first: value}
    inner = content.get(first, {})
    if not isinstance(inner, dict):
        raise ValueError(f"{first!r} of {key!r} is a single setting, not a group of settings")  # noqa: TRY004 (pydantic takes it for a refusal)
    return {**content, first: with_setting(inner, rest, value)}


class _Described(ModelMetaclass):
    """Makes the text under a setting its description.

    So does ``use_attribute_docstrings`` of pydantic, which looks for the source of each class by
    itself, and so reads a file as often as it has classes: a third of what it takes to refuse a
    wrong setting.
    """

    def __new__(
        cls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        **options: Any,  # noqa: ANN401 (pydantic's own)
    ) -> type:
        """Make a class of settings."""
        texts = _texts(namespace.get("__module__", "")).get(namespace.get("__qualname__", ""), {})
        own = namespace.get("__annotations__", {})
        described = {
            each: Annotated[own[each], Field(description=text)]
            for each, text in texts.items()
            if each in own
        }
        namespace["__annotations__"] = {**own, **described}
        made = super().__new__(cls, name, bases, namespace, **options)
        if made.__pydantic_complete__:  # else pydantic reads them once more
            made.__annotations__ = own  # what people and the reference of the library are shown
        return made


@cache
def _texts(module: str) -> dict[str, dict[str, str]]:
    """Return the texts under the settings of each class of a module, by their names."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or not file.endswith(".py"):
        return {}
    classes = [
        each for each in ast.parse(Path(file).read_bytes()).body if isinstance(each, ast.ClassDef)
    ]
    return {each.name: _under(each) for each in classes}


def _under(defined: ast.ClassDef) -> dict[str, str]:
    found: dict[str, str] = {}
    for one, after in zip(defined.body, defined.body[1:], strict=False):
        if not (isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found[one.target.id] = cleandoc(str(after.value.value))
    return found


class Document(BaseModel, metaclass=_Described):
    """Base of all that is written as JSON: frozen, and an unknown key is refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        protected_namespaces=(),  # an argument may be called model_name
    )

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth_for_a_number(cls, value: Any, info: Any) -> Any:  # noqa: ANN401 (any input)
        """Refuse what Python would read as 0 or 1: a slip, e.g. of ``training.num_steps=yes``."""
        annotation = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and bool not in (annotation, *get_args(annotation)):
            if annotation is Any:
                return value
            raise ValueError(f"{str(value).lower()} is neither a number nor a name")
        return value


class Settings(Document):
    """Base of what people set: a recipe, its groups, and the arguments of a problem."""


def refuse_unread(
    given: Settings, choice: str, reads: Mapping[Any, frozenset[str]], group: str = ""
) -> None:
    """Refuse a setting that was changed although what was chosen does not read it.

    Args:
        given: The settings.
        choice: Name of the setting that chooses.
        reads: What each choice reads. A setting that none of them names is read by all.
        group: What the names of the settings begin with in messages, ``training.`` for example.

    Raises:
        ValueError: Names the choices that read it.
    """
    chosen, fields = getattr(given, choice), type(given).model_fields
    for name in sorted(frozenset[str]().union(*reads.values())):
        value, readers = getattr(given, name), [each for each in reads if name in reads[each]]
        if chosen not in readers and value != fields[name].default:
            raise ValueError(
                f"{group}{name} is {value}, but {group}{choice} is {chosen.value}, which does not "
                f"read it. Use {' or '.join(sorted(readers))}, or leave it out."
            )
