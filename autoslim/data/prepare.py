"""Prepares a data set once per job: divides it into splits, decodes every image once, and writes the readable ones to the cache."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from autoslim.core.job import DatasetSpec
from autoslim.data.cache import EncodedFile, EncodedRow, grouped, publish_once, write_encoded
from autoslim.data.copies import Contents, content_hash, described, find_copies, imbalance
from autoslim.data.dataset import MANIFEST, SPLITS, PreparedDataset, open_dataset
from autoslim.data.decode import decode_rgb
from autoslim.data.examined import Examined
from autoslim.data.progress import Progress, Watch
from autoslim.data.report import DatasetReport, SplitReport
from autoslim.data.sources import open_source
from autoslim.data.splits import keep_count, split_off_share
from autoslim.data.table import Indices, Row, Source, Table
from autoslim.data.wanted import Wanted
from autoslim.errors import DatasetError

MAX_NAMED = 50
"""Unreadable images that are listed by name, at most."""

_LAYOUT = 2
"""Version of the cache, part of its key: one of another version is not read. 2: images are turned by their EXIF orientation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """The rows of a table that make up a split; `drawn_from` as in `SplitReport`."""

    table: Table
    rows: Indices
    drawn_from: str | None = None


def prepare_dataset(
    spec: DatasetSpec, cache_dir: Path, *, seed: int, tell: Callable[[str], None] | None = None, watch: Watch | None = None
) -> PreparedDataset:
    """Prepares the data set of `spec` in `cache_dir`, or opens it if it is there.

    Many processes and nodes may call this at once. The cache is keyed by `spec`, `seed`, and the sizes and times of the source's files.
    Splits are made before unreadable images are dropped, so that `train_limit` counts the dropped ones, too. `tell` gets a line now and
    then that says how many images are prepared, and how long the others will take; `watch` gets the numbers, more often.

    Raises:
        DatasetError: for a source that cannot be read or used.
        OutputError: for a cache that cannot be written.
    """
    if not 0.0 <= spec.unreadable_share <= 1.0:
        raise DatasetError(f"unreadable_share is {spec.unreadable_share}; allowed: 0 to 1")
    source = open_source(spec.source, seed=seed, wanted=Wanted.of(spec))
    path = cache_dir / _key(spec, source, seed)
    with publish_once(path) as folder:
        if folder is not None:
            _write(folder, spec, source, seed, tell, watch)
    return open_dataset(path)


def prepare_probe(probe: str | None, images: DatasetSpec, cache_dir: Path, *, seed: int) -> PreparedDataset | None:
    """The labelled data set `probe`, which features are judged on; None without one. The limits of `images` hold for it, too.

    Raises:
        DatasetError, OutputError: as `prepare_dataset`.
    """
    if probe is None:
        return None
    spec = DatasetSpec(source=probe, unreadable_share=images.unreadable_share, decoded_limit=images.decoded_limit)
    return prepare_dataset(spec, cache_dir, seed=seed)


def _key(spec: DatasetSpec, source: Source, seed: int) -> str:
    text = json.dumps([_LAYOUT, spec.to_dict(), seed, source.fingerprint()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _write(
    folder: Path, spec: DatasetSpec, source: Source, seed: int, tell: Callable[[str], None] | None, watch: Watch | None
) -> None:
    # Over the classes and, split by split, labels and bytes of the readable images: equal digests mean equal data.
    digest = hashlib.sha256(json.dumps(source.classes).encode())
    parts = make_splits(spec, source, seed)
    # Train is the last one where what the others hold is left out of it.
    order = ("validation", "test", "train") if spec.drop_duplicates else SPLITS
    progress = Progress(sum(len(part.rows) for part in parts.values()), tell, watch)
    writers: dict[str, _SplitWriter] = {}
    with Examined.of(spec.source) as examined:
        for split in order:
            others = (
                frozenset[bytes]().union(*(writer.contents.set() for writer in writers.values()))
                if split == "train"
                else frozenset()
            )
            writers[split] = _SplitWriter(parts[split], source, spec, digest, progress, examined)
            writers[split].write(folder / f"{split}.arrow", without=others)
    if spec.drop_duplicates:
        writers["train"].drop_contradicting(folder / "train.arrow", {split: writer.contents for split, writer in writers.items()})
    report = DatasetReport(
        source=source.name,
        classes=source.classes,
        seed=seed,
        digest_of_images=digest.hexdigest()[:16],
        decoded_limit=spec.decoded_limit,
        **{split: writers[split].report() for split in SPLITS},
        not_used=source.not_used,
        chosen=source.chosen,
        suspicious=_suspicious(folder, writers, source),
    )
    (folder / MANIFEST).write_text(report.to_json(indent=2))


def _suspicious(folder: Path, writers: dict[str, _SplitWriter], source: Source) -> tuple[str, ...]:
    """Copies across splits and labels, and an imbalance; images are named as they lie in the source."""
    copies = find_copies({split: writers[split].contents for split in SPLITS})
    files = {split: EncodedFile(folder / f"{split}.arrow") for split in SPLITS}
    odd = [(split, row) for split in SPLITS for row in copies.contradicting[split][:3].tolist()]
    names = {
        "shared": [files["train"].name_of(row) for row in copies.shared["train"][:3].tolist()],
        "held_out": [files["validation"].name_of(row) for row in copies.shared["validation"][:3].tolist()],
        "odd": [files[split].name_of(row) for split, row in odd],
    }
    train = writers["train"]
    return (
        *described(copies, names, dropped=train.dropped),
        *(imbalance(train.counts, source.classes) if source.labelled else ()),
    )


def make_splits(spec: DatasetSpec, source: Source, seed: int) -> dict[str, Part]:
    """The rows of each split. Splits of the source stay whole; missing ones take `validation_share` of train each, the test split first."""
    left: Indices = np.arange(len(source.train.labels))
    parts = {}
    for split, table in (("test", source.test), ("validation", source.validation)):
        if table is not None:
            parts[split] = Part(table=table, rows=np.arange(len(table.labels)))
            continue
        kept, taken = split_off_share(
            source.train.labels[left], spec.validation_share, seed=seed, purpose=split, classes=source.classes
        )
        parts[split] = Part(table=source.train, rows=left[taken], drawn_from="train")
        # The next split takes from the rest only, so that no image is in two splits.
        left = left[kept]
    if spec.train_limit is not None:
        left = left[keep_count(source.train.labels[left], spec.train_limit, seed=seed, classes=source.classes)]
    parts["train"] = Part(table=source.train, rows=left)
    return parts


class _SplitWriter:
    """Writes one split's readable images and counts the others, and those that are dropped as copies."""

    def __init__(
        self, part: Part, source: Source, spec: DatasetSpec, digest: hashlib._Hash, progress: Progress, examined: Examined
    ) -> None:
        self._part, self._source, self._spec, self._digest, self._progress = part, source, spec, digest, progress
        self._examined = examined
        self.counts = np.zeros(max(1, len(source.classes)), np.int64)
        self.contents, self.dropped = Contents(), 0
        self._unreadable: list[str] = []

    def write(self, path: Path, *, without: frozenset[bytes]) -> None:
        """All readable images but those whose contents are given."""
        self._digest.update(path.stem.encode())
        write_encoded(path, self._readable(without))
        self._check(path.stem)

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
        for row in rows.tolist():
            self.contents.add(bytes(hashes[row]), int(labels[row]))
        self.counts = np.bincount(labels[rows], minlength=len(self.counts))
        new = path.with_suffix(".new")
        write_encoded(new, ((file.bytes_of(row), int(labels[row]), file.name_of(row)) for row in rows.tolist()))
        new.replace(path)
        self._digest.update(b"without " + b"".join(bytes(hashes[row]) for row in wrong.tolist()))
        self._check_filled(path.stem)

    def _readable(self, without: frozenset[bytes]) -> Iterator[EncodedRow]:
        labels = self._part.table.labels
        # Threads, since Pillow decodes without the interpreter's lock. Groups are small because an encoded image may have 64 MiB.
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            for group in grouped(self._part.table.rows(self._part.rows), 32):
                # `map` keeps the order, so that neither the file nor the digest depends on the threads.
                for (row, data, name), (issue, content) in zip(group, pool.map(self._examine, group), strict=True):
                    self._progress.advance()
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
                    # The length marks where an image ends; without it two lists of images could have the same bytes.
                    self._digest.update(f" {label} {len(data)} ".encode())
                    self._digest.update(data)
                    yield data, label, name

    def _examine(self, row: Row) -> tuple[str | None, bytes]:
        """Why an image cannot be read, or None; and the hash of its bytes."""
        content = content_hash(row[1])
        if content not in self._examined.known:
            try:
                decode_rgb(row[1])
            except DatasetError as error:
                return str(error), content
        return None, content

    def _check(self, split: str) -> None:
        total, count = len(self._part.rows), len(self._unreadable)
        if count > self._spec.unreadable_share * total:
            needed, names = math.ceil(100 * count / total) / 100, _listed(self._unreadable)
            raise DatasetError(
                f"{count} of {total} images of the {split} split of {self._source.name} are unreadable; allowed: a share of "
                f"{self._spec.unreadable_share:g}. Remove or repair them, or leave them out with --unreadable-share {needed:g}. "
                f"All are named in {names}, the first: {'; '.join(self._unreadable[:3])}"
            )
        self._check_filled(split)

    def _check_filled(self, split: str) -> None:
        empty = np.flatnonzero(self.counts == 0)
        if len(empty) and split != "test":
            what = f"class {self._source.classes[empty[0]]!r}" if self._source.labelled else self._source.name
            left = f"; {self.dropped} are left out by --drop-duplicates" if self.dropped else ""
            raise DatasetError(f"{what} has no readable image in the {split} split{left}")


def _listed(lines: list[str]) -> str:
    """A file with these lines. It is a temporary one: what is prepared for a plan, or fails, leaves no folder behind."""
    descriptor, name = tempfile.mkstemp(prefix="autoslim-unreadable-", suffix=".txt")
    with open(descriptor, "w") as file:
        file.writelines(f"{line}\n" for line in lines)
    return name
