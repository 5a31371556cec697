"""A narrowed layer computes what the whole one computes with gates of 0 on what is gone, whatever timm layer it is."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from timm.layers import Attention, GluMlp, LayerNorm, Mlp, RmsNorm, SwiGLU
from torch import Tensor, nn

from autoslim.methods.layers.inner_norm import GatedNorm, empty_norm, narrow_norm, norm_in
from autoslim.methods.layers.narrow import empty_attention, empty_mlp, narrow_attention, narrow_mlp
from autoslim.methods.unit_removal.gates import gate_widths

KEPT_F = torch.tensor([1, 2, 5, 6, 11])
MLPS: dict[str, Any] = {
    "plain": lambda **more: Mlp(8, 12, **more),
    "packed, gate last": lambda **more: GluMlp(8, 24, **more),
    "packed SwiGLU": lambda **more: GluMlp(8, 24, act_layer=nn.SiLU, gate_last=False, **more),
    "SwiGLU": lambda **more: SwiGLU(8, 12, **more),
    "without biases": lambda **more: SwiGLU(8, 12, bias=False, **more),
}
NORMS = {"no norm": None, "LayerNorm": LayerNorm, "RmsNorm": RmsNorm}


def filled(module: nn.Module) -> Any:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.double().parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module.eval()


def tokens() -> Tensor:
    return torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Parts(nn.Module):
    """What of a block has widths."""

    def __init__(self, attention: Any = None, mlp: Any = None) -> None:
        super().__init__()
        self.attn = filled(Attention(8, num_heads=2)) if attention is None else attention
        self.mlp = filled(Mlp(8, 12)) if mlp is None else mlp


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", MLPS)
def test_an_mlp_of_any_kind_is_narrowed_exactly(kind: str, norm: str):
    whole = filled(MLPS[kind](norm_layer=NORMS[norm]))
    gated = Parts(mlp=copy.deepcopy(whole))
    zeta_F = gate_widths(gated)[1].data.double()
    assert len(zeta_F) == 12
    torch.testing.assert_close(gated.mlp(tokens()), whole(tokens()), rtol=0, atol=1e-12)
    gate_F = torch.linspace(0.5, 2, len(KEPT_F), dtype=torch.float64)
    gated.mlp.norm.zeta.data = torch.zeros_like(zeta_F).index_copy(0, KEPT_F, gate_F)
    narrow = narrow_mlp(gated.mlp, KEPT_F, gate_F)
    assert type(narrow) is type(whole)
    torch.testing.assert_close(narrow(tokens()), gated.mlp(tokens()), rtol=0, atol=1e-12)
    empty = empty_mlp(whole, len(KEPT_F))
    empty.load_state_dict(narrow.state_dict())
    torch.testing.assert_close(empty(tokens()), narrow(tokens()), rtol=0, atol=0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("fused", [True, False])
def test_attention_with_a_norm_behind_it_is_narrowed_exactly(norm: str, fused: bool):
    whole = filled(Attention(8, num_heads=2, qkv_bias=True, scale_norm=norm != "no norm", norm_layer=NORMS[norm]))
    whole.fused_attn = fused
    gated = Parts(attention=copy.deepcopy(whole)).double()
    gate_widths(gated)
    kept_HK = torch.tensor([[0, 3], [1, 2]])
    gate_HK = torch.tensor([[0.5, 2.0], [1.5, 0.7]], dtype=torch.float64)
    gated.attn.norm.zeta.data = torch.zeros(2, 4, dtype=torch.float64).scatter(1, kept_HK, gate_HK)
    gated.attn.q_norm.zeta = gated.attn.k_norm.zeta = gated.attn.norm.zeta
    narrow = narrow_attention(gated.attn, kept_HK, gate_HK)
    torch.testing.assert_close(narrow(tokens()), gated.attn(tokens()), rtol=0, atol=1e-12)


def test_of_attention_with_normalised_queries_whole_heads_go():
    whole = filled(Attention(8, num_heads=4, qkv_bias=True, qk_norm=True, norm_layer=LayerNorm))
    gated = Parts(attention=copy.deepcopy(whole)).double()
    gate_widths(gated)
    assert type(gated.attn.q_norm) is LayerNorm
    gate_HK = torch.tensor([[0.5, 2.0], [1.5, 0.7]], dtype=torch.float64)
    gated.attn.norm.zeta.data = torch.zeros(4, 2, dtype=torch.float64)
    gated.attn.norm.zeta.data[[1, 3]] = gate_HK
    narrow = narrow_attention(gated.attn, torch.tensor([[0, 1], [0, 1]]), gate_HK, heads=(1, 3))
    torch.testing.assert_close(narrow(tokens()), gated.attn(tokens()), rtol=0, atol=1e-12)
    empty = empty_attention(whole, 2, heads=range(2))
    empty.load_state_dict(narrow.state_dict())
    torch.testing.assert_close(empty(tokens()), narrow(tokens()), rtol=0, atol=0)


@pytest.mark.parametrize("kind", [LayerNorm, RmsNorm])
def test_a_gated_norm_is_that_of_the_units_whose_gate_is_not_0(kind: Any):
    norm = filled(kind(12))
    x = torch.randn(2, 3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    gated = GatedNorm(norm, nn.Parameter(torch.ones(12, dtype=torch.float64)))
    torch.testing.assert_close(gated(x), norm(x), rtol=0, atol=1e-12)
    gated.zeta.data = torch.zeros(12, dtype=torch.float64).index_fill(0, KEPT_F, 2.0)
    torch.testing.assert_close(gated(x)[..., KEPT_F], 2 * narrow_norm(norm, KEPT_F)(x[..., KEPT_F]), rtol=0, atol=1e-12)
    assert norm_in(gated) is norm
    assert empty_norm(gated, 5).weight.shape == (5,)


def test_a_slot_without_a_norm_stays_empty():
    assert norm_in(nn.Identity()) is None
    assert isinstance(empty_norm(nn.Identity(), 5), nn.Identity)
