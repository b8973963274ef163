"""Pictures as bytes of red, green and blue: decoded wholly, once, or refused with a reason.

A picture is turned as its EXIF data say and cut to its middle square. Transparent parts become
white, an animation is its first frame, and 16 bits of grey are scaled to 8. Colour profiles are
ignored. Pixels of 32 bits are refused, because in most files their range is unknown.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from threading import Lock
from typing import Any

import numpy as np

from engine.errors import ConfigurationError, DataError
from engine.extras import install

MAX_BYTES = 2**28
"""Most bytes of one file of a picture or a caption."""

# Pillow knows formats that it hands to other programs, e.g. EPS, and nobody's photos are those.
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")

_ALPHA = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})

_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of TIFF

_lock = Lock()


class UnusableError(Exception):
    """A picture cannot be used; the text says why, as in "3 pairs <text>"."""


@dataclass(frozen=True, eq=False)
class DecodedPicture:
    """A picture as training sees it.

    Attributes:
        pixels: Bytes of shape (3, size, size).
        animated: Whether there are frames after this one.
    """

    pixels: np.ndarray
    animated: bool


_MAX_PIXELS = "arguments.contrastive.max_pixels"


def decode(
    content: bytes, size: int, name: str, max_pixels: int, setting: str = _MAX_PIXELS
) -> np.ndarray:
    """Return a picture as bytes of shape (3, size, size): its middle square, scaled.

    Raises:
        DataError: If it cannot be decoded.
    """
    try:
        return read_picture(content, size, max_pixels, setting).pixels
    except UnusableError as error:
        raise DataError(
            f"The image of {name} cannot be decoded ({why_unusable(error)}). Repair it, or take it "
            "away."
        ) from error


def read_picture(
    content: bytes, size: int, max_pixels: int, setting: str = _MAX_PIXELS
) -> DecodedPicture:
    """Decode a whole picture.

    Args:
        content: The file.
        size: Height and width of the result.
        max_pixels: Most pixels that it may have.
        setting: Its name in a recipe, for messages.

    Raises:
        UnusableError: If it is damaged, cut off, too large, or of a kind that is not read.
    """
    if not content:
        raise UnusableError("with an image of 0 bytes")
    pillow = _pillow()
    try:
        with _strictly(), pillow.open(io.BytesIO(content), formats=_formats()) as image:
            _check_size(image.size, max_pixels, setting)
            if image.format == "PNG":
                _verify(content)
            image.load()
            animated = bool(getattr(image, "is_animated", False))
            colours = _rgb(_turned(image), image)
            return DecodedPicture(_square(colours, size), animated)
    except UnusableError:
        raise
    except Exception as error:  # decoders raise whatever their formats make them
        raise UnusableError("with an image that cannot be read") from error


def why_unusable(error: UnusableError) -> str:
    """Return in words why a picture cannot be used, as its decoder says it."""
    reason = str(error.__cause__ or error).removeprefix("with ").rstrip(".")
    # Pillow names the memory in which the file lies.
    return "it is no picture of a known format" if "BytesIO" in reason else reason


def shown_picture(content: bytes) -> Any:  # noqa: ANN401 (an image of Pillow)
    """Return a picture whole, in its own size and in the colours that training sees."""
    with _strictly(), _pillow().open(io.BytesIO(content), formats=_formats()) as image:
        image.load()
        return _rgb(_turned(image), image)


def _check_size(size: tuple[int, int], most: int, setting: str) -> None:
    if size[0] * size[1] > most:
        raise UnusableError(f"with an image of more pixels than {setting}={most}")


def _verify(content: bytes) -> None:
    """Compare checksums, which decoding alone does not, and which leaves an image unusable."""
    with _pillow().open(io.BytesIO(content), formats=_formats()) as image:
        image.verify()


def _square(colours: Any, size: int) -> np.ndarray:  # noqa: ANN401 (an image of Pillow)
    side = min(colours.size)
    left, top = ((length - side) // 2 for length in colours.size)
    box = (left, top, left + side, top + side)
    scaled = colours.crop(box).resize((size, size), _pillow().Resampling.BICUBIC)
    return np.asarray(scaled, dtype=np.uint8).transpose(2, 0, 1)


def _turned(image: Any) -> Any:  # noqa: ANN401 (an image of Pillow)
    with suppress(Exception):  # damaged EXIF data do not make the picture unusable
        return import_module("PIL.ImageOps").exif_transpose(image)
    return image


def _rgb(image: Any, file: Any) -> Any:  # noqa: ANN401 (images of Pillow)
    """Return an image in colours.

    Args:
        image: As it is to be seen.
        file: As it was opened, with its format and its tags.
    """
    pillow = _pillow()
    if image.mode.startswith("I;16") or (image.mode == "I" and file.format in ("PNG", "PPM")):
        image = pillow.fromarray(_eight_bits(image, file))
    elif image.mode in ("I", "F"):
        raise UnusableError("with an image of 32 bits a pixel, whose range no file says")
    if image.mode in _ALPHA or "transparency" in image.info:
        seen = pillow.new("RGBA", image.size, "white")
        seen.alpha_composite(image.convert("RGBA"))
        image = seen
    return image.convert("RGB")


def _eight_bits(image: Any, file: Any) -> np.ndarray:  # noqa: ANN401 (images of Pillow)
    """Return grey values of 16 bits as 8; Pillow's conversion makes nearly all of them white."""
    values = np.asarray(image).astype(np.int64)
    tags = getattr(file, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, (16,))
    most = 2 ** int(bits[0] if isinstance(bits, tuple) else bits) - 1
    grey = (values.clip(0, most) * 255 + most // 2) // most
    if tags.get(_PHOTOMETRIC) == 0:  # zero is white
        grey = 255 - grey
    transparent = file.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return grey.astype(np.uint8)


@contextmanager
def _strictly() -> Iterator[None]:
    """Refuse what is cut off, also where a notebook has told Pillow to fill it up in grey."""
    files: Any = import_module("PIL.ImageFile")
    with _lock:
        before, files.LOAD_TRUNCATED_IMAGES = files.LOAD_TRUNCATED_IMAGES, False
        try:
            yield
        finally:
            files.LOAD_TRUNCATED_IMAGES = before


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    pillow = _pillow()
    pillow.init()
    return tuple(name for name in _FORMATS if name in pillow.OPEN)


def _pillow() -> Any:  # noqa: ANN401 (a module, by name, because it is an extra)
    if find_spec("PIL") is None:
        raise ConfigurationError(
            f"The images of problem pairs need the package pillow. Run: {install('clip')}."
        )
    return import_module("PIL.Image")
