"""Refitting a linear layer to the inputs that stay."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoslim.methods.unit_removal.least_squares import measuring, refit

KEPT_K = torch.tensor([0, 2, 3, 6, 7])


def inputs(count: int, *, noise: float, seed: int = 0) -> Tensor:
    """(count, 8): inputs 1, 4 and 5 are linear in the others but for `noise`, and nothing has a mean of zero."""
    generator = torch.Generator().manual_seed(seed)
    x_N8 = torch.randn(count, 8, generator=generator, dtype=torch.float64) + torch.arange(8.0) - 3
    told_N3 = x_N8[:, [0, 2, 3]] @ torch.tensor([[0.5, 0, 1], [-1, 2, 0], [0, 1, -0.5]], dtype=torch.float64) + 1
    x_N8[:, [1, 4, 5]] = told_N3 + noise * torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return x_N8


def linear(*, bias: bool) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(8, 4, bias=bias).double()


def refitted(layer: nn.Linear, x: Tensor) -> nn.Linear:
    with measuring([layer]) as (moments,):
        for batch in x.split(100):
            layer(batch.view(10, -1, 8))
    weight_DK, bias_D = refit(layer, KEPT_K, moments)
    narrow = nn.Linear(len(KEPT_K), 4, bias=bias_D is not None).double()
    narrow.weight.data.copy_(weight_DK)
    if bias_D is not None:
        narrow.bias.data.copy_(bias_D)
    return narrow


def error(layer: nn.Linear, narrow: nn.Linear, x: Tensor) -> float:
    with torch.no_grad():
        return float((layer(x) - narrow(x[:, KEPT_K])).square().mean())


def plainly_cut(layer: nn.Linear) -> nn.Linear:
    narrow = nn.Linear(len(KEPT_K), 4, bias=layer.bias is not None).double()
    narrow.weight.data.copy_(layer.weight.data[:, KEPT_K])
    if layer.bias is not None:
        narrow.bias.data.copy_(layer.bias.data)
    return narrow


def test_what_the_lost_inputs_said_is_made_up_for_where_the_others_tell_it():
    layer = linear(bias=True)
    narrow = refitted(layer, inputs(1000, noise=0.0))
    fresh = inputs(500, noise=0.0, seed=1)
    # The ridge leaves a thousandth.
    assert error(layer, narrow, fresh) < 1e-4 * error(layer, plainly_cut(layer), fresh)


@pytest.mark.parametrize("bias", [True, False])
def test_no_other_weights_come_nearer_on_the_same_images(bias: bool):
    layer = linear(bias=bias)
    x = inputs(2000, noise=0.7)
    features = x[:, KEPT_K] if not bias else torch.cat((x[:, KEPT_K], torch.ones(len(x), 1, dtype=x.dtype)), dim=1)
    best = torch.linalg.lstsq(features, layer(x).detach()).solution
    least = float((layer(x).detach() - features @ best).square().mean())
    assert least <= error(layer, refitted(layer, x), x) < 1.001 * least
    assert error(layer, refitted(layer, x), x) < 0.5 * error(layer, plainly_cut(layer), x)


def test_an_input_that_never_changes_is_told_by_the_bias():
    layer = linear(bias=True)
    x = inputs(1000, noise=0.0)
    x[:, 1] = 5.0
    assert error(layer, refitted(layer, x), x) < 1e-4 * error(layer, plainly_cut(layer), x)


def test_a_dead_input_that_stays_does_no_harm():
    layer = linear(bias=True)
    x = inputs(1000, noise=0.5)
    x[:, 2] = 0.0
    narrow = refitted(layer, x)
    assert narrow.weight.isfinite().all()
    assert error(layer, narrow, x) < error(layer, plainly_cut(layer), x)


def test_inputs_that_are_all_dead_leave_the_bias_alone():
    layer = linear(bias=True)
    narrow = refitted(layer, torch.zeros(100, 8, dtype=torch.float64))
    assert narrow.weight.isfinite().all()
    torch.testing.assert_close(narrow.bias, layer.bias)


def test_nothing_is_measured_once_it_is_closed():
    layer = linear(bias=True)
    with measuring([layer]) as (moments,):
        layer(inputs(10, noise=0.0))
    layer(inputs(10, noise=0.0))
    assert moments.count == 10
