from __future__ import annotations

import multiprocessing
import re
from pathlib import Path

import numpy as np
import pytest

from autoslim.core.job import DatasetSpec
from autoslim.data import PreparedDataset, open_dataset, prepare_dataset
from autoslim.data.cache import publish_once
from autoslim.data.decode import decode_rgb
from autoslim.errors import DatasetError, OutputError


def spec_of(source: Path | str, **changes) -> DatasetSpec:
    return DatasetSpec(source=str(source), **changes)


def pixel_rows(split) -> set[bytes]:
    return {image.tobytes() for image in split.images(np.arange(len(split)))}


@pytest.fixture
def one_file(write_parquet) -> Path:
    return write_parquet("one.parquet", [0, 1, 2] * 20, names=["cat", "dog", "cow"])


def test_single_file_is_cut_into_three_disjoint_splits(one_file, tmp_path):
    dataset = prepare_dataset(spec_of(one_file), tmp_path / "cache", seed=0)
    splits = dataset.splits((12, 12))
    parts = [pixel_rows(split) for split in (splits.train, splits.validation, splits.test)]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 60
    assert dataset.report.test.drawn_from == dataset.report.validation.drawn_from == "train"
    assert all(min(report.per_class) > 0 for report in (dataset.report.train, dataset.report.validation, dataset.report.test))


def test_splits_of_the_source_stay_whole(write_parquet, tmp_path):
    write_parquet("train.parquet", [0, 1] * 20)
    path = write_parquet("test.parquet", [1, 0] * 5, first=100)
    dataset = prepare_dataset(spec_of(path.parent, validation_share=0.25), tmp_path / "cache", seed=0)
    assert [report.images for report in (dataset.report.train, dataset.report.validation, dataset.report.test)] == [30, 10, 10]
    assert dataset.report.test.drawn_from is None
    assert dataset.splits((12, 12)).test.labels.tolist() == [1, 0] * 5


def test_image_folder_without_splits_is_cut_too(write_images, tmp_path):
    dataset = prepare_dataset(spec_of(write_images({"cat": 10, "dog": 10})), tmp_path / "cache", seed=0)
    assert dataset.report.train.images + dataset.report.validation.images + dataset.report.test.images == 20


def test_labels_stay_with_their_images(write_images, tmp_path):
    root = write_images({"cat": 10, "dog": 10})
    splits = prepare_dataset(spec_of(root), tmp_path / "cache", seed=0).splits((12, 12))
    dogs = {decode_rgb(path.read_bytes()).tobytes() for path in (root / "dog").iterdir()}
    for split in (splits.train, splits.validation, splits.test):
        images = split.images(np.arange(len(split)))
        assert [image.tobytes() in dogs for image in images] == [label == 1 for label in split.labels]


def test_train_limit_leaves_the_other_splits_alone(one_file, tmp_path):
    whole, limited = (prepare_dataset(spec_of(one_file, train_limit=limit), tmp_path / "cache", seed=0) for limit in (None, 9))
    assert limited.report.train.per_class == (3, 3, 3)
    assert pixel_rows(limited.splits((12, 12)).test) == pixel_rows(whole.splits((12, 12)).test)
    assert pixel_rows(limited.splits((12, 12)).train) < pixel_rows(whole.splits((12, 12)).train)


def test_streamed_and_mapped_images_are_equal_to_the_bit(one_file, tmp_path):
    mapped, streamed = (
        prepare_dataset(spec_of(one_file, decoded_limit=limit), tmp_path / "cache", seed=0).splits((16, 20), 0.9)
        for limit in (2**30, 0)
    )
    assert (mapped.decoded, streamed.decoded) == (True, False)
    for one, other in ((mapped.train, streamed.train), (mapped.validation, streamed.validation), (mapped.test, streamed.test)):
        indices = np.random.default_rng(0).permutation(len(one))
        assert one.images(indices).shape == (len(one), 18, 23, 3)
        assert np.array_equal(one.images(indices), other.images(indices))
        assert np.array_equal(one.labels, other.labels)
        assert one.images(indices[:0]).shape == other.images(indices[:0]).shape == (0, 18, 23, 3)


def test_images_handed_out_are_copies(one_file, tmp_path):
    split = prepare_dataset(spec_of(one_file), tmp_path / "cache", seed=0).splits((12, 12)).train
    first = split.images(np.arange(3))
    before = first.copy()
    first[:] = 0
    assert np.array_equal(split.images(np.arange(3)), before)


def test_reopened_in_no_time_with_all_it_had(one_file, tmp_path):
    dataset = prepare_dataset(spec_of(one_file), tmp_path / "cache", seed=0)
    again = open_dataset(dataset.path)
    assert (again.classes, again.digest, again.report) == (("cat", "dog", "cow"), dataset.digest, dataset.report)


def test_folder_that_is_no_cache_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="not a prepared data set"):
        open_dataset(tmp_path)


def test_prepared_once_and_again_where_the_source_changed(one_file, tmp_path, write_parquet):
    first, again = (prepare_dataset(spec_of(one_file), tmp_path / "cache", seed=0) for _ in range(2))
    assert first.path == again.path
    write_parquet("one.parquet", [0, 1, 2] * 21, names=["cat", "dog", "cow"])
    changed = prepare_dataset(spec_of(one_file), tmp_path / "cache", seed=0)
    assert changed.path != first.path
    assert changed.digest != first.digest


def test_digest_names_the_content_not_the_place(one_file, tmp_path):
    copy = tmp_path / "copy.parquet"
    copy.write_bytes(one_file.read_bytes())
    first, second, other = (
        prepare_dataset(spec_of(path), tmp_path / "cache", seed=seed) for path, seed in ((one_file, 0), (copy, 0), (copy, 1))
    )
    assert first.digest == second.digest != other.digest


def _prepare(source: str, cache: Path, answers) -> None:
    dataset = prepare_dataset(spec_of(source), cache, seed=0)
    splits = dataset.splits((12, 12))
    answers.put((dataset.digest, int(splits.train.images(np.arange(5)).sum())))


@pytest.mark.slow
def test_processes_that_prepare_at_once_agree(one_file, tmp_path):
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    workers = [context.Process(target=_prepare, args=(str(one_file), tmp_path / "cache", answers)) for _ in range(3)]
    for worker in workers:
        worker.start()
    found = {answers.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    assert len(found) == 1
    assert not list((tmp_path / "cache").glob("**/*.partial*"))


def test_nothing_is_left_of_work_that_failed(tmp_path):
    def fail() -> None:
        with publish_once(tmp_path / "thing") as folder:
            (folder / "half").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_remains_of_killed_work_are_cleared(tmp_path):
    (tmp_path / "thing.partial").mkdir()
    with publish_once(tmp_path / "thing") as folder:
        (folder / "whole").write_text("whole")
    assert (tmp_path / "thing" / "whole").is_file()
    assert not (tmp_path / "thing.partial").exists()


def test_cache_that_cannot_be_written_is_an_output_error(one_file, tmp_path):
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(OutputError, match="cannot be written"):
        prepare_dataset(spec_of(one_file), tmp_path / "cache", seed=0)


@pytest.fixture
def broken(write_parquet, picture):
    def write(count: int) -> Path:
        images = [b"broken" if number < count else picture(number) for number in range(200)]
        path = write_parquet("train.parquet", [0, 1] * 100, images=images)
        write_parquet("validation.parquet", [0, 1] * 5)
        write_parquet("test.parquet", [0, 1] * 5)
        return path.parent

    return write


@pytest.mark.faults
def test_unreadable_images_are_dropped_named_and_counted(broken, tmp_path):
    dataset = prepare_dataset(spec_of(broken(2)), tmp_path / "cache", seed=0)
    report = dataset.report.train
    assert (report.images, report.unreadable) == (198, 2)
    assert report.named[0].startswith("train.parquet:0 (0.png): not an image")
    assert len(dataset.splits((12, 12)).train) == 198


@pytest.mark.faults
def test_too_many_unreadable_images_fail_with_what_to_do_and_are_all_named(broken, tmp_path):
    source = broken(4)
    message = (
        r"4 of 200 images of the train split of .*; allowed: 2, a share of 0\.01\. .*--unreadable-share 4, a number of images\. "
        r".* the first: train.parquet:0 "
    )
    with pytest.raises(DatasetError, match=message) as refusal:
        prepare_dataset(spec_of(source), tmp_path / "cache", seed=0)
    named = re.search(r"All are named in (\S+\.txt)", str(refusal.value))
    assert named is not None
    names = Path(named[1])
    assert [line.split(" ")[0] for line in names.read_text().splitlines()] == [f"train.parquet:{row}" for row in range(4)]
    names.unlink()
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    # What the message says helps.
    assert refusal.value.flags == ("--unreadable-share", "4")
    assert prepare_dataset(spec_of(source, unreadable_images=4), tmp_path / "cache", seed=0).report.train.unreadable == 4


def test_what_is_said_of_unreadable_images_helps_in_every_split(write_parquet, picture, tmp_path):
    """One of a few is more than a share of 0.01, so that small sets need a number."""
    for split, count, broken in (("train", 32, 1), ("validation", 8, 0), ("test", 8, 3)):
        images = [b"broken" if number < broken else picture(number) for number in range(count)]
        path = write_parquet(f"{split}.parquet", [0, 1] * (count // 2), images=images)
    with pytest.raises(
        DatasetError,
        match=r"^1 of 32 images of the train split and 3 of 8 images of the test split of .*; allowed: 0, a share of 0\.01",
    ) as refusal:
        prepare_dataset(spec_of(path.parent), tmp_path / "cache", seed=0)
    assert refusal.value.flags == ("--unreadable-share", "3")
    report = prepare_dataset(spec_of(path.parent, unreadable_images=3), tmp_path / "cache", seed=0).report
    assert (report.train.unreadable, report.test.unreadable) == (1, 3)
    with pytest.raises(DatasetError, match=r"^3 of 8 images of the test split of .*; allowed: 2\. Remove"):
        prepare_dataset(spec_of(path.parent, unreadable_images=2), tmp_path / "cache", seed=0)


def test_names_of_unreadable_images_end_at_fifty(broken, tmp_path):
    dataset = prepare_dataset(spec_of(broken(60), unreadable_share=0.5), tmp_path / "cache", seed=0)
    assert (dataset.report.train.unreadable, len(dataset.report.train.named)) == (60, 50)


def test_class_without_a_readable_image_is_named(write_parquet, picture, tmp_path):
    images = [b"broken" if number % 2 else picture(number) for number in range(20)]
    path = write_parquet("train.parquet", [0, 1] * 10, images=images, names=["cat", "dog"])
    write_parquet("validation.parquet", [0, 1], names=["cat", "dog"])
    write_parquet("test.parquet", [0, 1], names=["cat", "dog"])
    with pytest.raises(DatasetError, match="class 'dog' has no readable image in the train split"):
        prepare_dataset(spec_of(path.parent, unreadable_share=0.9), tmp_path / "cache", seed=0)


@pytest.mark.parametrize("choice", [{"unreadable_share": -0.1}, {"unreadable_share": 1.5}, {"unreadable_images": -1}])
def test_unreadable_share_out_of_range_is_refused(one_file, tmp_path, choice):
    with pytest.raises(
        DatasetError, match=r"unreadable_share is .*; allowed: a share from 0 to 1, .* or a whole number of images"
    ):
        prepare_dataset(spec_of(one_file, **choice), tmp_path, seed=0)


def test_digits_hold_what_scikit_learn_ships(tmp_path):
    from sklearn.datasets import load_digits

    dataset = prepare_dataset(spec_of("digits"), tmp_path, seed=0)
    assert (dataset.report.train.images, dataset.report.validation.images, dataset.report.test.images) == (1293, 144, 360)
    splits = dataset.splits((8, 8))
    total = sum(
        int(split.images(np.arange(len(split)))[..., 0].sum()) for split in (splits.train, splits.validation, splits.test)
    )
    assert total == int(np.round(load_digits().images * (255 / 16)).sum())


def test_real_photographs_with_grey_ones_among_them(real_data, tmp_path):
    dataset: PreparedDataset = prepare_dataset(spec_of(real_data / "imagenette224-small", train_limit=100), tmp_path, seed=0)
    assert dataset.classes[0] == "tench"
    assert dataset.report.train.unreadable == 0
    splits = dataset.splits((32, 32))
    images = splits.test.images(np.arange(len(splits.test)))
    grey = (images[..., 0] == images[..., 2]).all(axis=(1, 2))
    assert 0 < grey.sum() < 80


def test_real_small_images_are_kept_as_they_are(real_data, tmp_path):
    dataset = prepare_dataset(spec_of(real_data / "cifar10-mini"), tmp_path, seed=0)
    assert dataset.report.train.per_class == (180,) * 10
    assert dataset.report.validation.per_class == (20,) * 10
    assert dataset.splits((32, 32)).test.images(np.array([0])).shape == (1, 32, 32, 3)
