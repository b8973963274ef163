"""Pairs of images and captions in files: tar shards of webdataset, and Parquet, by URL.

A tar shard has members ``key.jpg`` (or png, webp) and ``key.txt``; other members are left alone. A
Parquet file has a column of images, as bytes or as URLs, and a column of captions. Files are read
in the order of their names, pairs in the order of the file. What is no whole pair is left out and
counted, and too many of these are refused.
"""

import hashlib
import logging
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import fsspec
from fsspec.core import url_to_fs

from engine.contrastive.config import ContrastiveConfig
from engine.contrastive.images import readable
from engine.errors import DataError
from engine.extras import install

IMAGES = frozenset({"jpg", "jpeg", "png", "webp"})
"""Endings of images in a tar shard."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where the bytes of an image lie in a shard."""

    shard: str
    offset: int
    size: int


@dataclass
class Found:
    """The whole pairs of some files, in order.

    Attributes:
        names: File and key of each.
        captions: As they are written, without space around them.
        digests: SHA-256 of each image's bytes.
        images: Bytes of each image; a place where they are not to be kept.
        broken: What was left out: reason to the names.
    """

    names: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    images: list[bytes | Place] = field(default_factory=list)
    broken: dict[str, list[str]] = field(default_factory=dict)

    def add(
        self, name: str, image: bytes, caption: str | bytes | None, place: Place | None
    ) -> None:
        """Take a pair, or count why not."""
        try:
            text = caption.decode() if isinstance(caption, bytes) else caption
        except UnicodeDecodeError:
            return self.leave_out(name, "with a caption that is no UTF-8")
        text = " ".join((text or "").split())
        if not text:
            return self.leave_out(name, "without a caption")
        if not image or not readable(image):
            return self.leave_out(name, "with an image that cannot be read")
        self.names.append(name)
        self.captions.append(text)
        self.digests.append(hashlib.sha256(image).digest())
        self.images.append(image if place is None else place)
        return None

    def leave_out(self, name: str, reason: str) -> None:
        """Count a pair that is none."""
        self.broken.setdefault(reason, []).append(name)

    def check(self, setting: str, url: str, most: float) -> None:
        """Refuse too many broken pairs, or none that is whole; say what was left out.

        Raises:
            DataError: With the counts, and the first name of each kind.
        """
        wrong = sum(map(len, self.broken.values()))
        total = wrong + len(self.names)
        counted = ", ".join(
            f"{len(names)} {reason} (first {names[0]})" for reason, names in self.broken.items()
        )
        if not self.names:
            raise DataError(
                f"There is no whole pair of an image and a caption under {setting}={url}"
                f"{': ' + counted if counted else ''}. A tar shard needs key.jpg (png, webp) and "
                "key.txt, a Parquet file columns of images and captions."
            )
        if wrong > most * total:
            raise DataError(
                f"{wrong} of {total} pairs under {setting}={url} cannot be used: {counted}. Repair "
                f"them, or let them be left out by contrastive.max_broken, which is {most:g}."
            )
        if wrong:
            _logger.warning("%d of %d pairs under %s are left out: %s.", wrong, total, url, counted)


def read_files(setting: str, url: str, config: ContrastiveConfig, *, keep: bool) -> Found:
    """Read all pairs of the tar shards and Parquet files in a folder.

    Args:
        setting: Name of the setting that has the URL, for messages.
        url: Folder, any fsspec URL.
        config: Columns of Parquet, and the share of broken pairs that is let pass.
        keep: Keep the images' bytes; otherwise their places, for which shards must be tar.

    Raises:
        DataError: If there are no files, one is damaged or empty, or too many pairs are broken.
    """
    filesystem, paths = list_files(setting, url)
    found = Found()
    for path in paths:
        before = len(found.names) + sum(map(len, found.broken.values()))
        if path.endswith(".tar"):
            _read_tar(filesystem, path, found, keep=keep)
        elif keep:
            _read_parquet(filesystem, path, found, config)
        else:
            raise DataError(
                f"{path} is Parquet, from which single images cannot be read, but "
                "contrastive.in_memory is false. Use tar shards, or contrastive.in_memory=true."
            )
        if len(found.names) + sum(map(len, found.broken.values())) == before:
            raise DataError(
                f"{path}, under {setting}={url}, holds no image and no caption. An empty shard is "
                "what an interrupted download leaves: load it again, or take the file away."
            )
    found.check(setting, url, config.max_broken)
    return found


def list_files(setting: str, url: str) -> tuple[Any, list[str]]:
    """Return the filesystem of a folder, and the paths of its shards and Parquet files.

    Raises:
        DataError: If it cannot be opened, or has none.
    """
    try:
        filesystem, folder = url_to_fs(url)
        listed = sorted(filesystem.ls(folder, detail=False))
    except (ValueError, ImportError) as error:
        raise DataError(
            f"{setting} is {url}, which cannot be opened ({error}). Set it to a folder, or to a "
            f"URL with a protocol that fsspec {fsspec.__version__} knows, and install the package "
            "that its protocol needs (s3fs for s3://)."
        ) from error
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise DataError(
            f"{setting} is {url}, which cannot be listed ({type(error).__name__}). Set it to a "
            "folder that holds tar shards or Parquet files."
        ) from error
    paths = [path for path in listed if path.endswith((".tar", ".parquet"))]
    if not paths:
        raise DataError(
            f"{setting} is {url}, where none of the {len(listed)} files ends in .tar or .parquet. "
            "Set it to a folder that holds tar shards or Parquet files."
        )
    return filesystem, paths


def _read_tar(filesystem: Any, path: str, found: Found, *, keep: bool) -> None:  # noqa: ANN401 (fsspec has no types)
    try:
        with filesystem.open(path, "rb") as stream, tarfile.open(fileobj=stream) as archive:
            for key, parts in _samples(archive):
                name = f"{path.rsplit('/', 1)[-1]}/{key}"
                images = [ending for ending in parts if ending in IMAGES]
                if len(images) != 1:
                    reason = "without an image" if not images else "with several images"
                    found.leave_out(name, reason)
                    continue
                image, offset = parts[images[0]]
                place = None if keep else Place(path, offset, len(image))
                found.add(name, image, parts.get("txt", (None, 0))[0], place)
            stream.seek(archive.offset)
            if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                # Without its end an archive that was cut off between two members looks whole.
                raise tarfile.ReadError("it has no end")
    except (tarfile.TarError, EOFError) as error:
        raise DataError(
            f"{path} is not an intact tar file ({error}). Load it again, or take it away."
        ) from error


def _samples(archive: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tuple[bytes, int]]]]:
    """Yield (key, ending to bytes and their offset) of members that belong together.

    As webdataset has it, these follow one another, and the ending begins at the first dot.
    """
    known: str | None = None
    parts: dict[str, tuple[bytes, int]] = {}
    for member in archive:
        if not member.isfile():
            continue
        folder, _, file = member.name.rpartition("/")
        stem, _, ending = file.partition(".")
        key = f"{folder}/{stem}" if folder else stem
        if key != known and parts and known is not None:
            yield known, parts
        if key != known:
            known, parts = key, {}
        if ending.lower() in IMAGES | {"txt"}:
            stream = archive.extractfile(member)
            content = b"" if stream is None else stream.read()
            if len(content) != member.size:
                raise tarfile.ReadError(f"{member.name} is cut off")
            parts[ending.lower()] = (content, member.offset_data)
    if parts and known is not None:
        yield known, parts


def _read_parquet(filesystem: Any, path: str, found: Found, config: ContrastiveConfig) -> None:  # noqa: ANN401 (fsspec has no types)
    if find_spec("pyarrow") is None:
        raise DataError(
            f"{path} is Parquet, but the package pyarrow is not installed. "
            f"Use tar shards, or run: {install('clip')}."
        )
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    wanted = [config.image_column, config.caption_column]
    try:
        with filesystem.open(path, "rb") as stream:
            file = parquet.ParquetFile(stream)
            missing = [name for name in wanted if name not in file.schema_arrow.names]
            if missing:
                raise DataError(
                    f"{path} has no column {missing[0]!r}, but {', '.join(file.schema_arrow.names)}"
                    ". Set contrastive.image_column and contrastive.caption_column."
                )
            rows = file.read(columns=wanted).to_pylist()
    except arrow.ArrowInvalid as error:
        raise DataError(
            f"{path} is not an intact Parquet file ({error}). Load it again, or take it away."
        ) from error
    for number, row in enumerate(rows):
        name = f"{path.rsplit('/', 1)[-1]}/{number}"
        found.add(name, _image_bytes(row[config.image_column]), row[config.caption_column], None)


def _image_bytes(value: Any) -> bytes:  # noqa: ANN401 (what a column holds)
    """Return the bytes of an image; none where there is no image, or none at its URL."""
    if isinstance(value, dict):  # as the package datasets writes images
        value = value.get("bytes") or value.get("path")
    if not isinstance(value, str):
        return value or b""
    try:
        with fsspec.open(value, "rb") as stream:
            return stream.read()  # pyright: ignore[reportAttributeAccessIssue] (one file, not several)
    except (OSError, ValueError):
        return b""
