"""`PixelCollector`: the pixels of images that are decoded to see whether they can be, so that no image is decoded twice."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from PIL import Image

from autoslim.data.decode import fit
from autoslim.data.hashes import Hashes
from autoslim.data.pixel_file import PixelWriter, bytes_in_file, check_of

FILE_BYTES = 256 * 2**20
"""Of a file, after which it is kept and the next one begins: what a killed preparation has to decode again at most."""

_FILES = 64
"""That a full cache is divided into at most, since all of them are looked into when images are searched for."""

_log = logging.getLogger(__name__)


class PixelCollector:
    """Collects images of one `size` (H, W) in new files in `folder`, of `limit` bytes together at most; those that are `kept` already are
    passed over. `keep` takes each file that is finished. Where a file cannot be written, or they become too large, the images that are
    left are decoded a second time, and a warning says why."""

    def __init__(self, folder: Path, size: tuple[int, int], kept: Hashes, *, limit: int, keep: Callable[[Path], None]) -> None:
        self.size, self.count = size, 0
        self._folder, self._kept, self._limit, self._keep = folder, kept, limit, keep
        self._file: IO[bytes] | None = None
        self._writer: PixelWriter | None = None
        self._in_file = 0
        self._given_up = limit == 0

    def has(self, content: bytes) -> bool:
        """Whether the image with this hash has been decoded. Threads may ask while another one adds."""
        return content in self._kept

    def wants(self, content: bytes) -> bool:
        """Whether the pixels of an image are missing."""
        return not self._given_up and not self.has(content)

    def pixels_of(self, image: Image.Image, content: bytes) -> tuple[bytes, bytes]:
        """The pixels and their check."""
        pixels = fit(image, self.size).tobytes()
        return pixels, check_of(pixels, content)

    def add(self, content: bytes, pixels: bytes, check: bytes) -> None:
        """The pixels of an image; a copy of one that is here already is not written again."""
        if not self.wants(content):
            return
        if (self.count + self._in_file + 1) * bytes_in_file(self.size) > self._limit:
            self.give_up(f"they take more than the {self._limit} bytes that are allowed")
            return
        try:
            if self._writer is None:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                # Open until `finish` or `give_up`; the suffix marks what a killed process leaves.
                self._file = tempfile.NamedTemporaryFile(dir=self._folder, suffix=".partial", delete=False)  # noqa: SIM115
                self._writer = PixelWriter(self._file)
            self._writer.add(content, pixels, check)
        except OSError as error:
            self.give_up(str(error))
            return
        self._kept.add(content)
        self._in_file += 1
        if self._in_file * bytes_in_file(self.size) >= max(FILE_BYTES, self._limit // _FILES):
            self.finish()

    def finish(self) -> None:
        """What is collected by now is kept: `count` images in all."""
        if self._file is None or self._writer is None:
            return
        try:
            with self._file:
                self._writer.finish()
            self._keep(Path(self._file.name))
        except OSError as error:
            self.give_up(str(error))
            return
        self.count += self._in_file
        self._file, self._writer, self._in_file = None, None, 0

    def give_up(self, why: str) -> None:
        """What is not kept by now will not be, and nothing more is collected."""
        _log.warning("decoded images cannot be kept (%s): they are decoded once more", why)
        self._given_up = True
        if self._file is not None:
            with contextlib.suppress(OSError):
                # A full disk may refuse the last bytes, which are not wanted.
                self._file.close()
            Path(self._file.name).unlink(missing_ok=True)
        self._file, self._writer, self._in_file = None, None, 0
