"""YAML of recipes, and assignments to their settings.

Strict where YAML lets a slip pass, and bounded where it lets a file explode.

Words are those of YAML 1.2: ``no``, ``on`` and ``2024-01-01`` are texts, ``1e-3`` is a number, and
``010`` and ``1:30``, which older readers take for 8 and 90, are refused or texts. A key that stands
twice in one group is refused, since the first one would be lost without a word.
"""

import codecs
import logging
import re
from collections.abc import Hashable, Iterable
from functools import cache
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from engine.errors import ConfigurationError
from engine.secret_urls import redacted

logger = logging.getLogger(__name__)

_UNWRITABLE = re.compile("[\\x00\\ud800-\\udfff]")

MOST_BYTES = 2**20
MOST_VALUES = 100_000
"""Values of a file, with those that its anchors repeat."""

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class _UnfitError(Exception):
    """YAML that is no recipe; the text says why."""


class _Loader(yaml.SafeLoader):
    """Reads YAML's own types and nothing that runs."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:  # noqa: ANN401 (a number, a node or nothing)
        """Compose a node, and refuse a mapping that names a key twice."""
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.MappingNode):
            _refuse_twice(node)
        return node


def _refuse_twice(node: yaml.MappingNode) -> None:
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _UnfitError(f"a key on line {key.start_mark.line + 1} is no name")
        name, line = (key.tag, key.value), key.start_mark.line + 1
        if name in lines:
            where = f"lines {lines[name]} and {line}" if lines[name] != line else f"line {line}"
            raise _UnfitError(
                f"the key {key.value!r} stands twice in one group, on {where}, and one of the two "
                "would be ignored; join them"
            )
        lines[name] = line


def _resolve(tag: str, pattern: str, first: str) -> None:
    expression = re.compile(rf"^(?:{pattern})$")
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", expression, list(first))


_resolve("bool", "true|True|TRUE|false|False|FALSE", "tTfF")
_resolve("null", "~|null|Null|NULL|", "~nN\0")
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^$"), [""])
_resolve("int", r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789")
_resolve(
    "float",
    r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "-+0123456789.",
)
_resolve("merge", "<<", "<")


def _whole(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node)).replace("_", "")
    digits = text.lstrip("+-")
    if len(digits) > 100:
        raise _UnfitError(
            f"the number {text[:20]}... on line {node.start_mark.line + 1} is too long"
        )
    if digits.startswith("0") and digits.strip("0") and digits.isdecimal():
        raise _UnfitError(
            f"the number {text} on line {node.start_mark.line + 1} begins with 0, which some take "
            f"for the base 8; write {digits.lstrip('0')}"
        )
    return int(text, 0 if digits[:2].lower() in ("0x", "0o") else 10)


def _number(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node)).replace("_", "").lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    text = str(loader.construct_scalar(node))
    if _UNWRITABLE.search(text):
        raise _UnfitError(
            f"the text on line {node.start_mark.line + 1} holds half of a surrogate pair or a NUL "
            "character, which cannot be stored in reports and databases"
        )
    return text


_Loader.add_constructor("tag:yaml.org,2002:str", _text)
_Loader.add_constructor("tag:yaml.org,2002:int", _whole)
_Loader.add_constructor("tag:yaml.org,2002:float", _number)


def parse_yaml(text: str) -> Any:  # noqa: ANN401 (a value of YAML)
    """Return the value of a YAML text.

    Raises:
        ConfigurationError: If it is refused; names the reason, in words that follow a colon.
    """
    try:
        return _construct(text)
    except _UnfitError as error:
        raise ConfigurationError(str(error)) from error
    except RecursionError as error:
        raise ConfigurationError("its values are nested too deeply") from error
    except ComposerError as error:
        several = "single document" in str(error)
        reason = "it holds several documents, divided by ---; keep one" if several else f"{error}"
        raise ConfigurationError(reason) from error
    except ConstructorError as error:
        raise ConfigurationError(f"{error.problem or error}; a recipe has no tags") from error
    except yaml.YAMLError as error:
        tabs = ". Indent by spaces, never by tabs" if "'\\t'" in str(error) else ""
        raise ConfigurationError(f"{_place_of(error)}{tabs}") from error
    except (ValueError, OverflowError, KeyError, TypeError, AttributeError) as error:
        # What PyYAML's makers of values raise where a tag promises another one.
        raise ConfigurationError(f"a value cannot be read ({error})") from error


def _place_of(error: yaml.YAMLError) -> str:
    """Return the fault of a text, with its line and column."""
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    if mark is None:
        return str(error)
    what = getattr(error, "problem", None) or getattr(error, "context", None) or "it ends there"
    return f"line {mark.line + 1}, column {mark.column + 1}: {what}"


def _construct(text: str) -> Any:  # noqa: ANN401 (a value of YAML)
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {}, set())
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _count(node: yaml.Node, sizes: dict[int, int], above: set[int]) -> int:
    """Return how many values a node stands for, each alias counted as what it repeats."""
    if id(node) in above:
        raise _UnfitError(f"the anchor on line {node.start_mark.line + 1} holds itself")
    if id(node) in sizes:
        return sizes[id(node)]
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        inner = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        inner = node.value
    above.add(id(node))
    size = 1 + sum(_count(part, sizes, above) for part in inner)
    above.discard(id(node))
    if size > MOST_VALUES:
        raise _UnfitError(f"it stands for more than {MOST_VALUES} values, which no recipe has")
    sizes[id(node)] = size
    return size


def read_text(content: bytes) -> str:
    """Return the text of a recipe: in UTF-8, or as its mark of byte order says.

    Raises:
        ConfigurationError: If it is refused; names the reason, in words that follow a colon.
    """
    if len(content) > MOST_BYTES:
        raise ConfigurationError(f"it has more than {MOST_BYTES} bytes, which no recipe has")
    encoding = next((name for mark, name in _BOMS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(
            f"byte {error.start}, on line {line}, is not valid {encoding.upper()}; convert it, "
            "e.g. with iconv"
        ) from error


def says_nothing(content: dict[Hashable, Any]) -> bool:
    """Say whether settings name nothing that could be run."""
    return all(
        key in ("name", "description") or value is None or value in ({}, [], "")
        for key, value in content.items()
    )


def refuse_repeated(changes: Iterable[str]) -> None:
    """Refuse an assignment of what one before it has set: that one would be lost without a word.

    Args:
        changes: Assignments ``dotted.key=value`` that one person has written at once.

    Raises:
        ConfigurationError: Repeats both.
    """
    seen: dict[str, str] = {}
    for change in changes:
        key = change.partition("=")[0].strip()
        for other in seen:
            if f"{other}.".startswith(f"{key}."):  # the same one, or the group that it is in
                raise ConfigurationError(
                    redacted(f"{other} is set twice, by {seen[other]!r} and {change!r}. ")
                    + "Leave out the one that is not meant."
                )
        seen[key] = change


def assign_all(
    content: dict[Any, Any], changes: Iterable[str], said: dict[Any, Any] | None = None
) -> None:
    """Carry out assignments in their order; the last one of a setting wins. See ``assign``.

    Raises:
        ConfigurationError: If one is no assignment.
    """
    for change in changes:
        assign(content, change, said)


def assign(content: dict[Any, Any], change: str, said: dict[Any, Any] | None = None) -> None:
    """Carry out an assignment, and tell what a mapping takes away of the group that it replaces.

    Args:
        content: The settings that are changed.
        change: Assignment ``dotted.key=value``.
        said: What of these settings a user has set; all of them if not given.

    Raises:
        ConfigurationError: If it is no assignment.
    """
    key, separator, text = change.partition("=")
    if not separator or not key.strip():
        raise ConfigurationError(
            redacted(f"--set {change!r} is not an assignment. Write it as dotted.key=value, ")
            + "e.g. --set outer.num_steps=3."
        )
    try:
        value = parse_yaml(text)
    except ConfigurationError as error:
        raise ConfigurationError(
            redacted(f"--set {change!r}: the value is not YAML ({error}). Quote it.")
        ) from error
    lost = _lost(content if said is None else said, key.strip(), value)
    set_value(content, key.strip(), value)
    if lost:
        _tell(key.strip(), tuple(lost), next(iter(value), lost[0]))


@cache
def _tell(key: str, lost: tuple[str, ...], first: str) -> None:
    """Tell it once, since some commands read a recipe twice; a value may be a secret."""
    logger.warning(
        "--set %s={...} replaces all of %s, so %s of the recipe %s back at the default. To change "
        "one setting of it say --set %s.%s=...",
        *(key, key, ", ".join(lost), "is" if len(lost) == 1 else "are", key, first),
    )


def _lost(content: dict[Any, Any], key: str, value: Any) -> list[str]:  # noqa: ANN401 (any setting)
    """Return the settings of a group that a mapping in its place does not have.

    One with another name is another thing, of which nobody expects the settings of the first.
    """
    group: Any = content
    for part in key.split("."):
        group = group.get(part) if isinstance(group, dict) else None
    if not isinstance(group, dict) or not isinstance(value, dict):
        return []
    if value.get("name", group.get("name")) != group.get("name"):
        return []
    return [str(each) for each in group if each not in value]


def set_value(content: dict[Any, Any], key: str, value: Any) -> None:  # noqa: ANN401 (any setting)
    """Set a setting by its dotted key; groups on the way are made.

    Raises:
        ConfigurationError: If something on the way is no group.
    """
    *parents, last = key.split(".")
    place = content
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise ConfigurationError(
                f"--set {key}=...: {parent!r} is a single setting, not a group of settings. "
                "See the recipe for the names."
            )
    place[last] = value
