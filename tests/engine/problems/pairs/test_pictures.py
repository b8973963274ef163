"""Pictures of every kind are seen as people see them, or refused with a reason."""

import io
import struct
import zlib

import numpy as np
import pytest

from engine.errors import DataError
from engine.problems.pairs.pictures import UnusableError, decode, read_picture

pillow = pytest.importorskip("PIL.Image", reason="images need the extra clip")
SIZE = 8


def encoded(image, form="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def seen(content, most=2**20):
    return read_picture(content, SIZE, most).pixels


def plain(value, mode="RGB"):
    return pillow.new(mode, (16, 16), value)


def grey16(value, form="PNG"):
    return encoded(pillow.fromarray(np.full((16, 16), value, dtype=np.uint16)), form)


def tiff16(value, **tags):
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    info = ImageFileDirectory_v2()
    for tag, entry in tags.items():
        info[int(tag[1:])] = entry
    return encoded(
        pillow.fromarray(np.full((16, 16), value, dtype=np.uint16)), "TIFF", tiffinfo=info
    )


def palette(**options):
    image = plain(1, "P")
    image.putpalette([255, 0, 0, 0, 255, 0] + [0] * 750)
    return encoded(image, **options)


KINDS = {
    "rgb": (encoded(plain((200, 100, 50))), (200, 100, 50)),
    "grey": (encoded(plain(90, "L")), (90, 90, 90)),
    "one bit": (encoded(plain(1, "1")), (255, 255, 255)),
    "palette": (palette(), (0, 255, 0)),
    "palette, this colour transparent": (palette(transparency=1), (255, 255, 255)),
    "palette, another one transparent": (palette(transparency=0), (0, 255, 0)),
    "rgb, transparent": (encoded(plain((9, 9, 9, 0), "RGBA")), (255, 255, 255)),
    "rgb, half transparent": (encoded(plain((0, 0, 0, 128), "RGBA")), (127, 127, 127)),
    "rgb, opaque": (encoded(plain((1, 2, 3, 255), "RGBA")), (1, 2, 3)),
    "grey, transparent": (encoded(plain((9, 0), "LA")), (255, 255, 255)),
    "a colour transparent": (encoded(plain((1, 2, 3)), transparency=(1, 2, 3)), (255, 255, 255)),
    "webp, transparent": (encoded(plain((9, 9, 9, 0), "RGBA"), "WEBP", lossless=True), (255,) * 3),
    "cmyk": (encoded(plain((0, 255, 255, 0), "CMYK"), "JPEG", quality=100), (255, 0, 0)),
    "16 bits, black": (grey16(0), (0, 0, 0)),
    "16 bits, dark": (grey16(257 * 10), (10, 10, 10)),
    "16 bits, middle": (grey16(32768), (128, 128, 128)),
    "16 bits, white": (grey16(65535), (255, 255, 255)),
    "16 bits, tiff": (tiff16(257 * 40), (40, 40, 40)),
    "16 bits, zero is white": (tiff16(257 * 40, t262=0), (215, 215, 215)),
    "16 bits, pgm": (b"P5 16 16 65535\n" + struct.pack(">256H", *[257 * 77] * 256), (77, 77, 77)),
    "pgm of 4095": (b"P5 16 16 4095\n" + struct.pack(">256H", *[2048] * 256), (128, 128, 128)),
    "bmp": (encoded(plain((5, 6, 7)), "BMP"), (5, 6, 7)),
    "gif": (encoded(plain((255, 0, 0)), "GIF"), (255, 0, 0)),
}


@pytest.mark.parametrize(("content", "colour"), KINDS.values(), ids=KINDS)
def test_a_picture_has_the_colours_that_people_see(content, colour):
    """A picture of 16 bits that turns white is another picture under the same caption."""
    found = seen(content)

    assert found.shape == (3, SIZE, SIZE)
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - np.array(colour)[:, None, None]).max() <= 1


def test_a_picture_is_turned_as_its_exif_data_say():
    """Cameras store what they saw sideways, and say so; viewers turn it, and so does this."""
    upper = plain((0, 0, 0))
    upper.paste((255, 255, 255), (0, 0, 16, 8))
    exif = pillow.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: what is above comes to the right
    content = encoded(upper, "JPEG", exif=exif, quality=100)

    found = seen(content)

    assert found[0, :, -1].min() > 240
    assert found[0, :, 0].max() < 15


def test_damaged_exif_data_do_not_make_a_picture_unusable():
    """Many photos of the web have them, and every viewer shows the picture."""
    content = encoded(plain((200, 100, 50)), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" * 3)

    assert seen(content).shape == (3, SIZE, SIZE)


def test_of_an_animation_the_first_frame_counts():
    """A caption describes what a page showed first; that there was more is remembered."""
    frames = [plain((255, 0, 0)), plain((0, 0, 255))]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])

    found = read_picture(content, SIZE, 2**20)

    assert found.animated
    assert found.pixels[0].min() > 250
    assert not read_picture(encoded(plain((1, 2, 3))), SIZE, 2**20).animated


def noise(form, **options):
    drawn = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return encoded(pillow.fromarray(drawn), form, **options)


def bomb(side):
    """A PNG of a kilobyte or so, with as many pixels as it is asked for."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    row = zlib.compress(b"\0" * ((side + 1) * 64), 9)
    heading = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", heading) + chunk(b"IDAT", row) + chunk(b"IEND", b"")
    )


REFUSED = {
    "nothing": (b"", "0 bytes"),
    "no picture": (b"no picture", "cannot be read"),
    "half a JPEG": (noise("JPEG")[:3000], "cannot be read"),
    "nine tenths of a JPEG": (noise("JPEG")[: len(noise("JPEG")) * 9 // 10], "cannot be read"),
    "half a PNG": (noise("PNG")[:6000], "cannot be read"),
    "half a WebP": (noise("WEBP")[:1000], "cannot be read"),
    "half a TIFF": (noise("TIFF")[:6000], "cannot be read"),
    "a flipped bit in a PNG": (
        noise("PNG")[:5000] + bytes([noise("PNG")[5000] ^ 4]) + noise("PNG")[5001:],
        "cannot be read",
    ),
    "32 bits": (
        encoded(pillow.fromarray(np.ones((9, 9), dtype=np.int32)), "TIFF"),
        "32 bits a pixel",
    ),
    "floats": (
        encoded(pillow.fromarray(np.ones((9, 9), dtype=np.float32)), "TIFF"),
        "32 bits a pixel",
    ),
    "too many pixels": (bomb(5000), "more pixels than arguments.contrastive.max_pixels=1048576"),
    "far too many pixels": (bomb(20000), "(more pixels|cannot be read)"),
    "EPS, which runs a program": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        "cannot be read",
    ),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("content", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_picture_that_cannot_be_used_is_refused_when_it_is_read(content, reason):
    """In the middle of a training it is too late, and grey in place of its lower half is worse."""
    with pytest.raises(UnusableError, match=reason):
        seen(content)
    with pytest.raises(DataError, match="The image of 0.tar/x cannot be decoded"):
        decode(content, SIZE, "0.tar/x", 2**20)


def test_what_a_notebook_told_pillow_does_not_let_cut_off_pictures_pass(monkeypatch):
    """LOAD_TRUNCATED_IMAGES fills what is missing with grey, for the whole process."""
    files = pytest.importorskip("PIL.ImageFile")
    monkeypatch.setattr(files, "LOAD_TRUNCATED_IMAGES", True)

    with pytest.raises(UnusableError):
        seen(noise("JPEG")[:3000])

    assert files.LOAD_TRUNCATED_IMAGES
