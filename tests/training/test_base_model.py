"""The dense model is adapted once, goes on where it stopped, and is taken as it is where nothing is to be done."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from autoslim.core.job import DatasetSpec, ModelSpec
from autoslim.core.plan import Plan
from autoslim.cost import predict
from autoslim.data import PreparedDataset, prepare_dataset
from autoslim.errors import PreemptedError, WeightsError
from autoslim.models import create_dense
from autoslim.models.weights import file_digest
from autoslim.training import BaseRequest, prepare_base
from autoslim.training.base_model import weights_digest
from autoslim.training.shared_results import costs

CPU = torch.device("cpu")
RequestOf = Callable[..., BaseRequest]


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    left, right = weights_in(one), weights_in(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_an_untrained_model_is_adapted_epoch_by_epoch(digits: PreparedDataset, request_of: RequestOf, drain, tmp_path: Path):
    reports, facts = drain(prepare_base(tmp_path / "base", request_of(), digits, device=CPU))
    assert [report.phase for report in reports] == ["adapt"] * 3
    assert [report.epoch for report in reports] == [1.0, 2.0, 3.0]
    assert reports[-1].metrics["loss"] < reports[0].metrics["loss"]
    assert facts.dense_accuracy == reports[-1].metrics["accuracy"]
    dense = create_dense(ModelSpec(name=str(tmp_path / "base")))
    assert dense.is_ready_for(digits.classes)
    assert facts.dense_flops == predict(dense.shape, Plan.dense(dense.shape)).total
    assert facts.params == sum(p.numel() for p in dense.module.parameters())
    assert 0.09 < facts.chance < 0.2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base"]
    assert timm.create_model(f"local-dir:{tmp_path / 'base'}", pretrained=True).num_classes == 10


def test_a_model_for_its_features_is_taken_as_it_is(base: Path, request_of: RequestOf, drain, tmp_path: Path):
    unlabelled = prepare_dataset(DatasetSpec(source="digits", labelled=False, train_limit=220), tmp_path / "cache", seed=0)
    request = request_of().replace(model=ModelSpec(name=str(base)))
    reports, facts = drain(prepare_base(tmp_path / "features", request, unlabelled, device=CPU))
    assert (reports, facts.dense_accuracy, facts.chance, facts.head_check) == ([], 1.0, 0.0, "")
    trained, kept = weights_in(base), weights_in(tmp_path / "features")
    assert {*trained} - {*kept} == {"head.weight", "head.bias"}
    assert all(torch.equal(trained[name], weight) for name, weight in kept.items())
    dense = create_dense(ModelSpec(name=str(tmp_path / "features")))
    assert (dense.shape.classes, dense.labels) == (0, None)
    assert facts.dense_flops == predict(dense.shape, Plan.dense(dense.shape)).total


@pytest.mark.slow
@pytest.mark.short
def test_of_two_who_want_it_at_once_one_trains_it_and_the_other_waits(
    digits: PreparedDataset, request_of: RequestOf, drain, tmp_path: Path
):
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(lambda: drain(prepare_base(tmp_path / "base", request_of(), digits, device=CPU))) for _ in range(2)]
        (reports, facts), (others, same_facts) = (future.result() for future in both)
    assert facts == same_facts
    assert sorted((len(reports), len(others))) == [0, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base"]


def test_its_cost_is_kept_and_a_model_that_needs_no_training_has_none(
    digits: PreparedDataset, request_of: RequestOf, drain, tmp_path: Path
):
    began = time.monotonic()
    drain(prepare_base(tmp_path / "base", request_of(epochs=2.5), digits, device=CPU))
    (cost,) = costs(tmp_path)
    assert (cost.method, cost.epochs) == ("dense model", 2.5)
    assert 0 < cost.seconds <= time.monotonic() - began
    ready = request_of().replace(model=ModelSpec(name=str(tmp_path / "base")))
    drain(prepare_base(tmp_path / "again", ready, digits, device=CPU))
    assert costs(tmp_path) == [cost]


@pytest.mark.slow
@pytest.mark.short
def test_it_goes_on_after_an_interruption_to_the_identical_model(
    digits: PreparedDataset, request_of: RequestOf, drain, tmp_path: Path
):
    # The last segment is shorter than an epoch.
    request = request_of(epochs=3.5)
    reports, facts = drain(prepare_base(tmp_path / "undisturbed", request, digits, device=CPU))
    for stop in range(1, len(reports) + 1):
        folder = tmp_path / f"stopped after {stop}"
        run = prepare_base(folder, request, digits, device=CPU)
        for _ in range(stop):
            next(run)
        run.close()
        assert not folder.exists()
        rest, resumed = drain(prepare_base(folder, request, digits, device=CPU))
        assert resumed == facts
        assert same(folder, tmp_path / "undisturbed")
        # What was reported had been written down before.
        assert [r.epoch for r in rest] == [r.epoch for r in reports][stop:]


@pytest.mark.faults
def test_where_the_process_has_to_end_it_leaves_a_checkpoint_of_its_step_and_goes_on_to_the_identical_model(
    digits: PreparedDataset, request_of: RequestOf, drain, tmp_path: Path
):
    request = request_of(epochs=2.0)
    expected, facts = drain(prepare_base(tmp_path / "undisturbed", request, digits, device=CPU))
    folder, reports, tries = tmp_path / "left", [], 0
    while True:
        asked = iter(range(1000))
        run = prepare_base(folder, request, digits, device=CPU, preempted=lambda asked=asked: next(asked) >= 2)
        tries += 1
        try:
            while True:
                reports.append(next(run))
        except PreemptedError:
            assert not folder.exists()
            continue
        except StopIteration as end:
            assert end.value == facts
            break
    assert tries > 2
    assert [report.metrics["loss"] for report in reports] == [report.metrics["loss"] for report in expected]
    assert same(folder, tmp_path / "undisturbed")


def test_what_is_there_is_not_made_again(digits: PreparedDataset, request_of: RequestOf, base: Path, drain):
    stamp = (base / "model.safetensors").stat().st_mtime_ns
    reports, facts = drain(prepare_base(base, request_of(), digits, device=CPU))
    assert reports == []
    assert facts.dense_flops > 0
    assert (base / "model.safetensors").stat().st_mtime_ns == stamp


def test_a_model_that_fits_is_taken_as_it_is(digits: PreparedDataset, request_of: RequestOf, base: Path, drain, tmp_path: Path):
    request = request_of().replace(model=ModelSpec(name=str(base)))
    reports, _ = drain(prepare_base(tmp_path / "again", request, digits, device=CPU))
    assert reports == []
    assert same(tmp_path / "again", base)


def test_a_model_at_another_size_is_adapted(digits: PreparedDataset, request_of: RequestOf, base: Path, drain, tmp_path: Path):
    request = request_of(epochs=1.0).replace(model=ModelSpec(name=str(base), image_size=(40, 40)))
    reports, _ = drain(prepare_base(tmp_path / "larger", request, digits, device=CPU))
    assert [report.phase for report in reports] == ["adapt"]
    assert create_dense(ModelSpec(name=str(tmp_path / "larger"))).shape.image_size == (40, 40)


@pytest.mark.parametrize("change", [{"seed": 1}, {"weights_digest": "x"}, {"dataset_digest": "x"}])
def test_whatever_decides_the_model_is_in_its_digest(change: dict, request_of: RequestOf):
    assert request_of().replace(**change).digest() != request_of().digest()
    assert request_of(lr=1e-4).digest() != request_of().digest()


@pytest.mark.parametrize("what", ["weights", "model"])
def test_weights_at_a_uri_that_another_node_finds_changed_are_refused(
    what: str, digits: PreparedDataset, request_of: RequestOf, base: Path, drain, tmp_path: Path
):
    model = ModelSpec(name=base.as_uri())
    if what == "weights":
        model = request_of().model.replace(weights=(base / "model.safetensors").as_uri())
    assert weights_digest(model) == file_digest(base / "model.safetensors")
    request = request_of().replace(model=model, weights_digest="of-other-weights")
    with pytest.raises(WeightsError, match=r"the weights at file:///\S+ have changed since the request was made"):
        drain(prepare_base(tmp_path / "adapted", request, digits, device=CPU))
