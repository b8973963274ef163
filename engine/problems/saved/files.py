"""The files of a data set of the package ``datasets``, before its library reads them.

The library follows links, unpacks archives into its cache, and writes what a server lists to where
the listing says. Whoever has packed a data set may have packed any of that into it.
"""

import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.errors import CheckpointCorruptError, DataError
from engine.problems.data.bounded import check_size
from engine.problems.pairs.tars import IMAGES
from engine.problems.saved.arrow_sizes import unpacked_bytes
from engine.secret_urls import beginning
from engine.storage.content import HEAD, compression, unpacked_pieces
from engine.storage.listing import list_data
from engine.storage.location import is_local, join
from engine.storage.reading import data_errors, open_data

_ARCHIVE = b"PK\x03\x04"

_LARGE = 2**28
"""Bytes of a packed file that is not unpacked before the library does that: whoever sends so much
to fill a disk may as well send the disk."""

_DEEPEST = 3
"""Folders in one another of a saved data set, and one more."""

_kept: list[tempfile.TemporaryDirectory[str]] = []
"""Copies of data sets from elsewhere, which are mapped into memory until this process ends."""


def on_this_machine(source: str) -> str:
    """Return a saved data set as a folder of this machine: a copy, if it is somewhere else.

    Args:
        source: Path or fsspec URL of the folder.

    Raises:
        DataError: If it cannot be read, or a listing names a file that would be written elsewhere.
        StoreError: If there was no answer, which may pass.
    """
    what, hint = f"The data set {source}", "Correct arguments.source."
    file_system, path = open_data(what, source)
    if is_local(file_system):
        return path
    folder = tempfile.TemporaryDirectory(prefix="mgd-data-")
    _kept.append(folder)
    with data_errors(what, hint):
        root = path.rstrip("/") + "/"
        found: Any = file_system.find(path, maxdepth=_DEEPEST)
        try:
            places = {file: join(folder.name, file.removeprefix(root)) for file in found}
        except CheckpointCorruptError as error:
            raise DataError(
                f"{what} lists a file that would be written to another place: {error}"
            ) from error
        for file, place in places.items():
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            file_system.get_file(file, place)
    return folder.name


def refuse_files(source: Path) -> None:
    """Refuse files that lead out of their folder, or unpack to far more than honest ones do.

    Args:
        source: A folder or a file.

    Raises:
        DataError: Names the first one.
    """
    for path in _files(source) if source.is_dir() else [source]:
        with path.open("rb") as stream:
            head = stream.read(HEAD)
            size = path.stat().st_size
            check_size(unpacked_bytes(path), size, str(path))
            if head.startswith(_ARCHIVE):
                check_size(_unzipped(path), size, str(path))
            elif compression(head) is not None and size < _LARGE:
                stream.seek(0)
                _refuse_bomb(stream.read(), path)


def _files(folder: Path) -> Iterator[Path]:
    data = list_data(str(folder))
    for path in sorted(data.linked):
        is_picture = path.rpartition(".")[2].lower() in IMAGES
        if not is_picture and not _is_of_hub(folder, Path(path)):
            raise DataError(
                f"{beginning(path, 200)} is a link out of the folder of the data set, and what it "
                "leads to would be shown to whoever reads the report. Put the file itself there, "
                "or name it in arguments.source."
            )
    yield from (Path(each.path) for each in data.files)


def _is_of_hub(folder: Path, path: Path) -> bool:
    """Say whether a link is one of those that the Hub's own cache consists of."""
    above = [each for each in (folder, *folder.parents) if each.parent.name == "snapshots"]
    return any(path.resolve().is_relative_to(each.parent.parent / "blobs") for each in above)


def _unzipped(path: Path) -> int:
    """Return the bytes of all files of a ZIP archive, more than which no reader takes out of it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(each.file_size for each in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(f"{path} is no intact ZIP archive ({error}). Copy it anew.") from error


def _refuse_bomb(content: bytes, path: Path) -> None:
    size = 0
    for piece in unpacked_pieces(content, str(path)):
        size += len(piece)
        check_size(size, len(content), str(path))
