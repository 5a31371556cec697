"""A prepared data set, which any process opens at little cost, and its images at one size. N images, H and W pixels."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoslim.core.user_cache import cache_folder, cache_limit
from autoslim.data.cache import EncodedFile, publish_once
from autoslim.data.copies import content_hash
from autoslim.data.decode import decode_rgb, fit, storage_size
from autoslim.data.decoders import decode_elsewhere
from autoslim.data.map_ahead import map_ahead
from autoslim.data.pixel_cache import PixelCache
from autoslim.data.pixel_collector import PixelCollector
from autoslim.data.pixel_file import Keys, PixelFile, bytes_in_file, keys_of
from autoslim.data.progress import Progress
from autoslim.data.reference import DatasetReference
from autoslim.data.report import DatasetReport
from autoslim.data.table import Indices, Labels
from autoslim.data.token_labels import TokenLabels
from autoslim.errors import DatasetError
from autoslim.storage.mirror import Mirror

SPLITS = ("train", "validation", "test")
MANIFEST = "dataset.json"


class ImageSplit:
    """One split at one storage size: `labels` int64 (N,), `size` (H, W), and the labels of its images' patches, if there are any. `encoded`
    is the file whose images are decoded when they are read; None where they are decoded already.
    """

    def __init__(
        self,
        labels: Labels,
        size: tuple[int, int],
        read: Callable[[Indices], NDArray[np.uint8]],
        token_labels: TokenLabels | None = None,
        *,
        encoded: Path | None = None,
    ) -> None:
        self.labels, self.size, self._read, self.token_labels, self.encoded = labels, size, read, token_labels, encoded

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Indices) -> NDArray[np.uint8]:
        """The images at `indices`, uint8 RGB (N, H, W, 3); a new array that the caller may change."""
        return self._read(np.asarray(indices, np.int64))

    def batch(self, indices: Indices) -> NDArray[np.uint8]:
        """The same, for many batches that several threads ask for: what has to be decoded is, by a process for each of them."""
        found = None if self.encoded is None else decode_elsewhere(self.encoded, self.size, indices)
        return self.images(indices) if found is None else found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Splits:
    """The three splits at one storage size; `decoded` if they were decoded once, else they are decoded on access."""

    train: ImageSplit
    validation: ImageSplit
    test: ImageSplit
    decoded: bool


class PreparedDataset:
    """Another process opens it by `path` (`open_dataset`), and one that may be on another node by `reference` (`open_reference`). `digest`
    identifies its content: images, labels, classes and splits.
    """

    def __init__(
        self,
        path: Path,
        report: DatasetReport,
        collected: Mapping[tuple[int, int], int] | None = None,
        *,
        reference: DatasetReference | None = None,
    ) -> None:
        self.path, self.report, self._collected = path, report, dict(collected or {})
        self._reference = reference or DatasetReference(path=str(path))

    @property
    def reference(self) -> str:
        """JSON."""
        return self._reference.to_json()

    def with_collected(self, collected: Mapping[tuple[int, int], int]) -> PreparedDataset:
        """By the storage size, how many images were decoded while this was prepared just now."""
        return PreparedDataset(self.path, self.report, collected, reference=self._reference)

    def kept_in(self, mirror: Mirror) -> PreparedDataset:
        """The same, which is put into the output in a store, if there is one, for nodes that do not see `path`. One that each node prepares
        by itself stays as it is."""
        if mirror.uri is None or self._reference.spec is not None:
            return self
        mirror.keep_once(self.path)
        reference = DatasetReference(path=mirror.name(self.path), output_uri=mirror.address)
        return PreparedDataset(self.path, self.report, self._collected, reference=reference)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.report.classes

    @property
    def digest(self) -> str:
        return self.report.digest_of_images

    @property
    def images(self) -> int:
        """Of all splits."""
        return self.report.train.images + self.report.validation.images + self.report.test.images

    def splits(self, image_size: tuple[int, int], crop_pct: float = 1.0) -> Splits:
        """The splits at the storage size of `image_size` (H, W). They are decoded once into files if that takes at most `decoded_limit`
        bytes, else on access; the pixels are the same. Images that an earlier search decoded are taken from the user's cache.
        """
        size = storage_size(image_size, crop_pct)
        if not self._is_decoded_once(size):
            return Splits(**{split: self._streamed(split, size) for split in SPLITS}, decoded=False)
        folder = self._decode(size)
        return Splits(**{split: self._of_pixels(split, size, folder) for split in SPLITS}, decoded=True)

    def collected(self, sizes: Iterable[tuple[int, int]], progress: Progress) -> PreparedDataset:
        """With the pixels at these storage sizes of images that were not decoded before, which the user's cache keeps for `splits`: decoded
        in one pass, by all CPUs. Sizes of which it has all, or cannot keep all, are left to `splits`."""
        with contextlib.ExitStack() as stack:
            collectors = [
                stack.enter_context(PixelCache.of_user(size).collecting()) for size in sizes if self._can_be_collected(size)
            ]
            for split in SPLITS if collectors else ():
                for content, pixels in self._new_pixels(split, collectors):
                    progress.advance()
                    for collector, own in pixels:
                        collector.add(content, *own)
        return self.with_collected({collector.size: collector.count for collector in collectors})

    def _can_be_collected(self, size: tuple[int, int]) -> bool:
        if self._decoded(size).is_dir() or self.images * bytes_in_file(size) > cache_limit():
            return False
        cache = PixelCache.of_user(size)
        return any(cache.count(keys) < len(keys) for keys in map(self._keys, SPLITS))

    def _new_pixels(
        self, split: str, collectors: Sequence[PixelCollector]
    ) -> Iterator[tuple[bytes, list[tuple[PixelCollector, tuple[bytes, bytes]]]]]:
        """Of each image its key, and its pixels with their check for whoever has none yet."""
        file, keys = self._encoded(split), self._keys(split)

        def pixels_of(index: int) -> tuple[bytes, list[tuple[PixelCollector, tuple[bytes, bytes]]]]:
            content = keys[index].tobytes()
            wanted = [collector for collector in collectors if collector.wants(content)]
            if not wanted:
                return content, []
            image = decode_rgb(file.bytes_of(index))
            return content, [(collector, collector.pixels_of(image, content)) for collector in wanted]

        return map_ahead(pixels_of, range(len(file)))

    def kept(self, image_size: tuple[int, int], crop_pct: float = 1.0) -> int:
        """How many images an earlier search has decoded, which `splits` takes from the user's cache; 0 where it has been called before."""
        size = storage_size(image_size, crop_pct)
        if not self._is_decoded_once(size) or self._decoded(size).is_dir():
            return 0
        cache = PixelCache.of_user(size)
        # Of an image with copies, each counts here, and one was decoded.
        found = sum(cache.count(self._keys(split)) for split in SPLITS)
        return max(0, found - self._collected.get(size, 0))

    def lines(self, inputs: Iterable[tuple[tuple[int, int], float]]) -> list[str]:
        """What `report` says, and how many images are `kept` for models with these `inputs`: the size of an image and the crop."""
        kept = {storage_size(*one): self.kept(*one) for one in inputs}
        taken = (
            f"{count:,} of {self.images:,} images are taken decoded, at {height}x{width}, from {cache_folder()}"
            for (height, width), count in kept.items()
            if count
        )
        return [*self.report.lines(), *taken]

    def names(self, split: str, indices: Indices) -> list[str]:
        """The names of images of a split, as they are called in the source."""
        file = self._encoded(split)
        return [file.name_of(index) for index in indices.tolist()]

    def _encoded(self, split: str) -> EncodedFile:
        return EncodedFile(self._encoded_path(split))

    def _encoded_path(self, split: str) -> Path:
        return self.path / f"{split}.arrow"

    def _streamed(self, split: str, size: tuple[int, int]) -> ImageSplit:
        file = self._encoded(split)
        read = functools.partial(decoded, file, size)
        return ImageSplit(file.labels, size, read, self._token_labels(split), encoded=self._encoded_path(split))

    def _of_pixels(self, split: str, size: tuple[int, int], folder: Path) -> ImageSplit:
        pixels = PixelFile(folder / f"{split}.pixels", size)
        return ImageSplit(self._encoded(split).labels, size, pixels.images, self._token_labels(split))

    def _token_labels(self, split: str) -> TokenLabels | None:
        return TokenLabels.find(self.path, split, len(self.classes))

    def _is_decoded_once(self, size: tuple[int, int]) -> bool:
        return self.images * size[0] * size[1] * 3 <= self.report.decoded_limit

    def _decoded(self, size: tuple[int, int]) -> Path:
        return self.path / f"pixels-{size[0]}x{size[1]}"

    def _decode(self, size: tuple[int, int]) -> Path:
        target, cache = self._decoded(size), PixelCache.of_user(size)
        with publish_once(target) as folder:
            for split in SPLITS if folder is not None else ():
                assert folder is not None
                decode = functools.partial(_pixels, self._encoded(split), size)
                cache.write(folder / f"{split}.pixels", self._keys(split), decode)
        return target

    def _keys(self, split: str) -> Keys:
        path = self.path / f"{split}.keys"
        if path.is_file():
            return keys_of(path.read_bytes())
        # An earlier version prepared this folder.
        file = self._encoded(split)
        return keys_of(b"".join(content_hash(file.bytes_of(index)) for index in range(len(file))))


def decoded(file: EncodedFile, size: tuple[int, int], indices: Indices) -> NDArray[np.uint8]:
    """The images at `indices` in the storage size `size`, (N, H, W, 3)."""
    images = np.empty((len(indices), *size, 3), np.uint8)
    for image, index in zip(images, indices.tolist(), strict=True):
        image[:] = fit(decode_rgb(file.bytes_of(index)), size)
    return images


def _pixels(file: EncodedFile, size: tuple[int, int], index: int) -> bytes:
    return fit(decode_rgb(file.bytes_of(index)), size).tobytes()


def open_dataset(path: Path, reference: DatasetReference | None = None) -> PreparedDataset:
    """Opens the data set that `prepare_dataset` wrote to `path`; reads one small file. `reference` is how other nodes find it, where that
    is not by the path. Raises DatasetError if it is not there."""
    try:
        report = DatasetReport.from_json((path / MANIFEST).read_text())
        if reference is not None:
            # When it was used last, by which unused ones are found in the user's cache.
            os.utime(path)
        return PreparedDataset(path, report, reference=reference)
    except OSError as error:
        raise DatasetError(f"{path} is not a prepared data set: {error}") from error
