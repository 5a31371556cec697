"""LV-ViT: FLOPs as published, and the original checkpoints' weights in timm's blocks."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from autoslim.core.plan import Plan
from autoslim.core.shape import ViTShape
from autoslim.cost import predict
from autoslim.methods import METHODS
from autoslim.models import read_shape
from autoslim.models.lvvit import DeepSiTStem, SiTStem, TokenLabelingStem, WideTokenLabelingStem, checkpoint_filter_fn
from autoslim.models.weights import load_weights

SIT_STAGES = {
    "sit_lvvit_t": ((1, 2, 3), 1.0),
    "sit_lvvit_xs": ((1, 2, 3), 1.5),
    "sit_lvvit_s": ((9, 12, 14), 4.0),
    "sit_lvvit_m": ((10, 14, 17), 8.1),
    "sit_lvvit_l": ((10, 14, 17), 34.4),
}
"""Blocks in front of which SiT's released models slim, each time by half, and their FLOPs (github.com/Sense-X/SiT, README), in G."""


def shape_of(name: str) -> ViTShape:
    with torch.device("meta"):
        return read_shape(timm.create_model(name))


def test_lvvit_s_costs_what_is_published():
    """6.6 G with the head of the patches (arXiv 2104.10858, table 9), which is 196 x 384 x 1000 of it."""
    shape = shape_of("lvvit_s")
    matmuls = predict(shape, Plan.dense(shape)).matmuls
    with_patch_head = matmuls + shape.patches * shape.dim * 1000
    assert with_patch_head / 1e9 == pytest.approx(6.6, rel=0.01)
    # Published with the head of the patches, too.
    assert (shape.params + shape.dim * 1000 + 1000) / 1e6 == pytest.approx(26.2, abs=0.1)


def test_the_dense_model_that_sit_starts_from_costs_what_is_published():
    """5.5 G and 25.4 M parameters (arXiv 2111.12624, table 1)."""
    shape = shape_of("sit_lvvit_s")
    assert predict(shape, Plan.dense(shape)).matmuls / 1e9 == pytest.approx(5.5, abs=0.05)
    assert shape.params / 1e6 == pytest.approx(25.4, abs=0.5)


@pytest.mark.parametrize("name", SIT_STAGES)
def test_sit_costs_what_is_published_on_its_own_backbones(name: str):
    layers, published = SIT_STAGES[name]
    shape = shape_of(name)
    knobs = {"stages": 3}
    for k, layer in enumerate(layers, 1):
        knobs |= {f"stage_layer_{k}": layer, f"keep_ratio_{k}": 0.5**k}
    repaired = METHODS["sit"].repair(shape, knobs)
    plan = METHODS["sit"].expect(shape, Plan.dense(shape), repaired)
    flops = predict(shape, plan)
    assert (flops.matmuls + sum(extra.matmuls for extra in plan.extras)) / 1e9 == pytest.approx(published, rel=0.014)


class Original(nn.Module):
    """The model as its paper describes it, under the parameters' names of the released checkpoints."""

    def __init__(self, stem: nn.Module, dim: int, depth: int, heads: int, divisor: float) -> None:
        super().__init__()
        self.heads, self.divisor = heads, divisor
        self.patch_embed = stem
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.randn(1, 65, dim))
        self.blocks = nn.ModuleList(nn.ModuleDict(_parts(dim)) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 10)
        # In the checkpoints, and left out when they are loaded.
        self.add_module("aux_head", nn.Linear(dim, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), self.patch_embed(x)), dim=1) + self.pos_embed
        for block in self.blocks:
            parts: Any = block
            q, k, v = (
                part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts.attn.qkv(parts.norm1(x)).chunk(3, dim=2)
            )
            weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1)
            x = x + parts.attn.proj((weights @ v).transpose(1, 2).flatten(2)) / self.divisor
            x = x + parts.mlp.fc2(nn.functional.gelu(parts.mlp.fc1(parts.norm2(x)))) / self.divisor
        return self.head(self.norm(x)[:, 0])


def _parts(dim: int) -> dict[str, nn.Module]:
    attention = nn.ModuleDict({"qkv": nn.Linear(dim, 3 * dim, bias=False), "proj": nn.Linear(dim, dim)})
    mlp = nn.ModuleDict({"fc1": nn.Linear(dim, 3 * dim), "fc2": nn.Linear(3 * dim, dim)})
    return {"norm1": nn.LayerNorm(dim), "attn": attention, "norm2": nn.LayerNorm(dim), "mlp": mlp}


ORIGINALS = {
    "lvvit_t": (TokenLabelingStem, 1.0),
    "lvvit_s": (TokenLabelingStem, 2.0),
    "lvvit_l": (WideTokenLabelingStem, 3.0),
    "sit_lvvit_xs": (SiTStem, 2.0),
    "sit_lvvit_l": (DeepSiTStem, 3.0),
}


@pytest.mark.parametrize("patch_head", [True, False])
@pytest.mark.parametrize("name", ORIGINALS)
def test_an_original_checkpoint_gives_the_originals_logits(name: str, patch_head: bool, caplog: pytest.LogCaptureFixture):
    kind, divisor = ORIGINALS[name]
    torch.manual_seed(0)
    sit = name.startswith("sit")
    sizes = {"img_size": 128 if sit else 32, "patch_size": 16 if sit else 4, "embed_dim": 48}
    model = timm.create_model(name, num_classes=10, depth=3, num_heads=3, **sizes)
    assert model.residual_divisor == divisor
    original = Original(kind(in_chans=3, **sizes), 48, 3, 3, divisor)
    for norm in (module for module in original.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
    state = {key: value for key, value in original.state_dict().items() if patch_head or not key.startswith("aux_head.")}
    assert load_weights(model, state, source=name)
    assert ("head that classifies patches" in caplog.text) == patch_head
    x = torch.randn(2, 3, sizes["img_size"], sizes["img_size"])
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), original.eval()(x), rtol=1e-4, atol=1e-4)


def test_weights_of_a_model_of_ours_are_divided_once():
    model = timm.create_model("lvvit_s", num_classes=10, img_size=32, patch_size=4, embed_dim=48, depth=2, num_heads=3)
    state = model.state_dict()
    again = checkpoint_filter_fn(dict(state), model)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], value) for key, value in state.items())


def test_both_kinds_are_timms_by_name():
    names = timm.list_models(module="lvvit")
    assert set(names) == {"lvvit_t", "lvvit_s", "lvvit_m", "lvvit_l", *SIT_STAGES}
