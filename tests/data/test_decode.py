from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from autoslim.data import decode
from autoslim.data.decode import decode_rgb, fit, storage_size
from autoslim.errors import DatasetError


def saved(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("form", decode.FORMATS)
def test_every_allowed_format_becomes_rgb(form):
    image = decode_rgb(saved(Image.new("RGB", (5, 4), (200, 30, 30)), form))
    assert (image.mode, image.size) == ("RGB", (5, 4))
    assert np.abs(np.asarray(image).astype(int) - (200, 30, 30)).max() < 12


@pytest.mark.parametrize(
    ("mode", "form"), [("L", "PNG"), ("1", "PNG"), ("P", "GIF"), ("CMYK", "JPEG"), ("LA", "PNG"), ("L", "JPEG")]
)
def test_every_mode_becomes_rgb(mode, form):
    assert decode_rgb(saved(Image.new("L", (5, 4), 255).convert(mode), form)).mode == "RGB"


def test_transparency_is_laid_over_white():
    half = decode_rgb(saved(Image.new("RGBA", (2, 2), (0, 0, 0, 128))))
    clear = decode_rgb(saved(Image.new("RGBA", (2, 2), (9, 9, 9, 0))))
    assert half.getpixel((0, 0)) == (127, 127, 127)
    assert clear.getpixel((0, 0)) == (255, 255, 255)


def test_palette_with_transparent_entry_is_laid_over_white():
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert decode_rgb(saved(image, transparency=1)).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_grey_is_scaled_not_clipped():
    grey = np.array([[0, 0x8000], [0xFFFF, 0x1234]], np.uint16)
    assert np.asarray(decode_rgb(saved(Image.fromarray(grey))))[..., 0].tolist() == [[0, 0x80], [0xFF, 0x12]]


def test_the_transparent_value_of_sixteen_bit_grey_is_white():
    grey = np.array([[0, 0x8000], [0xFFFF, 0x1234]], np.uint16)
    assert np.asarray(decode_rgb(saved(Image.fromarray(grey), transparency=0x1234)))[..., 0].tolist() == [[0, 0x80], [0xFF, 0xFF]]


CORNERS = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)
"""Two rows and three columns of grey, as they are to be seen."""
STORED = {
    1: CORNERS,
    2: CORNERS[:, ::-1],
    3: CORNERS[::-1, ::-1],
    4: CORNERS[::-1],
    5: CORNERS.T,
    6: np.rot90(CORNERS, 1),
    7: CORNERS[::-1, ::-1].T,
    8: np.rot90(CORNERS, -1),
}
"""By orientation (EXIF 2.32, 4.6.4, tag 0x0112): the pixels as a camera stores them."""


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_images_are_turned_as_their_camera_says(form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    large = np.kron(STORED[orientation], np.ones((16, 16), np.uint8))
    lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100}}.get(form, {})
    seen = np.asarray(decode_rgb(saved(Image.fromarray(large).convert("RGB"), form, exif=exif, **lossless)))
    assert np.abs(seen[8::16, 8::16, 0].astype(int) - CORNERS).max() <= 1


def test_known_suffixes_are_those_of_pillows_registry():
    assert {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".webp", ".gif", ".bmp", ".avif"} <= set(
        decode.SUFFIXES
    )
    assert not {".pdf", ".psd", ".h5", ".mpg", ".eps"} & set(decode.SUFFIXES)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no bytes"),
        (b"hello", "not an image; allowed: PNG"),
        (saved(Image.new("RGB", (40, 40)), "TGA"), "not an image"),
        (saved(Image.new("F", (4, 4)), "TIFF"), "floating-point pixels, whose range is not known"),
        (saved(Image.effect_noise((64, 64), 50))[:300], "damaged"),
        (saved(Image.effect_noise((64, 64), 50), "JPEG")[:700], "damaged"),
        (saved(Image.new("1", (8000, 8000))), "8000 by 8000 pixels"),
        (saved(Image.new("1", (20000, 10000))), "damaged .DecompressionBomb"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_unusable_bytes_say_why(data, message):
    with pytest.raises(DatasetError, match=message):
        decode_rgb(data)


def test_too_many_bytes_are_not_even_opened(monkeypatch):
    monkeypatch.setattr(decode, "MAX_BYTES", 10)
    with pytest.raises(DatasetError, match="larger than"):
        decode_rgb(bytes(11))


def test_damaged_files_never_raise_anything_else():
    generator = np.random.default_rng(0)
    for form in decode.FORMATS:
        whole = saved(Image.effect_noise((24, 24), 80).convert("RGB"), form)
        for _ in range(150):
            data = bytearray(whole)
            for place in generator.integers(0, len(data), 6):
                data[place] = generator.integers(0, 256)
            with contextlib.suppress(DatasetError):
                assert decode_rgb(bytes(data)).mode == "RGB"


def test_image_of_the_right_size_is_not_resampled():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert np.array_equal(fit(Image.fromarray(pixels), (20, 30)), pixels)


@pytest.mark.parametrize("shape", [(50, 100), (100, 50), (7, 7)])
def test_fit_keeps_the_aspect_and_the_centre(shape):
    height, width = shape
    pixels = np.full((height, width, 3), 255, np.uint8)
    side = min(shape)
    top, left = (height - side) // 2, (width - side) // 2
    pixels[top : top + side, left : left + side] = 77
    out = fit(Image.fromarray(pixels), (16, 16))
    assert out.shape == (16, 16, 3)
    assert (out[4:-4, 4:-4] == 77).all()


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (1, 1), (33, 47)])
def test_fit_takes_any_shape(shape):
    assert fit(Image.new("RGB", shape, (9, 9, 9)), (16, 24)).tolist() == np.full((16, 24, 3), 9).tolist()


@pytest.mark.parametrize(
    ("size", "crop_pct", "stored"),
    [((224, 224), 0.875, (256, 256)), ((27, 27), 0.9, (30, 30)), ((32, 48), 1.0, (32, 48)), ((32, 32), 0.9, (36, 36))],
)
def test_storage_size_leaves_room_for_the_crop(size, crop_pct, stored):
    assert storage_size(size, crop_pct) == stored


@pytest.mark.parametrize("crop_pct", [0.0, 1.2, -1.0])
def test_crop_pct_out_of_range_is_refused(crop_pct):
    with pytest.raises(DatasetError, match="crop_pct"):
        storage_size((32, 32), crop_pct)
