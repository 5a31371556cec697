"""CutMix, alone and beside mixup: which pixels come from the partner, and what share the label keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autoslim.training.mixing import mix


def numbered(batch: int = 4, height: int = 12, width: int = 20) -> torch.Tensor:
    """Images of one value each: their number."""
    return torch.arange(float(batch))[:, None, None, None].expand(batch, 3, height, width).contiguous()


def test_a_cut_image_has_one_box_of_its_partner_and_the_label_has_its_area():
    x = numbered()
    shares = []
    for seed in range(40):
        mixed, share = mix(x, np.random.default_rng(seed), mixup=0.0, cutmix=1.0)
        foreign = mixed != x
        # The same pixels in every image and channel, and as many rows as columns say: one box.
        where = foreign[0, 0]
        assert bool((foreign == where).all())
        rows, columns = where.any(1), where.any(0)
        assert torch.equal(where, rows[:, None] & columns[None, :])
        assert all(
            int(side.nonzero().max() - side.nonzero().min()) + 1 == int(side.sum()) for side in (rows, columns) if side.any()
        )
        assert torch.equal(mixed[:, :, where], x.flip(0)[:, :, where])
        assert share == pytest.approx(1 - float(where.float().mean()))
        shares.append(share)
    # A uniform draw: boxes of all sizes, and none that the border has cut is larger than the draw.
    assert min(shares) < 0.3 and max(shares) > 0.9


def test_with_both_each_batch_has_one_of_them():
    x = numbered()
    # Mixup leaves values in between, CutMix leaves none.
    between = [bool((mix(x, np.random.default_rng(seed), mixup=0.8, cutmix=1.0)[0] % 1 != 0).any()) for seed in range(60)]
    assert 15 < sum(between) < 45


def test_mixup_alone_draws_as_it_did_before_there_was_cutmix():
    x = numbered()
    mixed, share = mix(x, np.random.default_rng(3), mixup=0.4, cutmix=0.0)
    assert share == float(np.random.default_rng(3).beta(0.4, 0.4))
    torch.testing.assert_close(mixed, share * x + (1 - share) * x.flip(0))


def test_two_processes_cut_what_one_does():
    """A process has image i with image B-1-i, and draws the same numbers."""
    x = torch.randn(6, 3, 8, 8)
    whole, share = mix(x, np.random.default_rng(1), mixup=0.0, cutmix=1.0)
    rows = torch.tensor([0, 2, 3, 5])
    part, same = mix(x[rows], np.random.default_rng(1), mixup=0.0, cutmix=1.0)
    assert share == same
    assert torch.equal(part, whole[rows])
