"""The pairs found in files, and what was left out of them, by name and number."""

import hashlib
import logging
from dataclasses import dataclass, field

import numpy as np

from engine.errors import DataError
from engine.problems.pairs.pictures import UnusableError, read_picture
from engine.recipes.arguments.pairs import ContrastiveSettings
from engine.secret_urls import beginning
from engine.storage.content import decoded

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where the bytes of an image lie in a shard."""

    shard: str
    offset: int
    size: int


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """An image that was decoded once.

    Attributes:
        held: Its pixels, or its place where they are not to be kept.
        digest: SHA-256 of its bytes.
        fault: Why it cannot be used; empty if it can.
        animated: Whether it has more frames than the one that counts.
    """

    held: np.ndarray | Place | None
    digest: bytes
    fault: str = ""
    animated: bool = False


@dataclass
class Found:
    """The whole pairs of some files, in order.

    Attributes:
        settings: How images are read, and how many broken pairs are let pass.
        names: File and key of each.
        captions: As they are written, without space around them.
        digests: SHA-256 of each image's bytes.
        images: Pixels of each image; a place where they are not to be kept.
        broken: Pairs that were left out: reason to the names.
        passed: What is no part of a pair and was left out: kind to the names.
        remarks: What was decided about pairs that are in: remark to the names.
    """

    settings: ContrastiveSettings
    names: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    images: list[np.ndarray | Place] = field(default_factory=list)
    broken: dict[str, list[str]] = field(default_factory=dict)
    passed: dict[str, list[str]] = field(default_factory=dict)
    remarks: dict[str, list[str]] = field(default_factory=dict)

    @property
    def num_seen(self) -> int:
        """Pairs that were found, whole or broken."""
        return len(self.names) + sum(map(len, self.broken.values()))

    def look(self, image: bytes, place: Place | None) -> DecodedImage:
        """Decode an image, to know now whether that will be possible later."""
        digest = hashlib.sha256(image).digest()
        try:
            picture = read_picture(image, self.settings.image_size, self.settings.max_pixels)
        except UnusableError as error:
            return DecodedImage(None, digest, str(error))
        held = picture.pixels if place is None else place
        return DecodedImage(held, digest, animated=picture.animated)

    def add(self, name: str, look: DecodedImage, caption: str | bytes | None) -> None:
        """Add a pair, or count why it is left out."""
        name = _writable(name)
        try:
            text = decoded(caption, name) if isinstance(caption, bytes) else caption or ""
        except DataError:
            return self.leave_out(name, "with a caption that is no UTF-8")
        text = " ".join(text.removeprefix("\ufeff").split())
        if not text:
            return self.leave_out(name, "without a caption")
        if look.fault or look.held is None:
            return self.leave_out(name, look.fault)
        if look.animated:
            self.remark(name, "animated, of which the first frame counts")
        self.names.append(name)
        self.captions.append(text)
        self.digests.append(look.digest)
        self.images.append(look.held)
        return None

    def leave_out(self, name: str, reason: str) -> None:
        """Count a pair that is left out."""
        self.broken.setdefault(reason, []).append(_writable(name))

    def pass_over(self, name: str, kind: str) -> None:
        """Count a file or member that belongs to no pair."""
        self.passed.setdefault(kind, []).append(_writable(name))

    def remark(self, name: str, remark: str) -> None:
        """Count a pair that was changed or interpreted, with a remark."""
        self.remarks.setdefault(remark, []).append(_writable(name))

    def check(self, setting: str, url: str) -> None:
        """Refuse too many broken pairs, or none that is whole; say what was left out.

        Raises:
            DataError: If it is refused; names the counts, and the first name of each kind.
        """
        wrong, total, most = (
            self.num_seen - len(self.names),
            self.num_seen,
            self.settings.max_broken,
        )
        counted, passed = _counted(self.broken), _counted(self.passed)
        beside = f" Beside the pairs: {passed}." if passed else ""
        if not self.names:
            raise DataError(
                f"There is no whole pair of an image and a caption under {setting}={url}"
                f"{': ' + counted if counted else ''}. A tar shard needs key.jpg (png, webp) and "
                "key.txt, a Parquet file columns of images and captions, a folder "
                f"without these a.jpg beside a.txt, or captions.csv.{beside}"
            )
        if wrong > most * total:
            raise DataError(
                f"{wrong} of {total} pairs under {setting}={url} cannot be used: {counted}. Repair "
                "them, or let them be left out by arguments.contrastive.max_broken, which is "
                f"{most:g}."
                f"{beside}"
            )
        if wrong:
            _logger.warning("%d of %d pairs under %s are left out: %s.", wrong, total, url, counted)
        if passed:
            _logger.warning("Left out under %s, being no part of a pair: %s.", url, passed)
        if self.remarks:
            _logger.warning("Of the pairs under %s: %s.", url, _counted(self.remarks))


_KINDS, _NAME = 8, 200
"""Kinds that are named, those with most names first, and letters of a name."""


def _counted(kinds: dict[str, list[str]]) -> str:
    often = sorted(kinds.items(), key=lambda kind: -len(kind[1]))
    named = [
        f"{len(names)} {beginning(kind, _NAME)} (first {beginning(names[0], _NAME)})"
        for kind, names in often[:_KINDS]
    ]
    more = sum(len(names) for _, names in often[_KINDS:])
    return ", ".join([*named, *([f"{more} of other kinds"] if more else [])])


def _writable(name: str) -> str:
    """Return a name that can be written as UTF-8; tar archives hold names of any bytes."""
    return name.encode(errors="surrogateescape").decode(errors="replace")
