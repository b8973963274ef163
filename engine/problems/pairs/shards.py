"""Pairs of images and captions in files: tar shards of webdataset, Parquet, or loose, by URL.

The kind of a file is told by its first bytes. A tar archive, which may be compressed, has members
``key.jpg`` and ``key.txt``; a Parquet file has a column of images and one of captions. Files are
read in the order of their names, pairs in the order of the file. Incomplete pairs are left out and
counted, and too many of them are refused. Anything else that is left out is counted and named.
"""

import io
from dataclasses import dataclass, field
from typing import Any

from engine.errors import DataError
from engine.problems.pairs.fetching import Fetching
from engine.problems.pairs.found import Found
from engine.problems.pairs.loose import Loose, list_loose, read_loose
from engine.problems.pairs.parquet import read_parquet
from engine.problems.pairs.tars import read_tar
from engine.recipes.arguments.pairs import ContrastiveSettings
from engine.storage.content import HEAD, compression, is_tar, unpacked
from engine.storage.reading import data_errors, open_data

PARQUET, TAR = "Parquet", "tar"

_PACKED_HEAD = 2**21  # a block of bzip2 is unpacked as a whole


@dataclass
class Listing:
    """The files of a folder.

    Attributes:
        file_system: Where they are.
        shards: Path to what the file is by its first bytes, in the order of the names.
        others: Names of what is no shard.
        loose: Pictures and their captions, where there is no shard.
    """

    file_system: Any
    shards: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    loose: Loose | None = None


def read_files(setting: str, url: str, settings: ContrastiveSettings, *, keep: bool) -> Found:
    """Read all pairs of the tar shards and Parquet files in a folder, or of its loose files.

    Args:
        setting: Name of the setting that has the URL, for messages.
        url: Folder, any fsspec URL.
        settings: How images are read, columns of Parquet, and the share of broken pairs that is let
            pass.
        keep: Keep the images; otherwise their places, for which shards must be tar, or files loose.

    Raises:
        DataError: If there are no files, one is damaged or empty, or too many pairs are broken.
    """
    listing = list_files(setting, url)
    found = Found(settings)
    if listing.loose is not None:
        with data_errors(f"{setting}={url}", "Correct the files."):
            read_loose(listing.loose, found, keep=keep)
        found.check(setting, url)
        return found
    protocol = url.split("://")[0] if "://" in url else ""
    for name in listing.others:
        found.pass_over(name, "files that are neither tar nor Parquet")
    fetching = Fetching(settings.fetch_images, protocol)
    for path in listing.shards:
        before = found.num_seen + sum(map(len, found.passed.values()))
        with data_errors(f"{path}, under {setting}={url},", "Load it again, or take it away."):
            _read_shard(listing, path, found, fetching, keep=keep)
        if found.num_seen + sum(map(len, found.passed.values())) == before:
            raise DataError(
                f"{path}, under {setting}={url}, holds no image and no caption. An empty shard is "
                "what an interrupted download leaves: load it again, or take the file away."
            )
    found.check(setting, url)
    return found


def _read_shard(
    listing: Listing, path: str, found: Found, fetching: Fetching, *, keep: bool
) -> None:
    """Read the pairs of one file, by what it is."""
    kind, file_system = listing.shards[path], listing.file_system
    if not keep and kind != TAR:
        raise DataError(
            f"{path} is {kind}, from which single images cannot be read, but "
            "arguments.contrastive.in_memory is false. Use tar shards that are not compressed, or "
            "arguments.contrastive.in_memory=true."
        )
    if kind not in (PARQUET, TAR):  # a compressed archive
        content = unpacked(file_system.cat_file(path), path)
        read_tar(io.BytesIO(content), path, found, keep=keep)
        return
    with file_system.open(path, "rb") as stream:
        if kind == PARQUET:
            read_parquet(stream, path, found, fetching)
        else:
            read_tar(stream, path, found, keep=keep)


def list_files(setting: str, url: str) -> Listing:
    """Return the shards and Parquet files of a folder, or its loose files, and what else is there.

    Raises:
        DataError: If it cannot be opened, or has none.
    """
    file_system, folder = open_data(f"{setting}={url}", url)
    hint = (
        "Set it to a folder that holds tar shards, Parquet files, pictures beside texts of the "
        "same name, or pictures and captions.csv."
    )
    try:
        entries = file_system.ls(folder, detail=True)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise DataError(
            f"{setting} is {url}, which cannot be listed ({type(error).__name__}). {hint}"
        ) from error
    except Exception:
        with data_errors(f"{setting}={url}", hint):
            raise
    listing = Listing(file_system)
    with data_errors(f"{setting}={url}", hint):
        for path, head in _heads(file_system, entries).items():
            kind = None if head is None else _kind(file_system, path, head)
            if kind is None:
                listing.others.append(path.rsplit("/", 1)[-1])
            else:
                listing.shards[path] = kind
    if not listing.shards:
        with data_errors(f"{setting}={url}", hint):
            listing.loose = list_loose(file_system, url)
        if not listing.loose.pictures:
            few = ", ".join(listing.others[:5])
            raise DataError(
                f"{setting} is {url}, where none of the {len(listing.others)} files ({few}) is a "
                f"tar archive or Parquet, and there are no pictures. {hint}"
            )
    return listing


def _heads(file_system: Any, entries: list[dict[str, Any]]) -> dict[str, bytes | None]:  # noqa: ANN401 (fsspec has no types)
    """Return how files begin, by path and in the order of the names; None for folders and such."""
    sizes = {
        entry["name"].rstrip("/"): None if entry["type"] == "directory" else entry["size"]
        for entry in sorted(entries, key=lambda each: each["name"])
    }
    # No range can be asked for of an empty object; hidden files are the file system's own.
    full = [
        path for path, size in sizes.items() if size and not path.rsplit("/", 1)[-1].startswith(".")
    ]
    heads = dict(zip(full, file_system.cat_ranges(full, 0, HEAD, on_error="raise"), strict=True))
    hidden = {path for path in sizes if path.rsplit("/", 1)[-1].startswith(".")}
    return {
        path: None if size is None or path in hidden else heads.get(path, b"")
        for path, size in sizes.items()
    }


def _kind(file_system: Any, path: str, head: bytes) -> str | None:  # noqa: ANN401 (fsspec has no types)
    """Return the format of a file: by its content, or by its name if damaged; None if neither."""
    name = path.lower()
    if head.startswith(b"PAR1"):
        return PARQUET
    if is_tar(head):
        return TAR
    packed = compression(head)
    if packed is not None:
        named = name.endswith((".tgz", ".tbz2", ".txz", ".tzst", ".tar")) or ".tar." in name
        return f"{packed} of a tar archive" if named or _packs_tar(file_system, path) else None
    # A file that is damaged at its head is refused by the reader that its name calls for.
    if name.endswith((".parquet", ".pq")):
        return PARQUET
    return TAR if name.endswith(".tar") else None


def _packs_tar(file_system: Any, path: str) -> bool:  # noqa: ANN401 (fsspec has no types)
    try:
        return is_tar(unpacked(file_system.cat_file(path, 0, _PACKED_HEAD), path, HEAD))
    except DataError:
        return False
