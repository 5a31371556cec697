"""`SplitWriter`: examines the images of one split and writes the readable ones. N images."""

from __future__ import annotations

import array
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from autoslim.data.cache import EncodedFile, EncodedRow, write_encoded
from autoslim.data.copies import Contents, content_hash, find_copies
from autoslim.data.decode import decode_rgb
from autoslim.data.examined import Examined
from autoslim.data.hashes import Hashes
from autoslim.data.left_split import LeftList, LeftSplit
from autoslim.data.map_ahead import map_ahead
from autoslim.data.pixel_collector import PixelCollector
from autoslim.data.progress import Progress
from autoslim.data.report import SplitReport
from autoslim.data.table import Indices, Row, Source, Table
from autoslim.data.unreadable import MAX_NAMED, Unreadable
from autoslim.errors import DatasetError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """The rows of a table that make up a split; `drawn_from` as in `SplitReport`."""

    table: Table
    rows: Indices
    drawn_from: str | None = None


class SplitWriter:
    """Writes one split's readable images and counts the others, and those that are dropped as copies."""

    def __init__(
        self,
        split: str,
        part: Part,
        source: Source,
        digest: hashlib._Hash,
        progress: Progress,
        examined: Examined,
        collectors: Sequence[PixelCollector] = (),
    ) -> None:
        self._split, self._part, self._source = split, part, source
        self._digest, self._progress, self._examined, self._collectors = digest, progress, examined, collectors
        self.counts = np.zeros(max(1, len(source.classes)), np.int64)
        self.contents, self.dropped = Contents(), 0
        # 8 bytes each: a list of numbers takes five times as much.
        self._rows = array.array("q")
        self._unreadable: list[str] = []
        # What an earlier preparation has left, while the split is written.
        self._left: LeftSplit | None = None

    def write(self, path: Path, *, without: Hashes) -> None:
        """All readable images but those whose contents are given."""
        self._digest.update(self._split.encode())
        self._left, self._list = LeftSplit.find(path, self._part.table, self._part.rows), LeftList(path)
        try:
            write_encoded(path, self._readable(without))
        finally:
            self._left = None
            self._list.close()

    def end(self) -> None:
        """The split is as it stays."""
        self._list.delete()

    @property
    def rows(self) -> Indices:
        """Of the table, those that the file has."""
        return np.array(self._rows, np.int64)

    @property
    def unreadable(self) -> Unreadable:
        return Unreadable(split=self._split, total=len(self._part.rows), lines=tuple(self._unreadable))

    def report(self) -> SplitReport:
        return SplitReport(
            images=int(self.counts.sum()),
            per_class=tuple(self.counts.tolist()) if self._source.labelled else (),
            unreadable=len(self._unreadable),
            named=tuple(self._unreadable[:MAX_NAMED]),
            drawn_from=self._part.drawn_from,
            dropped=self.dropped,
        )

    def drop_contradicting(self, path: Path, contents: dict[str, Contents]) -> None:
        """Writes the file again without the images that have a copy with another label, in any split."""
        wrong = find_copies(contents).contradicting["train"]
        if not len(wrong):
            return
        # Which ones they are is known only at the end; the file that was written is read, not the source.
        hashes, labels, file = self.contents.hashes, self.contents.labels, EncodedFile(path)
        rows = np.setdiff1d(np.arange(len(labels)), wrong)
        self.contents, self.dropped = Contents(), self.dropped + len(wrong)
        self._rows = array.array("q", self.rows[rows].tobytes())
        for row in rows.tolist():
            self.contents.add(bytes(hashes[row]), int(labels[row]))
        self.counts = np.bincount(labels[rows], minlength=len(self.counts))
        self._list.delete()
        new = path.with_suffix(".new")
        write_encoded(new, ((file.bytes_of(row), int(labels[row]), file.name_of(row)) for row in rows.tolist()))
        new.replace(path)
        # Half as long as `content_hash`: a digest that changed would keep a search from being resumed, or its models from being reused.
        gone = (hashlib.blake2b(file.bytes_of(row), digest_size=16).digest() for row in wrong.tolist())
        self._digest.update(b"without " + b"".join(gone))
        self.check_filled()

    def _readable(self, without: Hashes) -> Iterator[EncodedRow]:
        labels = self._part.table.labels
        # Threads, since Pillow decodes without the interpreter's lock. The order of the images is kept, so that neither the file nor the
        # digest depends on the threads.
        table, rows = self._part.table, self._part.rows
        images = table.rows(rows) if self._left is None else self._left.rows_of(table, rows)
        for (row, data, name), issue, content, pixels in map_ahead(self._examine, images):
            self._progress.advance()
            for collector, own in pixels:
                collector.add(content, *own)
            if issue is not None:
                self._unreadable.append(f"{name}: {issue}")
                continue
            self._examined.add(content)
            if content in without:
                self.dropped += 1
                continue
            label = int(labels[row])
            self.counts[label] += 1
            self.contents.add(content, label)
            self._rows.append(row)
            # The length marks where an image ends; without it two lists of images could have the same bytes.
            self._digest.update(f" {label} {len(data)} ".encode())
            self._digest.update(data)
            self._list.add(row, content)
            yield data, label, name

    def _examine(self, row: Row) -> tuple[Row, str | None, bytes, list[tuple[PixelCollector, tuple[bytes, bytes]]]]:
        """The row, why its image cannot be read, or None; the hash of its bytes; its pixels and their check for who collects them."""
        content = content_hash(row[1])
        wanted = [collector for collector in self._collectors if collector.wants(content)]
        # An image whose pixels are kept could be read, also where a preparation that was killed did not come to remember it.
        known = content in self._examined.known or any(collector.has(content) for collector in self._collectors)
        # The hash that it was left with is looked at in any case.
        known = (self._left is not None and self._left.has(row[0], content)) or known
        if known and not wanted:
            return row, None, content, []
        try:
            image = decode_rgb(row[1])
        except DatasetError as error:
            return row, str(error), content, []
        return row, None, content, [(collector, collector.pixels_of(image, content)) for collector in wanted]

    def check_filled(self) -> None:
        """Raises DatasetError for a class without a readable image in train or validation."""
        empty = np.flatnonzero(self.counts == 0)
        if len(empty) and self._split != "test":
            what = f"class {self._source.classes[empty[0]]!r}" if self._source.labelled else self._source.name
            left = f"; {self.dropped} are left out by --drop-duplicates" if self.dropped else ""
            raise DatasetError(f"{what} has no readable image in the {self._split} split{left}")
