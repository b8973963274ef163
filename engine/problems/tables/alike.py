"""Words that look the same to people and are different ones: spaces at an end, forms of Unicode."""

import unicodedata
from collections.abc import Iterable

from engine.errors import DataError


def looking_alike(words: Iterable[str]) -> tuple[str, str] | None:
    """Return two different words that look the same, the first by order; None without any."""
    seen: dict[str, str] = {}
    for word in sorted(set(words)):
        other = seen.setdefault(_visible_text(word), word)
        if other != word:
            return other, word
    return None


def _visible_text(word: str) -> str:
    """Return a word as people see it: without spaces at its ends, and without signs of no width."""
    shown = "".join(
        each for each in unicodedata.normalize("NFC", word) if unicodedata.category(each) != "Cf"
    )
    return " ".join(shown.split()) or word


def refuse_alike(classes: Iterable[str], name: str) -> None:
    """Refuse classes that nobody can tell apart, which would be learned as different ones.

    Args:
        classes: What they are called.
        name: Of the column.

    Raises:
        DataError: With the two.
    """
    found = looking_alike(classes)
    if found is not None:
        raise DataError(
            f"The column {name!r} of the labels has {ascii(found[0])} and {ascii(found[1])}, which "
            "look the same, by a space at an end or another form of Unicode, and would be two "
            "classes. Write them alike."
        )


def told_alike(words: Iterable[str], what: str) -> list[str]:
    """Say that there are words that look the same, if there are."""
    found = looking_alike(words)
    if found is None:
        return []
    return [
        f"{what} has {ascii(found[0])} and {ascii(found[1])}, which look the same and are read as "
        "two words."
    ]
