"""Pairs of a tar shard: members ``key.jpg`` (or another picture) and ``key.txt``.

As webdataset has it, the ending of a name begins at its first dot. Members of a pair usually follow
one another, but need not: ``tar`` writes them as the folder lists them.
"""

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from engine.errors import DataError, EngineError
from engine.problems.pairs.found import DecodedImage, Found, Place
from engine.problems.pairs.pictures import MAX_BYTES
from engine.storage.transient_errors import is_transient_while_parsing

IMAGES = frozenset(
    (
        *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff"),
        *("ppm", "pgm", "jp2", "avif"),
    )
)
"""Endings of images."""

CAPTION = "txt"
"""Ending of captions."""


@dataclass
class _Sample:
    """The members of one key."""

    images: list[DecodedImage] = field(default_factory=list)
    captions: list[bytes] = field(default_factory=list)


def read_tar(stream: Any, path: str, found: Found, *, keep: bool) -> None:  # noqa: ANN401 (a file of any library)
    """Read the pairs of an archive that is not compressed.

    Args:
        stream: The archive, which can be sought in.
        path: Its path.
        found: Takes the pairs.
        keep: Keep the images; otherwise their places.

    Raises:
        DataError: If it is damaged or cut off.
    """
    file = path.rsplit("/", 1)[-1]
    with _damage_named(path), tarfile.open(fileobj=stream, mode="r:") as archive:
        waiting: dict[str, _Sample] = {}
        done: set[str] = set()
        known: str | None = None
        for member in archive:
            parts = _parts(member, file, found)
            if parts is None:
                continue
            key, ending = parts
            if key in done:
                found.pass_over(f"{file}/{member.name}", "further members of a pair already read")
                continue
            if known is not None and key != known and _is_whole(waiting[known]):
                _finish(waiting.pop(known), f"{file}/{known}", found)
                done.add(known)
                known = None
            sample, known = waiting.setdefault(key, _Sample()), key
            content = _content(archive, member)
            if ending == CAPTION:
                sample.captions.append(b"" if content is None else content)
            elif content is None:
                sample.images.append(
                    DecodedImage(None, b"", "with an image that is stored too large")
                )
            else:
                place = None if keep else Place(path, member.offset_data, member.size)
                sample.images.append(found.look(content, place))
        for key, sample in waiting.items():
            _finish(sample, f"{file}/{key}", found)
        _check_end(stream, archive.offset)


def _parts(member: tarfile.TarInfo, file: str, found: Found) -> tuple[str, str] | None:
    """Return key and ending of a member; None for one that belongs to no pair, which is counted."""
    name = f"{file}/{member.name}"
    folder, _, last = member.name.rpartition("/")
    stem, _, ending = last.partition(".")
    if member.isdir():
        return None
    if not member.isfile():
        found.pass_over(name, "links or devices")
    elif last.startswith(".") or "__MACOSX" in folder.split("/"):
        found.pass_over(name, "hidden members, as macOS adds them,")
    elif ending.lower() not in IMAGES | {CAPTION}:
        found.pass_over(name, f"members named .{ending}" if ending else "members without an ending")
    else:
        return (f"{folder}/{stem}" if folder else stem), ending.lower()
    return None


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    """Return the bytes of a member; None where they are more than a picture or a caption has."""
    if member.size > MAX_BYTES or member.issparse():
        return None
    stream = archive.extractfile(member)
    content = b"" if stream is None else stream.read()
    if len(content) != member.size:
        raise tarfile.ReadError(f"{member.name} is cut off")
    return content


def _is_whole(sample: _Sample) -> bool:
    return bool(sample.images and sample.captions)


def _finish(sample: _Sample, name: str, found: Found) -> None:
    if not sample.images:
        found.leave_out(name, "without an image")
    elif len(sample.images) > 1:
        found.leave_out(name, "with several images")
    elif len(sample.captions) > 1:
        found.leave_out(name, "with several captions")
    else:
        found.add(name, sample.images[0], sample.captions[0] if sample.captions else None)


def _check_end(stream: Any, offset: int) -> None:  # noqa: ANN401 (as read_tar)
    """Refuse an archive without its end, or with another behind it.

    Without its end an archive that was cut off between two members looks whole, and of archives
    that were put together only the first is read.
    """
    stream.seek(offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it has no end")
    while rest := stream.read(2**20):
        if rest.strip(b"\0"):
            raise tarfile.ReadError(
                "there is more behind its end, as in archives that were put together; tar "
                "--concatenate puts them together rightly"
            )


@contextmanager
def _damage_named(path: str) -> Iterator[None]:
    try:
        yield
    except EngineError:
        raise
    except Exception as error:  # tarfile raises what its parsing of numbers and names does
        if is_transient_while_parsing(error):
            raise
        reason = str(error).rstrip(".") or type(error).__name__
        raise DataError(
            f"{path} is not an intact tar file ({reason}). Load it again, or take it away."
        ) from error
