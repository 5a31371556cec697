"""The baselines meet their budgets by what is measured and do what their papers say; the table says what the runs found."""

from __future__ import annotations

import copy
import itertools
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import methods_runs
import methods_schedule
import numpy as np
import pytest
import torch
from baselines import BASELINES
from baselines.evit import attention_with_class_row
from baselines.smaller_image import grid_within
from baselines.tome import match, merge, proportional_attention
from baselines.width_pruning import taylor_scores
from cached_teacher import CachedTeacher
from helpers.tiny import TinySharedTrainer, images, make_dense, share_of_dense, slim
from methods_runs import Run, Settings
from torch import nn
from torch.nn import functional

from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs
from autoslim.cost import COUNTERS_AGREE_WITHIN, count_flops, count_flops_torch, predict
from autoslim.cost.params import predict_params
from autoslim.errors import UnsupportedModelError
from autoslim.methods import METHODS, SlimmedModel, StepContext, solve
from autoslim.methods.base import logits_of
from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.methods.patch_slimming.method import token_selectors
from autoslim.models import DenseModel

pytestmark = pytest.mark.slow

MODELS = ("vit", "deit", "distilled", "registers")
CUTTING = tuple(name for name in BASELINES if name != "dense")
KEEP_ALL: dict[str, Knobs] = {
    "dense": {},
    "random_tokens": {f"life_threshold_{k}": 0.0 for k in range(1, 4)},
    "random_places": {"keep": 1.0, "class_query": False},
    "evit": {f"keep_{k}": 1.0 for k in range(1, 4)},
    "tome": {"rate": 0.0},
    "smaller_image": {"keep": 1.0},
    "random_units": {"keep": 1.0},
    "random_width": {"keep": 1.0},
    "l2_width": {"keep": 1.0},
    "taylor_width": {"keep": 1.0},
}
CASES = list(itertools.product(CUTTING, MODELS))


def finished(name: str, dense: DenseModel, share: float, knobs: Knobs | None = None) -> SlimmedModel:
    """Solved onto `share` of the FLOPs and cut, not trained."""
    method, plan, budget = (METHODS | BASELINES)[name], Plan.dense(dense.shape), share_of_dense(dense.shape, share)
    solved = solve(method, dense.shape, plan, knobs or {}, budget).knobs
    settings = method.shared_settings(dense.shape, solved)
    shared = None if settings is None else drained(method.prepare(TinySharedTrainer(dense), settings))
    context = StepContext(shape=dense.shape, plan=plan, knobs=solved, budget=budget, shared=shared)
    student = method.attach(copy.deepcopy(dense.module), context, images(size=dense.shape.image_size))
    with torch.no_grad():
        found = method.prune(student, context)
    found.model.eval()
    return found


def test_random_places_are_those_of_the_seed_and_only_the_places_are_random():
    dense = make_dense("vit")
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(finished("random_places", dense, 0.6))
    rows = [{block: selector.index for block, selector in token_selectors(one.model).items()} for one in found]
    assert rows[0].keys() == rows[1].keys() == rows[2].keys()
    assert all(torch.equal(rows[0][block], rows[1][block]) for block in rows[0])
    assert not all(torch.equal(rows[0][block], rows[2][block]) for block in rows[0])
    # The counts are Patch Slimming's own; the weights are the dense model's.
    assert found[0].plan == slim("patch_slimming", dense, share=0.6).plan
    for block, whole in zip(blocks_of(found[0].model), blocks_of(dense.module), strict=True):
        assert torch.equal(block.mlp.fc1.weight, whole.mlp.fc1.weight)


def drained(work: Any) -> Any:
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


@torch.no_grad()
def logits(model: nn.Module, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    torch.manual_seed(0)
    return logits_of(model(images(dtype=dtype)))


# Every baseline.


@pytest.mark.parametrize(
    ("name", "model"), [pytest.param(*case, marks=() if case[1] == "distilled" else pytest.mark.slow) for case in CASES]
)
def test_costs_are_measured_as_predicted_and_within_the_budget(name: str, model: str):
    dense = make_dense(model)
    for share in (0.8, 0.6):
        found = finished(name, dense, share)
        predicted = predict(dense.shape, found.plan)
        assert count_flops(found.model, dense.shape.image_size) == predicted.total <= share_of_dense(dense.shape, share)
        without_norms = predicted.total - predicted.norms - sum(extra.norms for extra in found.plan.extras)
        assert sum(p.numel() for p in found.model.parameters()) == predict_params(dense.shape, found.plan)
        assert (
            abs(count_flops_torch(found.model, dense.shape.image_size) - without_norms) <= COUNTERS_AGREE_WITHIN * without_norms
        )


@pytest.mark.parametrize("name", [name for name in CUTTING if name != "smaller_image"])
def test_the_budget_is_used(name: str):
    dense = make_dense("vit")
    for share in (0.7, 0.5):
        knobs = {"drop_layer_1": 1} if name == "random_tokens" else {}
        used = predict(dense.shape, finished(name, dense, share, knobs).plan).total / share_of_dense(dense.shape, share)
        assert 0.98 <= used <= 1


@pytest.mark.parametrize(("name", "model"), [*CASES, ("dense", "vit")])
def test_keeping_everything_leaves_the_logits_as_they_were(name: str, model: str):
    dense = make_dense(model)
    found = finished(name, dense, 1.5, KEEP_ALL[name])
    torch.testing.assert_close(logits(found.model), logits(dense.module), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "model"), CASES)
def test_what_is_built_from_plan_and_knobs_takes_the_weights(name: str, model: str):
    dense = make_dense(model)
    found = finished(name, dense, 0.6)
    built = BASELINES[name].build(copy.deepcopy(dense.module), dense.shape, found.plan, found.knobs).eval()
    built.load_state_dict(found.model.state_dict(), strict=True)
    assert torch.equal(logits(built), logits(found.model))


@pytest.mark.parametrize("name", CUTTING)
def test_all_of_a_baseline_is_tuned(name: str):
    model = finished(name, make_dense("vit"), 0.6).model.train()
    logits_of(model(images())).square().sum().backward()
    assert all(parameter.requires_grad and parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["evit", "tome"])
def test_a_model_that_reads_the_mean_of_its_tokens_is_refused(name: str):
    with pytest.raises(UnsupportedModelError, match="avg"):
        BASELINES[name].check(make_dense("average").shape)


# Class-attention top-k.


def test_the_fused_token_is_the_rest_weighted_by_class_attention():
    dense = make_dense("registers")
    found = finished("evit", dense, 0.6)
    prefix = dense.shape.prefix_tokens
    block: Any = next(b for b in found.model.blocks.stages if hasattr(b.block, "kept")).block
    x_BND = torch.randn(2, dense.shape.tokens, dense.shape.dim)
    with torch.no_grad():
        attended_BND, class_BP = attention_with_class_row(block.attn, block.norm1(x_BND), prefix)
        selected = block._select(x_BND, class_BP)
        torch.testing.assert_close(attended_BND, block.attn(block.norm1(x_BND)))
    assert torch.equal(selected[:, :prefix], x_BND[:, :prefix])
    for image in range(2):
        order = class_BP[image].argsort(descending=True)
        kept, rest = order[: block.kept], order[block.kept :]
        assert torch.equal(selected[image, prefix:-1], x_BND[image, prefix + kept])
        fused = (class_BP[image, rest, None] * x_BND[image, prefix + rest]).sum(0)
        torch.testing.assert_close(selected[image, -1], fused)


# Token merging.


def test_the_most_similar_pair_is_merged_first():
    key = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.9, 0.5], [1.0, 0.6]]])
    pairs = match(key, 1)
    assert pairs.from_BR.tolist() == [[1]] and pairs.into_BR.tolist() == [[1]] and pairs.stays_BS.tolist() == [[0]]


def test_a_merged_token_is_the_mean_of_its_patches_and_no_patch_is_lost():
    torch.manual_seed(0)
    x_BND, key_BNK = torch.randn(3, 18, 4, dtype=torch.float64), torch.randn(3, 18, 2, dtype=torch.float64)
    size, once = None, x_BND
    for merged in (5, 4, 2):
        once, size = merge(once, size, key_BNK[:, : once.shape[1]], merged=merged, num_prefix_tokens=2)
    assert once.shape == (3, 7, 4)
    assert size is not None and torch.equal(size.sum(dim=(1, 2)), torch.full((3,), 18.0, dtype=torch.float64))
    assert torch.equal(once[:, :2], x_BND[:, :2])
    torch.testing.assert_close((once * size).sum(dim=1), x_BND.sum(dim=1))


def test_a_token_of_two_patches_counts_as_two_keys():
    attention = make_dense("vit").module.blocks[0].attn.double()  # type: ignore[index]
    x_BND = torch.randn(2, 5, 48, dtype=torch.float64)
    twice, size = torch.cat((x_BND, x_BND[:, 3:4]), dim=1), torch.ones(2, 5, 1, dtype=torch.float64)
    size[:, 3] = 2
    with torch.no_grad():
        torch.testing.assert_close(proportional_attention(attention, x_BND, size)[0], attention(twice)[:, :5])


# The smaller image.


def test_the_grid_uses_the_budget_without_squeezing_the_image():
    assert grid_within((8, 8), 1.0) == (8, 8)
    assert grid_within((8, 8), 0.70) in ((6, 7), (7, 6))
    assert grid_within((8, 8), 0.51) in ((5, 6), (6, 5))
    assert grid_within((4, 8), 0.51) == (3, 5)


def test_the_image_is_resized_as_torch_does_it():
    found: Any = finished("smaller_image", make_dense("vit"), 0.6).model
    embed, x = found.patch_embed, images()
    size = [count * patch for count, patch in zip(embed.grid_size, embed.patch_size, strict=True)]
    smaller = functional.interpolate(x, size=size, mode="bicubic", antialias=True)
    with torch.no_grad():
        torch.testing.assert_close(embed(x), embed.proj(smaller).flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-5)


# Widths.


def test_random_units_are_those_of_the_seed_in_the_widths_of_the_ranking():
    dense = make_dense("vit")
    found: list[Any] = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(finished("random_units", dense, 0.6))
    own = finished("width", dense, 0.6)
    assert found[0].plan == found[2].plan == own.plan
    ours: Any = own.model
    first, again, other = ([block.mlp.fc1.weight for block in blocks_of(one.model)] for one in found)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not all(torch.equal(a, block.mlp.fc1.weight) for a, block in zip(first, blocks_of(ours), strict=True))


def test_random_width_keeps_the_same_share_of_every_layer():
    dense = make_dense("vit")
    plan = finished("random_width", dense, 0.6).plan
    own = dense.shape.blocks[0]
    shares = [share for block in plan.blocks for share in (block.head_width / own.head_width, block.hidden / own.hidden)]
    # A head has few dimensions, so that the shares are equal to the nearest of them.
    assert max(shares) - min(shares) <= 1 / own.head_width + 1e-9


@pytest.mark.parametrize("name", ["l2_width", "taylor_width"])
def test_a_cut_model_computes_what_the_masked_one_does(name: str):
    dense = make_dense("deit")
    dense.module.double()
    found: Any = finished(name, dense, 0.6).model
    masked: Any = copy.deepcopy(dense.module)
    for cut, whole in zip(found.blocks, masked.blocks, strict=True):
        _mask(whole.attn.proj.weight, cut.attn.proj.weight, dim=1)
        _mask(whole.mlp.fc2.weight, cut.mlp.fc2.weight, dim=1)
        kept = whole.attn.proj.weight.abs().sum(0) > 0
        rows = kept.repeat(2)
        with torch.no_grad():
            whole.attn.qkv.weight[: len(rows)] *= rows[:, None]
            whole.attn.qkv.bias[: len(rows)] *= rows
    torch.testing.assert_close(logits(found, torch.float64), logits(masked, torch.float64), rtol=1e-10, atol=1e-10)


def _mask(whole: torch.Tensor, cut: torch.Tensor, *, dim: int) -> None:
    """Sets what `cut` has left out of `whole` to zero."""
    kept = [any(torch.equal(column, other) for other in cut.unbind(dim)) for column in whole.unbind(dim)]
    assert sum(kept) == cut.shape[dim]
    with torch.no_grad():
        whole *= torch.tensor(kept)


def test_taylor_scores_are_the_squared_gradients_of_gates():
    dense = make_dense("deit")
    dense.module.requires_grad_(False)
    x = images(4)
    found = taylor_scores(dense.module, [x])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        drawn = logits_of(dense.module(x)).softmax(1).multinomial(1, generator=generator).squeeze(1)
    # By differences: a hidden unit's output is scaled by 1 + h.
    block: Any = dense.module.blocks[1]  # type: ignore[index]
    unit, h = 5, 1e-2
    losses = []
    with torch.no_grad():
        weight = block.mlp.fc2.weight[:, unit].clone()
        for scale in (1 + h, 1 - h):
            block.mlp.fc2.weight[:, unit] = weight * scale
            losses.append(functional.cross_entropy(logits_of(dense.module(x)), drawn, reduction="none"))
    expected = ((losses[0] - losses[1]) / (2 * h)).square().sum()
    torch.testing.assert_close(found[1][1][unit], expected, rtol=1e-2, atol=1e-7)
    assert not any(module._forward_hooks for module in dense.module.modules())


# The teacher that is asked once.


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.calls = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        out: torch.Tensor = self.blocks(x)
        return out


def test_a_batch_that_was_seen_costs_no_second_pass(tmp_path: Path):
    model = Counting()
    with torch.no_grad():
        first, again = CachedTeacher(model, tmp_path)(images()), CachedTeacher(model, tmp_path)(images())
        other = CachedTeacher(model, tmp_path)(images(seed=2))
    assert model.calls == 2
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_other_precision_is_another_pass(tmp_path: Path):
    model = Counting()
    teacher = CachedTeacher(model, tmp_path)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rounded = teacher(images())
        assert torch.equal(rounded, teacher(images()))
    with torch.no_grad():
        assert not torch.equal(rounded, teacher(images()))
    assert model.calls == 2


def test_a_pass_that_is_watched_is_made(tmp_path: Path):
    model = Counting()
    teacher, seen = CachedTeacher(model, tmp_path), []
    with torch.no_grad():
        teacher(images())
        teacher.blocks[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
        out = teacher(images())
    assert model.calls == 2 and torch.equal(seen[0], out)


def test_another_process_finds_the_logits(tmp_path: Path):
    folder = Path(methods_runs.__file__).parent
    code = (
        "import sys, torch\n"
        f"sys.path[:0] = [{str(folder)!r}, {str(Path(__file__).parents[1])!r}]\n"
        "from pathlib import Path\nfrom cached_teacher import CachedTeacher\nfrom helpers.tiny import images\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "torch.save(CachedTeacher(torch.nn.Flatten(), folder)(images()), folder / 'theirs')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    # Not asked: a model that could not answer.
    assert torch.equal(CachedTeacher(nn.Linear(1, 1), tmp_path)(images()), torch.load(tmp_path / "theirs"))


# The runs.


def test_methods_in_a_row_share_what_is_to_be_saved():
    dense = make_dense("vit")
    settings = Settings(images=10_000, epochs=3.0, training=methods_runs.TRAINING)
    context: Any = SimpleNamespace(dense=dense)
    recipe = methods_runs.make_recipe(Run(name="vit_slim+life_regression", budget="49%", seed=3), context, settings)
    assert recipe.method == "vit_slim+life_regression" and recipe.seed == 3 and recipe.training.epochs == 3
    assert recipe.budget == share_of_dense(dense.shape, 0.49)
    first = METHODS["vit_slim"].expect(dense.shape, Plan.dense(dense.shape), recipe.steps[0].knobs)
    both = METHODS["life_regression"].expect(dense.shape, first, recipe.steps[1].knobs)
    assert 0.68 <= predict(dense.shape, first).total / share_of_dense(dense.shape, 1.0) <= 0.70
    assert 0.47 <= predict(dense.shape, both).total / share_of_dense(dense.shape, 1.0) <= 0.49


def test_a_run_whose_process_is_killed_is_noted_as_failed_and_the_next_one_is_tried(tmp_path: Path):
    settings = Settings(images=10_000, epochs=3.0, training=methods_runs.TRAINING)
    runs = [Run(name="tome", budget=budget, seed=0) for budget in ("50%", "35%")]

    def kill_the_first() -> None:
        deadline = time.monotonic() + 60
        while not (children := multiprocessing.active_children()) and time.monotonic() < deadline:
            time.sleep(0.01)
        children[0].kill()

    killer = threading.Thread(target=kill_the_first)
    killer.start()
    methods_schedule.carry_out(runs, tmp_path / "no data", tmp_path / "output", settings, processes=1)
    killer.join()
    killed, other = (methods_runs.read(tmp_path / "output", run) for run in runs)
    assert killed is not None and killed.error == "its process ended with -9"
    assert other is not None and other.error and "its process" not in other.error


def test_runs_are_carried_out_and_one_that_fails_stops_no_other(tmp_path: Path):
    folder = os.environ.get("AUTOSLIM_DATA")
    if not folder or not (Path(folder) / "vit-cifar10").is_dir():
        pytest.skip("AUTOSLIM_DATA does not name a folder with cifar10-mini and vit-cifar10")
    data, output = tmp_path / "data", tmp_path / "output"
    data.mkdir()
    (data / "cifar10").symlink_to(Path(folder) / "cifar10-mini")
    (data / "vit-cifar10").symlink_to(Path(folder) / "vit-cifar10")
    settings = Settings(images=256, epochs=1.0, training=methods_runs.TRAINING)
    runs = [Run(name="tome", budget="50%", seed=0), Run(name="no such method", budget="50%", seed=0)]
    methods_schedule.carry_out(runs, data, output, settings, processes=1)
    found, failed = (methods_runs.read(output, run) for run in runs)
    assert found is not None and not found.error and found.test > 0.5 and 0.49 < found.share <= 0.5
    assert failed is not None and failed.error.startswith("KeyError")
    assert np.load(output / "runs" / runs[0].folder / "hits.npy").mean() == pytest.approx(found.test)
    assert np.load(output / "runs" / runs[0].folder / "pruned.npy").mean() == pytest.approx(found.pruned, abs=0.02)
