"""Names that come from a store, checked before they become a part of a path.

A record, a claim or a listing may say anything: whoever can write to a store may have put it there.
A name that holds a separator or two dots would lead out of the store, to read or to write.
"""

from typing import Annotated

from pydantic import StringConstraints

from engine.errors import CheckpointCorruptError

KIND_PATTERN = r"^[a-z](-?[a-z])*$"
"""Small letters, and hyphens between them."""

StageKind = Annotated[str, StringConstraints(pattern=KIND_PATTERN, max_length=64)]
"""Kind of stage, e.g. ``train`` or ``seed-queries``."""

StageKey = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
"""Digest of everything that shaped a stage."""

ContentDigest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
"""Digest of what a stage made."""

AttemptName = Annotated[str, StringConstraints(pattern=r"^[0-9]{8,18}-[0-9a-f]{8}$")]
"""Name of the folder of an attempt: token and nonce, see ``engine.stages.lease``."""

_LONGEST = 255
"""Bytes of a name that every common filesystem takes."""


def is_part(name: str) -> bool:
    """Say whether a name stands for one file or folder, see ``part``."""
    inside = name not in ("", ".", "..") and not set(name) & {"/", "\\"}
    # Lone surrogates stand for bytes that are no text; they do not print either.
    return inside and name.isprintable() and len(name.encode()) <= _LONGEST


def part(name: str) -> str:
    """Return a name that stands for one file or folder, and for nothing above or below it.

    Raises:
        CheckpointCorruptError: If it is empty, ``.`` or ``..``, or holds a separator, a character
            that does not print, or more than a filesystem takes.
    """
    if not is_part(name):
        raise CheckpointCorruptError(
            f"{name[:80]!r} is no name of a file or folder, and would lead to another place. "
            "Something in the store was changed from outside: do not use this store."
        )
    return name
