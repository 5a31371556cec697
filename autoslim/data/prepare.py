"""Prepares a data set once per job: divides it into splits, decodes every image once, and writes the readable ones to the cache."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
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
from autoslim.data.pixel_cache import PixelCache
from autoslim.data.pixel_collector import PixelCollector
from autoslim.data.pixel_file import pixel_bytes
from autoslim.data.progress import Progress, Watch
from autoslim.data.reference import DatasetReference
from autoslim.data.remote import look_at, open_remote, prepared_folder
from autoslim.data.report import DatasetReport
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

_LAYOUT = 2
"""Version of the cache, part of its key: one of another version is not read. 2: images are turned by their EXIF orientation."""

_FILES_AT_ONCE = 1024
"""Of the source, whose names, sizes and times are hashed: a folder has millions of images."""

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

    Many processes and nodes may call this at once. The cache is keyed by `spec`, `seed`, and the sizes and times of the source's files.
    Where the source is a URI, each node fetches and prepares it once, in the user's cache instead of `cache_dir`.
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
    path, open_it = _find(spec, cache_dir, seed, tell)
    # By the name alone: the folder of the cache is this machine's.
    reference = DatasetReference(path=path.name, spec=spec, seed=seed) if is_uri(spec.source) else None
    with publish_once(path) as folder, contextlib.ExitStack() as stack:
        if folder is None:
            return open_dataset(path, reference)
        source = open_it()
        parts = make_splits(spec, source, seed)
        images = sum(len(part.rows) for part in parts.values())
        sizes = sorted({storage_size(*one) for one in inputs})
        limit = measured_limit(cache_dir) if spec.decoded_limit is None else spec.decoded_limit
        if tell is not None:
            for size in sizes:
                _tell_size(tell, images, size, limit)
        # Larger sets are decoded while they are read.
        once = [size for size in sizes if images * pixel_bytes(size) <= limit]
        collectors = [stack.enter_context(PixelCache.of_user(size).collecting()) for size in once]
        _write(folder, spec, source, seed, limit, parts, collectors, Progress(images, tell, watch))
    return open_dataset(path, reference).with_collected({collector.size: collector.count for collector in collectors})


def _find(spec: DatasetSpec, cache_dir: Path, seed: int, tell: Callable[[str], None] | None) -> tuple[Path, Callable[[], Source]]:
    """The folder of the prepared data set, and what opens its source, which is not fetched before."""
    read = functools.partial(open_source, seed=seed, wanted=Wanted.of(spec))
    if not is_uri(spec.source):
        source = read(spec.source)
        return cache_dir / _key(spec, source.fingerprint(), seed), lambda: source
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
    path = prepared_folder() / _key(spec, content, seed)
    return path, lambda: open_remote(spec.source, listing, read, tell=tell)


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


def prepare_probe(probe: str | None, images: DatasetSpec, cache_dir: Path, *, seed: int) -> PreparedDataset | None:
    """The labelled data set `probe`, which features are judged on; None without one. The limits of `images` hold for it, too.

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
    return prepare_dataset(spec, cache_dir, seed=seed)


def _key(spec: DatasetSpec, fingerprint: Iterable[tuple[str | int, ...]], seed: int) -> str:
    # The hash of one JSON list, [layout, spec, seed, files], of which the files are never in memory together.
    digest = hashlib.sha256(json.dumps([_LAYOUT, spec.to_dict(), seed], sort_keys=True)[:-1].encode() + b", [")
    files, comma = iter(fingerprint), ""
    while some := list(itertools.islice(files, _FILES_AT_ONCE)):
        digest.update((comma + json.dumps(some)[1:-1]).encode())
        comma = ", "
    digest.update(b"]]")
    return digest.hexdigest()[:16]


def _write(
    folder: Path,
    spec: DatasetSpec,
    source: Source,
    seed: int,
    decoded_limit: int,
    parts: dict[str, Part],
    collectors: Sequence[PixelCollector],
    progress: Progress,
) -> None:
    # Over the classes and, split by split, labels and bytes of the readable images: equal digests mean equal data.
    digest = hashlib.sha256(json.dumps(source.classes).encode())
    # Train is the last one where what the others hold is left out of it.
    order = ("validation", "test", "train") if spec.drop_duplicates else SPLITS
    writers: dict[str, SplitWriter] = {}
    with Examined.of(spec.source) as examined:
        for split in order:
            # Of what is written by now, which is nothing unless train is the last one.
            others = Hashes(
                b"".join(writer.contents.hashes.tobytes() for writer in writers.values()) if split == "train" else b""
            )
            writers[split] = SplitWriter(split, parts[split], source, digest, progress, examined, collectors)
            writers[split].write(folder / f"{split}.arrow", without=others)
        # After all of them, so that what the message says helps in every split.
        check_unreadable([writers[split].unreadable for split in SPLITS], spec, source.name)
        for split in SPLITS:
            writers[split].check_filled()
    if spec.drop_duplicates:
        writers["train"].drop_contradicting(folder / "train.arrow", {split: writer.contents for split, writer in writers.items()})
    patches = _write_token_labels(folder, parts["train"], writers["train"].rows, source, digest)
    for split in SPLITS:
        (folder / f"{split}.keys").write_bytes(writers[split].contents.hashes.tobytes())
    report = DatasetReport(
        source=source.name,
        classes=source.classes,
        seed=seed,
        digest_of_images=digest.hexdigest()[:16],
        decoded_limit=decoded_limit,
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
