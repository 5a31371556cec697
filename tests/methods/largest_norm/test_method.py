"""The method that `docs/developing/add-a-method.md` shows keeps the contract, like any in the registry."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from helpers.method_contract import OF_A_METHOD, OF_A_MODEL, exports_with_a_dynamic_batch
from helpers.tiny import config_of, images, logits, make_dense, share_of_dense, slim, slimmed

from autoslim.core.plan import Plan
from autoslim.cost import count_flops, predict
from autoslim.errors import InfeasibleError
from autoslim.export.artifact import load, save
from autoslim.methods import METHODS, evaluate, solve

PATH = Path(__file__).parents[3] / "docs" / "developing" / "smallest_method.py"
NAME = "largest_norm"

# For the contract suite.

KEEP_ALL = {"keep": 1.0}


def check_training_form_is_pruned_form(model: str) -> None:
    """Nothing is trained before pruning: the only form is the pruned one, in which the patches of the largest norm stay."""
    dense, finished = slimmed(NAME, model)
    prefix, first = dense.shape.prefix_tokens, dense.shape.depth // 3
    seen = []
    handle = finished.model.blocks.stages[first].pre_block.register_forward_hook(
        lambda _, inputs, output: seen.append((inputs[0], output))
    )
    logits(finished.model, images())
    handle.remove()
    ((entered, left),) = seen
    norms, kept = entered[:, prefix:].norm(dim=-1), left[:, prefix:].norm(dim=-1)
    torch.testing.assert_close(kept, norms.sort(dim=1, descending=True).values[:, : kept.shape[1]])


@functools.cache
def smallest_method() -> ModuleType:
    spec = importlib.util.spec_from_file_location("smallest_method", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an entry of the registry would do it."""
    monkeypatch.setitem(METHODS, NAME, smallest_method().LargestNorm())
    monkeypatch.setitem(sys.modules, "smallest_method", smallest_method())


@pytest.mark.parametrize("model", ["deit", "distilled", "average without class token"])
@pytest.mark.parametrize("promise", OF_A_MODEL, ids=lambda promise: promise.__name__)
def test_it_keeps_what_is_promised_of_a_model(promise: Callable[[str, str], None], model: str):
    promise(NAME, model)


@pytest.mark.parametrize("promise", OF_A_METHOD, ids=lambda promise: promise.__name__)
def test_it_keeps_what_is_promised_of_a_method(promise: Callable[[str], None]):
    promise(NAME)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("model", ["deit", "distilled", "average without class token"])
def test_it_is_exported(model: str):
    exports_with_a_dynamic_batch(NAME, model)


@pytest.mark.parametrize("share", [0.6, 0.75, 0.9, 1.0])
def test_the_solver_moves_its_knob_onto_the_budget(share: float):
    dense = make_dense("vit")
    shape, budget = dense.shape, share_of_dense(dense.shape, share)
    solved = solve(METHODS[NAME], shape, Plan.dense(shape), {}, budget)
    patches = round(solved.knobs["keep"] * shape.patches)
    assert count_flops(slim(NAME, dense, share=share).model, 32) == solved.flops <= budget
    more = evaluate(METHODS[NAME], shape, Plan.dense(shape), {"keep": min(1.0, (patches + 1) / shape.patches)})
    assert more.flops > budget or patches == shape.patches


def test_a_budget_below_its_cheapest_form_is_infeasible():
    dense = make_dense("deit")
    with pytest.raises(InfeasibleError, match="largest_norm: this recipe's cheapest form has"):
        solve(METHODS[NAME], dense.shape, Plan.dense(dense.shape), {}, share_of_dense(dense.shape, 0.1))


def test_it_is_saved_and_loaded(tmp_path: Path):
    dense, finished = slimmed(NAME, "deit")
    save(tmp_path, finished.model, config_of(NAME, dense, finished))
    assert torch.equal(logits(load(tmp_path), images()), logits(finished.model, images()))


def test_it_is_complete_in_sixty_lines():
    text = PATH.read_text()
    assert len(text.splitlines()) <= 60
    assert predict(make_dense().shape, slimmed(NAME, "deit")[1].plan).extras == 0
