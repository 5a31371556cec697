from __future__ import annotations

import random
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.signs_of_life import counted_marks

from autoslim.core.job import DatasetSpec
from autoslim.core.recipe import TrainingSettings
from autoslim.data import AUGMENTATIONS, ImageSplit, Loader, augment, crop_steps, prepare_dataset
from autoslim.data.augment import Augmentation, centre_crop
from autoslim.data.batch_share import BatchShare
from autoslim.data.map_ahead import THREAD_NAME
from autoslim.data.one_thread import compute_alone
from autoslim.data.operations import OPERATIONS
from autoslim.errors import RequestError
from autoslim.training.threads import torch_threads

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def split_of(count: int, side: int = 16) -> ImageSplit:
    images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return ImageSplit(np.arange(count), (side, side), lambda indices: images[indices])


def loader_of(split: ImageSplit, *, train: bool = True, size: int | None = None, seed: int = 3, **changes) -> Loader:
    side = (size or split.size[0],) * 2
    training = TrainingSettings(**{"batch_size": 8, **changes})
    return Loader(split, training=training, mean=MEAN, std=STD, image_size=side, seed=seed, train=train)


def epoch_of(loader: Loader, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*loader.epoch(epoch), strict=True)
    return torch.cat(images), torch.cat(labels)


@pytest.mark.parametrize("side", [16, 80])
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_epoch_depends_on_seed_and_number_alone(augmentation, side):
    split = split_of(20, side)
    first = epoch_of(loader_of(split, augmentation=augmentation), 1)
    torch.rand(5), random.random(), np.random.rand()
    loader = loader_of(split, augmentation=augmentation)
    epoch_of(loader, 0)
    again = epoch_of(loader, 1)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    for other in (epoch_of(loader, 2), epoch_of(loader_of(split, augmentation=augmentation, seed=4), 1)):
        assert not torch.equal(first[1], other[1])
        assert not torch.equal(first[0], other[0])


def test_each_batch_is_a_sign_of_life(monkeypatch):
    marks = counted_marks(monkeypatch)
    for count, _ in enumerate(loader_of(split_of(20), train=False).epoch(0), 1):
        assert len(marks) == count
    assert count == 3


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_an_epoch_that_begins_late_has_the_batches_of_the_whole_one(augmentation, train):
    loader = loader_of(split_of(40), augmentation=augmentation, train=train)
    whole, late = list(loader.epoch(1)), list(loader.epoch(1, start=3))
    assert len(late) == 2
    for (images, labels), (late_images, late_labels) in zip(whole[3:], late, strict=True):
        assert torch.equal(images, late_images)
        assert torch.equal(labels, late_labels)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_batches_do_not_depend_on_the_number_of_threads(augmentation):
    split = split_of(20, 80)
    alone = epoch_of(loader_of(split, augmentation=augmentation), 0)[0]
    with torch_threads(2):
        assert torch.equal(epoch_of(loader_of(split, augmentation=augmentation), 0)[0], alone)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_an_image_is_the_same_to_the_bit_in_every_part_of_a_batch(augmentation, monkeypatch):
    split = split_of(24, 40)
    found = []
    for values in (1, 3 * 40 * 40 * 3, 2**40):
        monkeypatch.setattr(augment, "_CACHED_VALUES", values)
        found.append(epoch_of(loader_of(split, size=36, batch_size=24, augmentation=augmentation), 0)[0])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_batches_of_a_cpu_are_made_in_the_threads_that_read(monkeypatch):
    seen: set[str] = set()
    whole = Augmentation.__call__

    def watched(self, *batch):
        seen.add(threading.current_thread().name)
        return whole(self, *batch)

    monkeypatch.setattr(Augmentation, "__call__", watched)
    epoch_of(loader_of(split_of(40), augmentation="light"), 0)
    assert seen
    assert all(name.startswith(THREAD_NAME) for name in seen)


def test_on_a_cpu_too_as_many_batches_are_decoded_at_a_time_as_there_are_threads(monkeypatch):
    split, together = split_of(20 * 8), threading.Barrier(10)
    split.encoded = Path("decoded by processes")

    def decode(_file, _size, indices):
        # The last batches are decoded by whoever is left.
        if indices[0] < 10 * 8:
            together.wait(timeout=30)
        return split.images(indices)

    monkeypatch.setattr("autoslim.data.dataset.decode_elsewhere", decode)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 10)
    images, labels = epoch_of(loader_of(split, train=False), 0)
    split.encoded = None
    assert torch.equal(images, epoch_of(loader_of(split, train=False), 0)[0])
    assert labels.tolist() == list(range(20 * 8))


def test_a_gpu_reads_batches_from_pinned_memory(monkeypatch):
    pinned: list[torch.Tensor] = []
    moved: list[torch.Tensor] = []

    def pin(tensor):
        pinned.append(tensor)
        return tensor

    def move(tensor, *_, **__):
        assert any(tensor is one for one in pinned)
        moved.append(tensor)
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", move)
    loader = loader_of(split_of(8), augmentation="light")
    assert len(list(loader.epoch(0, torch.device("cuda")))) == 1
    # Images, labels, and two tensors of draws.
    assert len(moved) == len(pinned) == 4


def test_a_thread_computes_alone_and_all_others_as_before():
    seen: dict[str, int] = {}

    def alone() -> None:
        compute_alone()
        seen["alone"] = torch.get_num_threads()

    def later() -> None:
        seen["later"] = torch.get_num_threads()

    with torch_threads(2):
        for target in (alone, later):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
        assert torch.get_num_threads() == 2
    assert seen == {"alone": 1, "later": 2}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_a_gpu_gives_the_batches_of_a_cpu_and_is_not_waited_for(augmentation):
    loader, device = loader_of(split_of(64, 80), augmentation=augmentation, batch_size=32), torch.device("cuda")
    wanted = epoch_of(loader, 0)
    epoch = loader.epoch(0, device)
    next(epoch)  # what is loaded at first use has been loaded
    epoch.close()
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = list(loader.epoch(0, device))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(torch.cat([labels for _, labels in batches]).cpu(), wanted[1])
    apart = (torch.cat([images for images, _ in batches]).cpu() - wanted[0]).abs() > 1e-3
    # A rounding error may lead over a threshold of RandAugment's operations.
    assert apart.float().mean() < (1e-3 if augmentation in ("strong", "deit") else 1e-9)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_global_generators_of_the_caller_are_left_alone(augmentation):
    batches = loader_of(split_of(40), augmentation=augmentation).epoch(0)
    next(batches)  # whatever is imported on the way has been imported
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    wanted = random.random(), np.random.rand(), torch.rand(1)
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    for _ in batches:
        pass
    assert (random.random(), np.random.rand(), torch.rand(1)) == wanted


@pytest.mark.parametrize("side", [16, 80])
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_batches_have_the_shape_and_type_the_model_takes(augmentation, side):
    loader = loader_of(split_of(20, side + 4), size=side, augmentation=augmentation)
    batches = list(loader.epoch(0))
    assert len(batches) == len(loader) == 2
    for images, labels in batches:
        assert (images.shape, images.dtype) == ((8, 3, side, side), torch.float32)
        assert (labels.shape, labels.dtype) == ((8,), torch.int64)
        assert images.is_contiguous()
        assert torch.isfinite(images).all()
        images.zero_()


def test_evaluation_takes_all_images_in_order_from_the_centre():
    split = split_of(21, 20)
    loader = loader_of(split, train=False, size=16, augmentation="strong")
    images, labels = epoch_of(loader, 0)
    assert len(loader) == 3
    assert labels.tolist() == list(range(21))
    raw = torch.from_numpy(split.images(np.arange(21))[:, 2:18, 2:18]).permute(0, 3, 1, 2).double() / 255
    wanted = (raw - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(images, wanted.float())


@pytest.mark.parametrize(("count", "steps", "seen"), [(20, 2, 16), (16, 2, 16), (5, 1, 5), (9, 1, 8)])
def test_partial_batch_is_dropped_unless_it_is_the_only_one(count, steps, seen):
    loader = loader_of(split_of(count))
    labels = epoch_of(loader, 0)[1]
    assert (len(loader), len(set(labels.tolist()))) == (steps, seen)


def test_repeated_images_are_in_a_batch_together_and_augmented_each_otherwise():
    split, read = split_of(26), []
    counted = ImageSplit(split.labels, split.size, lambda indices: (read.append(len(indices)), split.images(indices))[1])
    loader = loader_of(counted, repeats=3, batch_size=6, augmentation="light")
    batches = list(loader.epoch(0))
    # As many augmented images as without.
    assert [len(labels) for _, labels in batches] == [6, 6, 6, 6] and len(loader) == len(loader_of(split, batch_size=6)) == 4
    for images, labels in batches:
        assert torch.equal(labels[:3], labels[:1].expand(3)) and torch.equal(labels[3:], labels[3:4].expand(3))
        assert len(set(labels.tolist())) == 2
        assert len(images.flatten(1).unique(dim=0)) > 2
    # Each is read once.
    assert read == [2, 2, 2, 2]
    assert set(batches[0][1].tolist()) != set(next(iter(loader.epoch(1)))[1].tolist())
    # Without training every image comes once.
    assert epoch_of(loader_of(split, repeats=3, train=False), 0)[1].tolist() == list(range(26))


def test_each_rank_has_its_share_of_a_batch_of_repeated_images():
    training = TrainingSettings(batch_size=7, repeats=3, augmentation="light")

    def second_batch(share: BatchShare | None) -> tuple[torch.Tensor, torch.Tensor]:
        loader = Loader(split_of(14), training=training, mean=MEAN, std=STD, image_size=(16, 16), seed=3, train=True, share=share)
        return list(loader.epoch(0))[1]

    whole = second_batch(None)
    # The second batch begins with the rest of a group.
    assert whole[1].unique_consecutive(return_counts=True)[1].tolist() == [2, 3, 2]
    for rank in range(2):
        share = BatchShare(rank=rank, ranks=2)
        own = second_batch(share)
        assert all(torch.equal(mine, all_of_it[share.rows(7)]) for mine, all_of_it in zip(own, whole, strict=True))


def repeated(image: np.ndarray, count: int) -> ImageSplit:
    return ImageSplit(np.zeros(count, np.int64), image.shape[:2], lambda indices: np.stack([image] * len(indices)))


def pixels_of(images: torch.Tensor) -> np.ndarray:
    """The bytes of normalised images, (B, h, w, 3)."""
    return ((images * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)) * 255).permute(0, 2, 3, 1).numpy()


def test_small_images_are_shifted_by_an_eighth_at_most_and_mirrored_at_the_border():
    image = np.broadcast_to(np.arange(16, dtype=np.uint8)[None, :, None], (16, 16, 3))
    images, _ = epoch_of(loader_of(repeated(image, 200), augmentation="light", flip=False), 0)
    found = {tuple(crop[0, :, 0].round().astype(int).tolist()) for crop in pixels_of(images)}
    padded = [2, 1, *range(16), 14, 13]
    assert found == {tuple(padded[start : start + 16]) for start in range(5)}


def test_the_stored_margin_is_used_before_it_is_mirrored():
    image = np.broadcast_to(np.arange(20, dtype=np.uint8)[:, None, None], (20, 20, 3))
    images, _ = epoch_of(loader_of(repeated(image, 200), size=16, augmentation="light", flip=False), 0)
    found = {tuple(crop[:, 0, 0].round().astype(int).tolist()) for crop in pixels_of(images)}
    assert found == {tuple(range(start, start + 16)) for start in range(5)}


def test_small_images_are_to_the_bit_what_numpy_makes_of_the_same_draws():
    split = split_of(16, 20)
    images, labels = next(loader_of(split, size=16, batch_size=16, augmentation="light", seed=5).epoch(3))
    generator = np.random.default_rng([5, 3, 1])
    row, column = (2 + generator.integers(-2, 2, size=16, endpoint=True)[:, None] + np.arange(16) for _ in range(2))
    crops = split.images(labels.numpy())[np.arange(16)[:, None, None], row[:, :, None], column[:, None, :]]
    mirrored = generator.random(16) < 0.5
    crops[mirrored] = crops[mirrored, :, ::-1]
    scale, shift = ((1 / (255 * np.array(STD))).astype(np.float32), (-np.array(MEAN) / np.array(STD)).astype(np.float32))
    wanted = np.multiply(crops, scale, dtype=np.float32) + shift
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), wanted)


def test_of_large_images_a_part_is_shown_in_order():
    ramp = np.linspace(0, 255, 100).astype(np.uint8)
    image = np.broadcast_to(ramp[None, :, None], (100, 100, 3))
    images, _ = epoch_of(loader_of(repeated(image, 48), size=80, augmentation="light", flip=False), 0)
    lines = pixels_of(images)[:, 0, :, 0]
    assert (np.diff(lines, axis=1) > -0.01).all()
    spans = lines[:, -1] - lines[:, 0]
    assert spans.min() > 255 * 0.65
    assert len(set(spans.round().tolist())) > 10


@pytest.mark.parametrize(("augmentation", "smallest"), [("light", 0.6), ("strong", 0.35), ("deit", 0.08), ("imagenet", 0.08)])
def test_crops_have_the_least_area_that_their_recipe_says(augmentation, smallest):
    side = 80
    augmentation = Augmentation(augmentation, stored=(side, side), size=(side, side), flip=True, mean=MEAN, std=STD)
    left_top_right_bottom = augmentation.draw(np.random.default_rng(0), 4000, np.arange(4000)).boxes_B4.double().numpy()
    areas = np.prod(left_top_right_bottom[:, 2:] - left_top_right_bottom[:, :2], axis=1) / side**2
    assert smallest * 0.999 < areas.min() < smallest + 0.01
    assert areas.max() > 0.97


def test_an_augmentation_draws_the_operations_of_its_recipe():
    """DeiT's has RandAugment and erasing, timm's own jitter of colours, and ours all of them."""
    jitter = {"brightness", "contrast", "saturation"}
    kinds = {}
    for name in AUGMENTATIONS:
        augmentation = Augmentation(name, stored=(80, 80), size=(80, 80), flip=True, mean=MEAN, std=STD)
        steps = augmentation.draw(np.random.default_rng(0), 600, np.arange(600)).steps
        # Those of RandAugment are for some images, those of the jitter for all.
        of_all = {step.operation for step in steps if step.rows is None}
        kinds[name] = of_all, {step.operation for step in steps if step.rows is not None} - {"erase"}, steps[-1:]
    for name in ("none", "light"):
        assert kinds[name] == (set(), set(), ())
    assert {name: found[0] for name, found in kinds.items() if found[0]} == {"strong": jitter, "imagenet": jitter}
    randomly = {*OPERATIONS} - {"erase"}
    assert {name: found[1] for name, found in kinds.items() if found[1]} == {"strong": randomly, "deit": randomly}
    assert [name for name, found in kinds.items() if found[2] and found[2][0].operation == "erase"] == ["strong", "deit"]


@pytest.mark.parametrize("flip", [True, False])
def test_images_are_mirrored_half_the_time_where_asked(flip):
    image = np.broadcast_to(np.linspace(0, 255, 16).astype(np.uint8)[None, :, None], (16, 16, 3))
    split = ImageSplit(np.zeros(200, np.int64), (16, 16), lambda indices: np.stack([image] * len(indices)))
    images, _ = epoch_of(loader_of(split, augmentation="light", flip=flip), 0)
    mirrored = (images[:, 0, 8, 3] > images[:, 0, 8, 12]).float().mean()
    assert 0.35 < mirrored < 0.65 if flip else mirrored == 0


def test_none_changes_nothing_but_the_order():
    split = split_of(16)
    images, labels = epoch_of(loader_of(split, augmentation="none"), 0)
    kept, _ = epoch_of(loader_of(split, train=False), 0)
    assert sorted(labels.tolist()) == list(range(16)) != labels.tolist()
    assert torch.equal(images, kept[labels])


def test_strong_survives_full_magnitude(monkeypatch):
    monkeypatch.setattr(crop_steps, "_MAGNITUDE", 12.0)
    images, _ = epoch_of(loader_of(split_of(400), augmentation="strong", batch_size=100), 0)
    assert torch.isfinite(images).all()


def test_strong_erases_some_images():
    split = split_of(400)
    images, _ = epoch_of(loader_of(split, augmentation="strong", batch_size=100), 0)
    low, high = (0 - 0.6) / 0.3, (1 - 0.4) / 0.2
    noisy = ((images < low - 0.5) | (images > high + 0.1)).flatten(1).any(1).float().mean()
    assert 0.05 < noisy < 0.35


def test_next_batches_are_prepared_while_the_caller_works():
    asked: list[int] = []
    ahead = threading.Event()

    def read(indices):
        asked.append(len(indices))
        if len(asked) > 1:
            ahead.set()
        return np.zeros((len(indices), 16, 16, 3), np.uint8)

    batches = loader_of(ImageSplit(np.zeros(800, np.int64), (16, 16), read)).epoch(0)
    next(batches)
    ahead.wait()
    assert 2 <= len(asked) <= 6
    batches.close()


def test_epoch_left_early_leaves_no_thread_behind():
    batches = loader_of(split_of(80)).epoch(0)
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(THREAD_NAME)]


def test_faults_of_reading_reach_the_caller():
    def read(indices):
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        next(loader_of(ImageSplit(np.zeros(8, np.int64), (16, 16), read)).epoch(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augmentation": "wild"}, "augmentation is 'wild'; allowed: none, light, strong, deit, imagenet"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"repeats": 0}, "repeats is 0; allowed: at least 1"),
        ({"size": 32}, "at most .16, 16."),
    ],
)
def test_requests_that_cannot_be_met_say_what_is_allowed(changes, message):
    with pytest.raises(RequestError, match=message):
        loader_of(split_of(8), **changes)


def test_centre_crop_of_odd_margins_stays_inside():
    assert centre_crop(np.zeros((1, 19, 18, 3), np.uint8), (16, 16)).shape == (1, 16, 16, 3)


def test_digits_come_out_as_batches(tmp_path):
    splits = prepare_dataset(DatasetSpec(source="digits"), tmp_path, seed=0).splits((8, 8))
    images, labels = epoch_of(loader_of(splits.train, batch_size=64), 0)
    assert images.shape == (1280, 3, 8, 8)
    assert set(labels.tolist()) == set(range(10))
