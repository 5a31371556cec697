"""Pictures inside the page as data URIs, each within a bound of bytes."""

from __future__ import annotations

import base64
import io

from PIL import Image

_QUALITIES = (85, 70, 50, 30)


def data_uri(image: Image.Image, *, most_bytes: int) -> str:
    """As WebP: in a lower quality, and then in half the size, until it is small enough."""
    image = image.convert("RGB")
    while True:
        for quality in _QUALITIES:
            encoded = _webp(image, quality)
            if len(encoded) <= most_bytes or max(image.size) < 32:
                return f"data:image/webp;base64,{base64.b64encode(encoded).decode()}"
        image = image.resize((max(1, image.width // 2), max(1, image.height // 2)), Image.Resampling.BICUBIC)


def _webp(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality)
    return buffer.getvalue()
