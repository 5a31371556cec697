"""Bounded decoding of one image to RGB, and the resize to the storage size. H and W are pixels.

Images are turned as their EXIF orientation says, which timm's readers do not do. Transparent images get a white background; 16-bit grey
keeps its upper eight bits; an animation gives its first frame.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import math
import platform
import struct
import zlib

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features

from autoslim.errors import DatasetError

HEIF = "HEIF"


def _formats() -> tuple[str, ...]:
    """Those of Pillow's that are common and written to read what others send; AVIF and HEIC where this Pillow can."""
    found = ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"]
    if features.check("avif"):
        found.append("AVIF")
    if importlib.util.find_spec("pillow_heif") is not None:
        importlib.import_module("pillow_heif").register_heif_opener()
        found.append(HEIF)
    return tuple(found)


def _suffixes() -> tuple[str, ...]:
    """What Pillow's registry says files of these formats end in: `.jfif` and `.jpe` are JPEG, `.apng` is PNG."""
    registered = Image.registered_extensions()
    return tuple(sorted(suffix for suffix, form in registered.items() if form in FORMATS))


FORMATS = _formats()
SUFFIXES = _suffixes()
"""Ends of the names of files that are taken for images."""

HEIF_SUFFIXES = (".heic", ".heif", ".hif")
"""Taken where the package pillow-heif is installed."""

_DECODER = 2
"""Part of `decoder_version`; another number once `decode_rgb` refuses what it took before, or it or `fit` gives another pixel."""

_LIBRARIES = ("jpg", "libjpeg_turbo", "webp", "libtiff", "avif")
"""Pillow's names of those whose versions may differ under one version of Pillow, and give other pixels of one file."""

_TURNED = (5, 6, 7, 8)
"""EXIF's orientations that change height and width."""

MAX_PIXELS = 50_000_000
MAX_BYTES = 64 * 2**20
"""Bounds of one image, against files that decode to far more than their size."""

# What Pillow's decoders have been seen to raise on damaged files; OSError covers truncated and unidentified ones.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
    UserWarning,  # where warnings are errors
)


def decode_rgb(data: bytes) -> Image.Image:
    """The image in RGB. Raises DatasetError with the reason why it cannot be used."""
    if not data:
        raise DatasetError("there are no bytes, or they cannot be read")
    if len(data) > MAX_BYTES:
        raise DatasetError(f"it is larger than {MAX_BYTES // 2**20} MiB")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_pixels(image)
            image.load()
            # In place: without an orientation it would give a copy.
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)
    except DatasetError:
        raise
    except UnidentifiedImageError as error:
        raise DatasetError(f"not an image; allowed: {', '.join(FORMATS)}") from error
    except _DECODE_ERRORS as error:
        raise DatasetError(f"damaged ({type(error).__name__}: {error})") from error


def shown_size(data: bytes) -> tuple[int, int]:
    """(H, W) of an image as `decode_rgb` returns it, which does read it; nothing but the head of the file is."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in _TURNED
        return (image.width, image.height) if turned else (image.height, image.width)


def decoder_version() -> str:
    """Equal where images are read, and turned into pixels, in the same way."""
    versions = [f"{name}={features.version(name)}" for name in _LIBRARIES]
    if HEIF in FORMATS:
        versions.append(f"heif={importlib.import_module('pillow_heif').__version__}")
    return " ".join([str(_DECODER), PIL.__version__, platform.machine(), *FORMATS, *versions])


def storage_size(image_size: tuple[int, int], crop_pct: float) -> tuple[int, int]:
    """(H, W) at which images are stored: large enough that a centre crop of `crop_pct` has `image_size`."""
    if not 0.0 < crop_pct <= 1.0:
        raise DatasetError(f"crop_pct is {crop_pct}; allowed: above 0 and at most 1")
    # Without the subtraction the rounding error of 27 / 0.9 would give 31.
    height, width = (math.ceil(side / crop_pct - 1e-6) for side in image_size)
    return height, width


def fit(image: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resizes the image until it just covers `size` (H, W), by antialiased bicubic interpolation, and crops its centre; (H, W, 3)."""
    height, width = size
    scale = min(image.width / width, image.height / height)
    # The rounding error of a product may lead out of the image by a hair, at either side.
    left, top = max(0.0, (image.width - width * scale) / 2), max(0.0, (image.height - height * scale) / 2)
    box = (left, top, min(left + width * scale, image.width), min(top + height * scale, image.height))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC, box=box))


def _check_pixels(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise DatasetError(f"{image.width} by {image.height} pixels; allowed: at most {MAX_PIXELS:,} in all")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise DatasetError("it has floating-point pixels, whose range is not known; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        # Pillow would clip 16-bit grey to white instead of scaling it.
        grey = np.clip(values >> 8, 0, 255).astype(np.uint8)
        # The one value that is transparent, where a PNG names one.
        grey[values == image.info.get("transparency", -1)] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")
