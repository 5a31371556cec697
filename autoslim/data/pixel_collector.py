"""`PixelCollector`: the pixels of images that are decoded to see whether they can be, so that no image is decoded twice."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Set
from pathlib import Path
from typing import IO

from PIL import Image

from autoslim.data.decode import fit
from autoslim.data.pixel_file import PixelWriter, bytes_in_file

_log = logging.getLogger(__name__)


class PixelCollector:
    """Collects images of one `size` (H, W) in a new file in `folder`, of `limit` bytes at most; those that are `kept` already are passed
    over. Where the file cannot be written, or becomes too large, images are decoded a second time, and a warning says why."""

    def __init__(self, folder: Path, size: tuple[int, int], kept: Set[bytes], *, limit: int) -> None:
        self.size = size
        self._folder, self._kept, self._limit = folder, kept, limit
        self._own: set[bytes] = set()
        self._file: IO[bytes] | None = None
        self._writer: PixelWriter | None = None
        self._given_up = limit == 0

    @property
    def count(self) -> int:
        """Images that are collected."""
        return len(self._own)

    def wants(self, content: bytes) -> bool:
        """Whether the pixels of the image with this hash are missing. Threads may ask while another one adds."""
        return not self._given_up and content not in self._kept and content not in self._own

    def pixels_of(self, image: Image.Image) -> bytes:
        return fit(image, self.size).tobytes()

    def add(self, content: bytes, pixels: bytes) -> None:
        """The pixels of an image; a copy of one that is here already is not written again."""
        if not self.wants(content):
            return
        if (self.count + 1) * bytes_in_file(self.size) > self._limit:
            self.give_up(f"they take more than the {self._limit} bytes that are allowed")
            return
        try:
            if self._writer is None:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                # Open until `finish` or `give_up`; the suffix marks what a killed process leaves.
                self._file = tempfile.NamedTemporaryFile(dir=self._folder, suffix=".partial", delete=False)  # noqa: SIM115
                self._writer = PixelWriter(self._file)
            self._writer.add(content, pixels)
        except OSError as error:
            self.give_up(str(error))
            return
        self._own.add(content)

    def finish(self) -> Path | None:
        """The finished file, which the caller moves away; None where nothing was collected.

        Raises:
            OSError: for a file that cannot be written to its end.
        """
        if self._file is None or self._writer is None:
            return None
        with self._file:
            self._writer.finish()
        return Path(self._file.name)

    def give_up(self, why: str) -> None:
        """Nothing is kept, and nothing more is collected."""
        _log.warning("decoded images cannot be kept (%s): they are decoded once more", why)
        self._given_up = True
        self._own.clear()
        if self._file is not None:
            self._file.close()
            Path(self._file.name).unlink(missing_ok=True)
        self._file = self._writer = None
