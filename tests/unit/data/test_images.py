"""Every colour mode becomes upright RGB that looks like the picture."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dreambooth_resume.data.images import UnreadableImageError, decode_rgb, frames_in


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    body = io.BytesIO()
    image.save(body, kind, **options)
    return body.getvalue()


def pixel(body: bytes, at: tuple[int, int] = (0, 0)) -> Any:
    image = decode_rgb(body)
    assert image.mode == "RGB"
    return image.getpixel(at)


def with_alpha(image: Image.Image, alpha: int) -> Image.Image:
    image.putalpha(alpha)
    return image


def palette_with_hole() -> bytes:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    return encoded(image, transparency=0)


def test_rgb_is_left_as_it_is() -> None:
    assert pixel(encoded(Image.new("RGB", (2, 2), (10, 20, 30)))) == (10, 20, 30)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_opaque_alpha_changes_nothing(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    assert pixel(encoded(Image.new("RGBA", (2, 2), (10, 20, 30, 255)), kind, **options)) == (10, 20, 30)


def test_transparency_becomes_white_whatever_colour_is_hidden_there() -> None:
    assert pixel(encoded(Image.new("RGBA", (2, 2), (200, 0, 0, 0)))) == (255, 255, 255)
    assert pixel(encoded(with_alpha(Image.new("L", (2, 2), 0), 0))) == (255, 255, 255)
    half = pixel(encoded(Image.new("RGBA", (2, 2), (0, 0, 0, 128))))
    assert half == (127, 127, 127)


def test_palette_keeps_its_colours_and_its_holes_become_white() -> None:
    assert pixel(palette_with_hole(), (0, 0)) == (255, 255, 255)
    assert pixel(palette_with_hole(), (1, 0)) == (0, 0, 255)
    assert pixel(encoded(Image.new("RGB", (4, 4), (0, 255, 0)), "GIF")) == (0, 255, 0)


@pytest.mark.parametrize(("mode", "value", "expected"), [("L", 77, 77), ("1", 1, 255)])
def test_greyscale_is_the_same_in_all_three_channels(mode: str, value: int, expected: int) -> None:
    assert pixel(encoded(Image.new(mode, (2, 2), value))) == (expected,) * 3


def test_cmyk_keeps_its_colour() -> None:
    red, green, blue = pixel(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95))
    assert red > 240
    assert green < 15
    assert blue < 15


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_not_cut_off(kind: str) -> None:
    values = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    image = decode_rgb(encoded(Image.fromarray(values), kind))
    assert [image.getpixel((x, 0)) for x in range(4)] == [(0,) * 3, (1,) * 3, (128,) * 3, (255,) * 3]


@pytest.mark.parametrize("values", [np.array([[0.5]], dtype=np.float32), np.array([[70_000]], dtype=np.int32)])
def test_brightness_of_unknown_range_is_refused(values: Any) -> None:
    with pytest.raises(UnreadableImageError, match="8 or 16 bits"):
        decode_rgb(encoded(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = Image.new("RGB", (3, 2), (0, 0, 0))
    upright.putpixel((0, 0), (255, 255, 255))
    # How a camera held in that way stores the picture: the inverse of what the tag asks for.
    turned_back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(turned_back[orientation]) if orientation in turned_back else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode_rgb(encoded(stored, exif=exif))
    assert image.size == (3, 2)
    assert image.getpixel((0, 0)) == (255, 255, 255)


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    body = io.BytesIO()
    frames[0].save(body, "GIF", save_all=True, append_images=frames[1:])
    assert pixel(body.getvalue()) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF"])
def test_a_picture_cut_anywhere_is_refused_or_whole(kind: str) -> None:
    values = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(values), kind)
    expected = decode_rgb(whole).tobytes()
    refused = 0
    for size in range(0, len(whole), 37):
        try:
            # Some formats end in bytes that nobody needs.
            assert decode_rgb(whole[:size]).tobytes() == expected
        except UnreadableImageError:
            refused += 1
    assert refused > len(whole) / 37 / 2


def test_reasons_go_on_after_the_name() -> None:
    with pytest.raises(UnreadableImageError, match=r"^is empty$"):
        decode_rgb(b"")
    with pytest.raises(UnreadableImageError, match=r"^is not a picture"):
        decode_rgb(b"hello")


def test_postscript_is_not_even_tried() -> None:
    with pytest.raises(UnreadableImageError, match="not a picture"):
        decode_rgb(encoded(Image.new("RGB", (2, 2)), "EPS"))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_colour_is_scaled_and_not_cut_off(kind: str) -> None:
    """Pillow can't write such files, so their bytes are put together here."""
    values = np.array([[[0, 257, 65535], [32768, 514, 65280]]], dtype=np.uint16)
    image = decode_rgb(_png_16_bit(values) if kind == "PNG" else _tiff_16_bit(values))
    found = [image.getpixel((x, 0)) for x in range(2)]
    assert np.abs(np.array(found) - values[0] / 257).max() <= 1


def _png_16_bit(values_HWC: Any) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width, _ = values_HWC.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values_HWC)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _tiff_16_bit(values_HWC: Any) -> bytes:
    height, width, _ = values_HWC.shape
    pixels = values_HWC.astype("<u2").tobytes()
    bits = struct.pack("<HHH", 16, 16, 16)
    data_at = 8
    bits_at = data_at + len(pixels)
    fields = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, bits_at), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, data_at), (277, 3, 1, 3), (278, 4, 1, height), (279, 4, 1, len(pixels)),
    ]  # fmt: skip
    directory = struct.pack("<H", len(fields)) + b"".join(struct.pack("<HHII", *one) for one in fields) + b"\0" * 4
    return b"II*\0" + struct.pack("<I", bits_at + len(bits)) + pixels + bits + directory


def test_frames_are_counted() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    assert frames_in(encoded(frames[0])) == 1
    for kind in ("GIF", "WEBP", "PNG"):
        assert frames_in(encoded(frames[0], kind, save_all=True, append_images=frames[1:])) == 2
    cut_short = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])[:-10]
    assert decode_rgb(cut_short).size == frames[0].size
    assert frames_in(cut_short) in (1, 2), "what lies behind the first frame ends nothing"
