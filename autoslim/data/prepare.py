"""Prepares a data set once: divides it into splits, decodes every image once, and writes the readable ones to the cache."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from autoslim.core.job import DatasetSpec
from autoslim.data.cache import EncodedFile, publish_once
from autoslim.data.copies import described, find_copies, imbalance
from autoslim.data.dataset import MANIFEST, SPLITS, PreparedDataset, open_dataset
from autoslim.data.decode import storage_size
from autoslim.data.decoded_limit import measured_limit
from autoslim.data.examined import Examined
from autoslim.data.hashes import Hashes
from autoslim.data.kept_set import KeptSet, make_room
from autoslim.data.left_files import take_left
from autoslim.data.left_split import DamagedLeftError
from autoslim.data.pixel_cache import PixelCache
from autoslim.data.pixel_collector import PixelCollector
from autoslim.data.pixel_file import pixel_bytes
from autoslim.data.prepared_folder import prepared_folder
from autoslim.data.progress import Progress, Watch
from autoslim.data.reference import DatasetReference
from autoslim.data.remote import look_at, open_remote
from autoslim.data.report import DatasetReport
from autoslim.data.set_keys import SetKeys, key_of
from autoslim.data.sources import open_source
from autoslim.data.split_writer import Part, SplitWriter
from autoslim.data.splits import keep_count, split_off_share
from autoslim.data.table import Indices, Source
from autoslim.data.token_labels import write_token_labels
from autoslim.data.unreadable import check_allowed, check_unreadable
from autoslim.data.wanted import Wanted
from autoslim.errors import DatasetError
from autoslim.storage import is_uri
from autoslim.storage.mirror import Mirror

_log = logging.getLogger(__name__)

_TICK_NS = 20_000_000
"""How far the times of files may be behind the clock."""

_TOLD_BYTES = 2**30
"""Of decoded images, from which on a user is told how much space they take."""


def prepare_dataset(
    spec: DatasetSpec,
    cache_dir: Path,
    *,
    seed: int,
    inputs: Iterable[tuple[tuple[int, int], float]] = (),
    tell: Callable[[str], None] | None = None,
    watch: Watch | None = None,
) -> PreparedDataset:
    """Prepares the data set of `spec` in `cache_dir`, or opens it if it is there.

    Many processes and nodes may call this at once. The set is keyed by `spec`, `seed`, and the sizes and times of the source's files. One
    that was prepared for another folder is taken from the user's cache, where each is kept for the next (`KeptSet`); only a built-in one
    is not. Where the source is a URI, each node fetches and prepares it once, in the user's cache instead of `cache_dir`.
    Splits are made before unreadable images are dropped, so that `train_limit` counts the dropped ones, too. `inputs` are the image sizes
    and crops of the models that will read it, as in `PreparedDataset.splits`: images are brought to these sizes while they are examined,
    and are not decoded a second time. `tell` gets a line that says how much space they take, where that is much, and one now and then that
    says how many images are prepared, and how long the others will take; `watch` gets the numbers, more often.

    Raises:
        DatasetError: for a source that cannot be read or used.
        OutputError: for a cache that cannot be written.
        StorageError, UnavailableError: for a URI that cannot be read.
    """
    check_allowed(spec)
    found = _find(spec, cache_dir, seed, tell)
    sizes = sorted({storage_size(*one) for one in inputs})
    with publish_once(found.path, left=True) as folder:
        if folder is None:
            return open_dataset(found.path, found.reference)
        limit = measured_limit(cache_dir) if spec.decoded_limit is None else spec.decoded_limit
        new = _Preparation(spec=spec, seed=seed, sizes=sizes, limit=limit, tell=tell, watch=watch)
        try:
            collected = _fill(folder, found, new)
        except DamagedLeftError:
            _log.warning("what an interrupted preparation has left in %s is damaged: it begins anew", folder)
            for entry in folder.iterdir():
                entry.unlink()
            collected = _fill(folder, found, new)
    dataset = open_dataset(found.path, found.reference)
    if collected is not None:
        return dataset.with_collected(collected)
    # At sizes that were not wanted of the set before, as a first pass does.
    return dataset.collected(new.once(dataset.images), Progress(dataset.images, tell, watch))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Found:
    """Where the prepared data set lies, or will, where it may be kept, and what opens its source, which is not fetched before;
    `source_bytes` are those of its files. `is_unchanged` says whether what was read of them is what is there now."""

    path: Path
    open_source: Callable[[], Source]
    reference: DatasetReference | None = None
    kept: KeptSet | None = None
    is_unchanged: Callable[[], bool] = lambda: False
    source_bytes: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Preparation:
    """`sizes` are those at which images are stored, and `limit` bounds the bytes of decoded ones; the others as of `prepare_dataset`."""

    spec: DatasetSpec
    seed: int
    sizes: list[tuple[int, int]]
    limit: int
    tell: Callable[[str], None] | None
    watch: Watch | None

    def once(self, images: int) -> list[tuple[int, int]]:
        """The sizes at which so many images are decoded once. Larger sets are decoded while they are read."""
        return [size for size in self.sizes if images * pixel_bytes(size) <= self.limit]

    def tell_sizes(self, images: int) -> None:
        if self.tell is not None:
            for size in self.sizes:
                _tell_size(self.tell, images, size, self.limit)


def _fill(folder: Path, found: _Found, new: _Preparation) -> dict[tuple[int, int], int] | None:
    """Writes the set; returns by the size how many images were decoded meanwhile, or None where it was taken from the user's cache."""
    kept = found.kept
    if kept is None:
        return _write_new(folder, found, new)
    source = found.open_source().name
    if _taken(kept, folder, source, new):
        return None
    with kept.locked(new.tell):
        # Once more: another process may have kept it since.
        if _taken(kept, folder, source, new):
            return None
        collected = _write_new(folder, found, new)
        if (said := _put(kept, folder, found)) and new.tell is not None:
            new.tell(said)
        return collected


def _put(kept: KeptSet, folder: Path, found: _Found) -> str:
    """Keeps the set that was written; returns what is said where it is not kept, or nothing."""
    report = DatasetReport.from_json((folder / MANIFEST).read_text())
    if any(getattr(report, split).unreadable for split in SPLITS):
        # A disk or network that failed for a moment must not cost every later search the image.
        return "the prepared images are not kept for later searches, which try the unreadable ones again"
    return kept.put(folder) if found.is_unchanged() else ""


def _taken(kept: KeptSet, folder: Path, source: str, new: _Preparation) -> bool:
    report = kept.take(folder, source=source, decoded_limit=new.limit)
    if report is None:
        return False
    images = sum(getattr(report, split).images for split in SPLITS)
    new.tell_sizes(images)
    if new.tell is not None:
        new.tell(f"{images:,} images are taken prepared from {kept.path.parent}")
    return True


def _write_new(folder: Path, found: _Found, new: _Preparation) -> dict[tuple[int, int], int]:
    source = found.open_source()
    take_left(folder)
    parts = make_splits(new.spec, source, new.seed)
    images = sum(len(part.rows) for part in parts.values())
    new.tell_sizes(images)
    if found.kept is not None:
        _make_room(found.source_bytes * images // sum(len(table.labels) for table in source.tables()))
    with contextlib.ExitStack() as stack:
        collectors = [stack.enter_context(PixelCache.of_user(size).collecting()) for size in new.once(images)]
        _write(folder, new, source, parts, collectors, Progress(images, new.tell, new.watch))
    return {collector.size: collector.count for collector in collectors}


def _make_room(needed: int) -> None:
    try:
        make_room(needed)
    except OSError as error:
        # The search needs no cache. What is lost is said where the set is kept.
        _log.debug("no room is made in %s: %s", prepared_folder(), error)


def _find(spec: DatasetSpec, cache_dir: Path, seed: int, tell: Callable[[str], None] | None) -> _Found:
    read = functools.partial(open_source, seed=seed, wanted=Wanted.of(spec))
    if not is_uri(spec.source):
        return _find_local(spec, cache_dir, seed, lambda: read(spec.source))
    labels = Wanted.of(spec).token_label_folder
    if labels is not None and not is_uri(labels):
        raise DatasetError(
            f"token_labels is {spec.token_labels!r}, a folder of this machine, but the images are at {spec.source}, from where each node "
            "fetches them; allowed: the URI of a folder, or a column of Parquet files"
        )
    listing = look_at(spec.source)
    content = [(spec.source, listing.digest)]
    if labels is not None:
        content.append((labels, look_at(labels).digest))
    path = prepared_folder() / key_of(spec, content, seed)
    # By the name alone: the folder of the cache is this machine's.
    reference = DatasetReference(path=path.name, spec=spec, seed=seed)
    return _Found(path=path, reference=reference, open_source=lambda: open_remote(spec.source, listing, read, tell=tell))


def _find_local(spec: DatasetSpec, cache_dir: Path, seed: int, read: Callable[[], Source]) -> _Found:
    for _ in range(2):
        began = time.time_ns() - _TICK_NS
        source = read()
        keys = SetKeys.of(spec, source.fingerprint(), seed)
        # Of a file that is changed just now nobody can say whether its labels were read before; in a moment its time says it.
        is_settled = keys.newest < began
        if is_settled:
            break
        time.sleep(_TICK_NS / 1e9)
    kept = KeptSet.find(keys.shared) if keys.newest else None

    def is_unchanged() -> bool:
        return is_settled and SetKeys.of(spec, source.fingerprint(), seed).shared == keys.shared

    own = cache_dir / keys.own
    return _Found(path=own, open_source=lambda: source, kept=kept, is_unchanged=is_unchanged, source_bytes=keys.size)


def open_reference(text: str, *, tell: Callable[[str], None] | None = None) -> PreparedDataset:
    """The data set that `PreparedDataset.reference` names: opened, or where this node does not have it yet, prepared from an object store
    or brought from the output that it is kept in. `tell` as of `prepare_dataset`.

    Raises:
        DatasetError: it is not there, or the files at its URI have changed.
        OutputError, StorageError, UnavailableError: as `prepare_dataset`.
    """
    reference = DatasetReference.from_json(text)
    if reference.spec is None:
        return open_dataset(Mirror.of(reference.output_uri).fetched(reference.path))
    own = prepared_folder() / reference.path
    if own.is_dir():
        # No listing, which may take long: what is in the store by now is not asked for.
        return open_dataset(own, reference)
    dataset = prepare_dataset(reference.spec, own.parent, seed=reference.seed, tell=tell)
    if dataset.path != own:
        raise DatasetError(
            f"the files at {reference.spec.source} have changed since the search has prepared them; run it again with --resume, which goes "
            "on with what is there now, or put the former ones back"
        )
    return dataset


def _tell_size(tell: Callable[[str], None], images: int, size: tuple[int, int], limit: int) -> None:
    total = images * pixel_bytes(size)
    if total >= _TOLD_BYTES:
        room = f"the {limit / 2**30:.1f} GiB that there is room for (--decoded-limit)"
        how = f"more than {room}: they are decoded while they are read" if total > limit else f"of {room}: they are decoded once"
        tell(f"{images:,} images of {size[0]}x{size[1]} pixels take {total / 2**30:.1f} GiB decoded, {how}")


def prepare_probe(
    probe: str | None, images: DatasetSpec, cache_dir: Path, *, seed: int, tell: Callable[[str], None] | None = None
) -> PreparedDataset | None:
    """The labelled data set `probe`, which features are judged on; None without one. The limits of `images` hold for it, too; `tell` as of
    `prepare_dataset`.

    Raises:
        DatasetError, OutputError: as `prepare_dataset`.
    """
    if probe is None:
        return None
    spec = DatasetSpec(
        source=probe,
        unreadable_share=images.unreadable_share,
        unreadable_images=images.unreadable_images,
        decoded_limit=images.decoded_limit,
    )
    return prepare_dataset(spec, cache_dir, seed=seed, tell=tell)


def _write(
    folder: Path,
    new: _Preparation,
    source: Source,
    parts: dict[str, Part],
    collectors: Sequence[PixelCollector],
    progress: Progress,
) -> None:
    # Over the classes and, split by split, labels and bytes of the readable images: equal digests mean equal data.
    digest = hashlib.sha256(json.dumps(source.classes).encode())
    # Train is the last one where what the others hold is left out of it.
    order = ("validation", "test", "train") if new.spec.drop_duplicates else SPLITS
    writers: dict[str, SplitWriter] = {}
    with Examined.of(new.spec.source) as examined:
        for split in order:
            # Of what is written by now, which is nothing unless train is the last one.
            others = Hashes(
                b"".join(writer.contents.hashes.tobytes() for writer in writers.values()) if split == "train" else b""
            )
            writers[split] = SplitWriter(split, parts[split], source, digest, progress, examined, collectors)
            writers[split].write(folder / f"{split}.arrow", without=others)
        # After all of them, so that what the message says helps in every split.
        check_unreadable([writers[split].unreadable for split in SPLITS], new.spec, source.name)
        for split in SPLITS:
            writers[split].check_filled()
    if new.spec.drop_duplicates:
        writers["train"].drop_contradicting(folder / "train.arrow", {split: writer.contents for split, writer in writers.items()})
    patches = _write_token_labels(folder, parts["train"], writers["train"].rows, source, digest)
    for split in SPLITS:
        writers[split].end()
        (folder / f"{split}.keys").write_bytes(writers[split].contents.hashes.tobytes())
    report = DatasetReport(
        source=source.name,
        classes=source.classes,
        seed=new.seed,
        digest_of_images=digest.hexdigest()[:16],
        decoded_limit=new.limit,
        **{split: writers[split].report() for split in SPLITS},
        not_used=source.not_used,
        chosen=(*source.chosen, *patches),
        suspicious=_suspicious(folder, writers, source),
    )
    (folder / MANIFEST).write_text(report.to_json(indent=2))


def _write_token_labels(folder: Path, train: Part, rows: Indices, source: Source, digest: hashlib._Hash) -> tuple[str, ...]:
    """The labels of the training images' patches, where there are any; returns what is said of them."""
    encoded = train.table.token_labels
    if encoded is None:
        return ()
    images = EncodedFile(folder / "train.arrow")
    return (write_token_labels(folder, "train", encoded(rows), images, class_count=len(source.classes), digest=digest),)


def _suspicious(folder: Path, writers: dict[str, SplitWriter], source: Source) -> tuple[str, ...]:
    """Copies across splits and labels, and an imbalance; images are named as they lie in the source."""
    copies = find_copies({split: writers[split].contents for split in SPLITS})
    files = {split: EncodedFile(folder / f"{split}.arrow") for split in SPLITS}
    odd = [(split, row) for split in SPLITS for row in copies.contradicting[split][:3].tolist()]
    names = {
        "shared": [files["train"].name_of(row) for row in copies.shared["train"][:3].tolist()],
        "held_out": [files["validation"].name_of(row) for row in copies.held_out[:3].tolist()],
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
