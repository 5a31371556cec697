"""The image decoder under Atheris: whatever the bytes, there is an image within the bounds or a DatasetError.

    python tests/security/fuzzers/image.py -max_total_time=600 CORPUS

As `job_spec.py` beside it. Of the decoders those parts are seen that Pillow has in Python: what reads the files' heads, chunks and tags.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["autoslim.data.decode", "PIL"]):
    from autoslim.data.decode import MAX_PIXELS, decode_rgb
from autoslim.errors import DatasetError


def decode(data: bytes) -> None:
    try:
        image = decode_rgb(data)
    except DatasetError:
        return
    assert image.mode == "RGB"
    assert 0 < image.width * image.height <= MAX_PIXELS


atheris.Setup(sys.argv, decode)
atheris.Fuzz()
