"""Noise on scores: patches are drawn without replacement, in training alone."""

from __future__ import annotations

import torch

from autoslim.methods.layers.gumbel_noise import GumbelNoise


def test_the_highest_noisy_scores_are_draws_in_proportion_to_their_exponentials():
    torch.manual_seed(0)
    score_BP = torch.tensor([0.0, 0.5, 1.0, -1.0]).expand(20_000, -1)
    noisy_BP = GumbelNoise(0.5).train()(score_BP)
    found = torch.bincount(noisy_BP.argmax(dim=1), minlength=4) / len(score_BP)
    torch.testing.assert_close(found, (score_BP[0] / 0.5).softmax(dim=0), rtol=0, atol=0.015)
    torch.testing.assert_close(noisy_BP.mean(dim=0), score_BP[0], rtol=0, atol=0.03)


def test_scores_are_as_they_are_without_training_or_noise():
    score_BP = torch.randn(2, 5)
    assert GumbelNoise(0.5).eval()(score_BP) is score_BP
    assert GumbelNoise(0.0).train()(score_BP) is score_BP
    assert GumbelNoise(0.5).train()(score_BP.half()).dtype == torch.float32
