"""Trials and what they share on machines that have no folder in common, with a store between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from helpers.marks import CI_ONLY
from torch import Tensor

from autoslim.core.recipe import Recipe
from autoslim.core.result import EpochReport, Phase
from autoslim.data import PreparedDataset
from autoslim.storage.mirror import Mirror
from autoslim.storage.uri import StorageUri
from autoslim.training import BaseRequest, TrialContext, prepare_base, run_trial
from autoslim.training.shared_results import SharedRequest, compute_once, costs, kept_costs

Drain = Callable[[Generator[EpochReport, None, Any]], tuple[list[EpochReport], Any]]


@pytest.fixture
def machines(tmp_path: Path) -> tuple[Mirror, Mirror]:
    """The folders of two machines, and one store."""
    store = StorageUri.parse((tmp_path / "store" / "run").as_uri())
    return Mirror(tmp_path / "first", store), Mirror(tmp_path / "second", store)


@pytest.mark.parametrize("method", [pytest.param("merge", marks=CI_ONLY), pytest.param("vit_slim", marks=pytest.mark.slow)])
def test_a_trial_goes_on_on_another_machine_and_gives_the_undisturbed_model(
    method: str,
    machines: tuple[Mirror, Mirror],
    context: TrialContext,
    make_recipe: Callable[..., Recipe],
    drain: Drain,
    tmp_path: Path,
) -> None:
    first, second = machines
    recipe = make_recipe(method, epochs=2.0)
    expected, outcome = drain(run_trial(recipe, context, tmp_path / "undisturbed"))

    # The first machine is lost after an epoch.
    lost = run_trial(recipe, dataclasses.replace(context, mirror=first), first.root / "trials" / "key")
    begun = [next(lost)]
    while begun[-1].phase is not Phase.FINETUNE:
        begun.append(next(lost))
    lost.close()
    # What the second one has is of an earlier time.
    (second.root / "trials" / "key" / "checkpoint").mkdir(parents=True)

    rest, found = drain(run_trial(recipe, dataclasses.replace(context, mirror=second), second.root / "trials" / "key"))
    assert rest[0].epoch == begun[-1].epoch
    assert rest[-1].epoch == expected[-1].epoch
    assert found.accuracy == outcome.accuracy
    assert not (second.root / "trials" / "key" / "model").exists()
    assert not first.has(first.root / "trials" / "key" / "checkpoint")
    model = first.root / "trials" / "key" / "model"
    assert first.fetch(model)
    own = safetensors.torch.load_file(model / "model.safetensors")
    undisturbed = safetensors.torch.load_file(tmp_path / "undisturbed" / "model" / "model.safetensors")
    assert all(torch.equal(own[name], undisturbed[name]) for name in undisturbed)


def test_a_dense_model_is_trained_by_one_machine(
    machines: tuple[Mirror, Mirror], digits: PreparedDataset, request_of: Callable[..., BaseRequest], drain: Drain
) -> None:
    first, second = machines
    request = request_of(epochs=1.0)
    folders = [machine.root / "cache" / "base" for machine in machines]
    reports, facts = drain(prepare_base(folders[0], request, digits, mirror=first))
    assert len(reports) == 1
    reports, again = drain(prepare_base(folders[1], request, digits, mirror=second))
    assert (reports, again) == ([], facts)
    assert not first.has(first.root / "cache" / "base.checkpoint")
    assert [cost.epochs for cost in kept_costs(second, known=())] == [1.0]


REQUEST = SharedRequest(method="toy", settings={}, base_digest="b", dataset_digest="d", training={"epochs": 3.0}, seed=0)


def work(begun: list[str], name: str) -> Generator[EpochReport, None, dict[str, Tensor]]:
    begun.append(name)
    yield EpochReport(epoch=1.5, phase=Phase.SHARED, metrics={"loss": 0.5})
    return {"score": torch.arange(4.0)}


def test_what_one_machine_has_computed_another_one_reads(machines: tuple[Mirror, Mirror], drain: Drain) -> None:
    begun: list[str] = []
    first, second = machines
    _, own = drain(compute_once(first.root / "shared", REQUEST, work(begun, "first"), mirror=first))
    _, read = drain(compute_once(second.root / "shared", REQUEST, work(begun, "second"), mirror=second))
    assert begun == ["first"]
    assert torch.equal(own["score"], read["score"])
    assert kept_costs(second, known=()) == costs(first.root / "shared")
    assert kept_costs(second, known=[REQUEST.digest()]) == []


def test_a_machine_whose_result_the_store_has_not_puts_it_there(machines: tuple[Mirror, Mirror], drain: Drain) -> None:
    begun: list[str] = []
    first, _ = machines
    for _ in range(2):
        drain(compute_once(first.root / "shared", REQUEST, work(begun, "first"), mirror=first))
        folder = first.root / "shared" / REQUEST.digest()
        assert first.has(folder)
        # As where the output was deleted, and the same search begins anew.
        Path(f"{first.uri.path if first.uri else ''}/shared/{REQUEST.digest()}.tar").unlink()
    assert begun == ["first"]
