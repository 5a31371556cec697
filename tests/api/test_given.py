"""Models and data that a caller has as objects."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from autoslim.api.given import GivenInputs, given_inputs
from autoslim.core.job import DatasetSpec, ModelSpec
from autoslim.data import prepare_dataset
from autoslim.data.sources import open_source
from autoslim.errors import DatasetError, RequestError
from autoslim.models import create_dense

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}


class Pairs(torch.utils.data.Dataset):
    def __init__(self, *pairs, classes=()):
        self.pairs = pairs
        if classes:
            self.classes = list(classes)

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]


def picture(seed: int, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def given(folder: Path) -> GivenInputs:
    made = folder / "made"
    made.mkdir()
    return GivenInputs(made, folder / "home")


def test_names_and_paths_are_taken_as_they_are(tmp_path: Path) -> None:
    inputs = given(tmp_path)
    assert inputs.model("deit_tiny_patch16_224") == "deit_tiny_patch16_224"
    assert inputs.data(Path("flowers")) == "flowers"
    assert list((tmp_path / "made").iterdir()) == []


def test_a_timm_model_keeps_its_sizes_and_its_weights(tmp_path: Path) -> None:
    module = timm.create_model("deit_tiny_patch16_224", num_classes=7, **TINY).eval()
    inputs = given(tmp_path)
    folder = inputs.model(module)
    inputs.place()
    dense = create_dense(ModelSpec(name=folder))
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(dense.module(x), module(x))
    assert dense.trained and dense.head_fits


def test_other_weights_are_another_model(tmp_path: Path) -> None:
    folders = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        module = timm.create_model("deit_tiny_patch16_224", num_classes=7, **TINY)
        (tmp_path / str(len(folders))).mkdir()
        folders.append(Path(given(tmp_path / str(len(folders))).model(module)).name)
    assert folders[0] == folders[1] != folders[2]


@pytest.mark.parametrize("model", [torch.nn.Linear(2, 2), 3, None])
def test_what_is_no_timm_model_is_refused(tmp_path: Path, model: object) -> None:
    with pytest.raises(RequestError, match=f"model is a {type(model).__name__}; allowed: a timm name"):
        given(tmp_path).model(model)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1"])
def test_images_arrive_to_the_bit_with_their_labels_and_classes(tmp_path: Path, mode: str) -> None:
    pairs = [(picture(number, mode), number % 2) for number in range(6)]
    inputs = given(tmp_path)
    folder = inputs.data({"train": Pairs(*pairs, classes=("cat", "dog")), "val": Pairs(*pairs[:2], classes=("cat", "dog"))})
    inputs.place()
    source = open_source(folder, seed=0)
    assert source.classes == ("cat", "dog")
    assert source.train.labels.tolist() == [0, 1] * 3
    assert source.validation is not None and len(source.validation.labels) == 2
    for (_, encoded, _), (image, _) in zip(source.train.rows(np.arange(6)), pairs, strict=True):
        with Image.open(io.BytesIO(encoded)) as stored:
            assert np.array_equal(np.asarray(stored.convert("RGBA")), np.asarray(image.convert("RGBA")))


@pytest.mark.parametrize("form", ["uint8 tensor", "float tensor", "array", "grey tensor"])
def test_tensors_and_arrays_are_images(tmp_path: Path, form: str) -> None:
    image = picture(3, "L" if form == "grey tensor" else "RGB")
    array = np.array(image)
    tensor = torch.from_numpy(array)[None] if form == "grey tensor" else torch.from_numpy(array).permute(2, 0, 1)
    value = {"uint8 tensor": tensor, "float tensor": tensor / 255, "array": array, "grey tensor": tensor}[form]
    inputs = given(tmp_path)
    folder = inputs.data(Pairs(*[(value, label) for label in (0, 1, 0, 1)]))
    inputs.place()
    _, encoded, _ = next(open_source(folder, seed=0).train.rows(np.array([0])))
    with Image.open(io.BytesIO(encoded)) as stored:
        assert np.array_equal(np.asarray(stored), array)


def test_a_part_of_a_torchvision_set_keeps_its_class_names(tmp_path: Path) -> None:
    whole = Pairs(*[(picture(n), n % 3) for n in range(9)], classes=("a", "b", "c"))
    inputs = given(tmp_path)
    folder = inputs.data(torch.utils.data.Subset(whole, range(6)))
    inputs.place()
    assert open_source(folder, seed=0).classes == ("a", "b", "c")


def test_labels_may_be_names_of_classes(tmp_path: Path) -> None:
    inputs = given(tmp_path)
    folder = inputs.data(Pairs((picture(0), "dog"), (picture(1), "cat"), classes=("cat", "dog")))
    inputs.place()
    assert open_source(folder, seed=0).train.labels.tolist() == [1, 0]


def test_what_is_given_can_be_prepared(tmp_path: Path) -> None:
    inputs = given(tmp_path)
    folder = inputs.data(Pairs(*[(picture(n), n % 2) for n in range(40)]))
    inputs.place()
    prepared = prepare_dataset(DatasetSpec(source=folder), tmp_path / "cache", seed=0)
    assert prepared.classes == ("0", "1")
    assert prepared.report.train.images + prepared.report.validation.images + prepared.report.test.images == 40


@pytest.mark.parametrize(
    ("pair", "problem"),
    [
        ((torch.randn(3, 8, 8), 0), "values from .*Give the Dataset without its normalization"),
        ((torch.zeros(5, 8, 8, dtype=torch.uint8), 0), r"shape \(8, 8, 5\)"),
        ((torch.zeros(8, dtype=torch.uint8), 0), r"shape \(8,\)"),
        ((picture(0), "cat"), "the label is 'cat'; expected a whole number"),
        ((picture(0), 0.5), "the label is 0.5"),
        ((picture(0), None), "the label is None"),
        (("image.png", 0), "the image is a str"),
        ({"image": picture(0)}, "is a dict; expected a pair"),
    ],
)
def test_an_entry_that_is_no_image_with_a_label_is_named(tmp_path: Path, pair: object, problem: str) -> None:
    with pytest.raises(DatasetError, match=rf"data\[1\].*{problem}"):
        given(tmp_path).data(Pairs((picture(0), 0), pair))


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="data is a generator; allowed"):
        given(tmp_path).data(pair for pair in ())
    with pytest.raises(RequestError, match="data has the split 'holdout'; allowed: train, training, validation"):
        (tmp_path / "again").mkdir()
        given(tmp_path / "again").data({"holdout": Pairs()})


def test_one_split_twice_and_one_model_twice(tmp_path: Path) -> None:
    inputs = given(tmp_path)
    with pytest.raises(RequestError, match="data has two splits for validation, 'dev' is one of them"):
        inputs.data({"train": Pairs((picture(0), 0)), "val": Pairs((picture(0), 0)), "dev": Pairs((picture(0), 0))})
    module = timm.create_model("deit_tiny_patch16_224", **TINY)
    assert inputs.model(module) == inputs.model(module)


def test_deep_greys_keep_their_values_or_are_refused(tmp_path: Path) -> None:
    deep = Image.fromarray(np.array([[0, 3000], [65535, 7]], np.int32))
    inputs = given(tmp_path)
    folder = inputs.data(Pairs((deep, 0), (deep, 1)))
    inputs.place()
    _, encoded, _ = next(open_source(folder, seed=0).train.rows(np.array([0])))
    with Image.open(io.BytesIO(encoded)) as stored:
        assert np.asarray(stored).tolist() == [[0, 3000], [65535, 7]]
    for number, values in enumerate((np.array([[0.5]], np.float32), np.array([[70000]], np.int32))):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(DatasetError, match=r"the image has Pillow's mode [FI]; expected one of"):
            given(tmp_path / str(number)).data(Pairs((Image.fromarray(values), 0)))


def test_what_was_not_placed_is_deleted(tmp_path: Path) -> None:
    output = tmp_path / "runs" / "out"
    with given_inputs(output, output / "cache/given") as inputs:
        kept = inputs.data(Pairs((picture(0), 0), (picture(1), 1)))
        inputs.place()
        inputs.place()
        left = inputs.model(timm.create_model("deit_tiny_patch16_224", **TINY))
    assert Path(kept).is_dir()
    assert not Path(left).exists()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["out"]
