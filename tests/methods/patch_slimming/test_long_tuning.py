"""Algorithm 1 where a trial's share of the epochs pays for more images than are cached."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers.tiny import TinySharedTrainer, images, make_dense
from torch import Tensor, nn

from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.methods.patch_slimming.block_tuning import _Search, ladder
from autoslim.methods.patch_slimming.impact import tokens_between_blocks
from autoslim.methods.patch_slimming.token_stream import TokenStream
from autoslim.methods.patch_slimming.tuning_budget import (
    CANDIDATE_EPOCHS,
    EPSILONS,
    Passes,
    TuningBudget,
    most_tunings,
    patches_per_step,
    steps_to_all,
)

MASK_P, BEHIND_P = torch.arange(64) < 20, torch.arange(64) < 10


class SplitTrainer(TinySharedTrainer):
    """A training split of `epoch_images` different images; `read` has how many were asked for, call by call."""

    def __init__(self, epoch_images: int, epochs: float) -> None:
        super().__init__(make_dense("vit"))
        self.epoch_images, self.training = epoch_images, TinySharedTrainer.training.replace(epochs=epochs)
        self.read: list[int] = []

    def images(self, count: int) -> Iterator[Tensor]:
        self.read.append(count)
        count = min(count, self.epoch_images)
        for start in range(0, count, 8):
            yield images(8, size=self.shape.image_size, seed=100 + start)[: count - start]


class NoFurtherImages(TinySharedTrainer):
    def images(self, count: int) -> Iterator[Tensor]:
        raise AssertionError("the cached images are enough")


def finished(work: Any) -> dict[str, Tensor]:
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: dict[str, Tensor] = end.value
            return result


# How many patches.


@pytest.mark.parametrize(("side", "step"), [(14, 10), (8, 3), (7, 2), (24, 29), (2, 1)])
def test_a_step_is_the_papers_10_of_196_patches_in_proportion(side: int, step: int):
    patches = side * side
    assert patches_per_step(patches) == step
    assert len([*range(1, patches, step), patches]) <= steps_to_all(patches) + 1


# How many images.


def test_a_long_trial_uses_up_its_share_of_the_epochs():
    trainer = SplitTrainer(100_000, epochs=1.0)
    shape = trainer.shape
    passes = Passes.within(0.2, trainer, 16)
    budget, further = TuningBudget(passes, shape, trainer.epoch_images), []
    for _ in range(most_tunings(shape)):
        further.append(budget.further_images())
        budget.spend(further[-1])
    assert min(further) > 200 and max(further) - min(further) <= 2
    # Of 3 blocks all counts are measured, with what they have learned and with their dense weights.
    measured = 2 * 3 * (len(EPSILONS) + steps_to_all(shape.patches)) + most_tunings(shape)
    forward = (measured * 2 * passes.measured + sum(further) * shape.depth) / 3
    both = 2 * (most_tunings(shape) * passes.tuned + CANDIDATE_EPOCHS * sum(further))
    share = 0.2 * trainer.epoch_images * shape.depth
    assert 0.999 * share < forward + both <= share


def test_what_candidates_leave_goes_to_later_ones_up_to_the_whole_split():
    trainer = SplitTrainer(100_000, epochs=1.0)
    passes = Passes.within(0.2, trainer, 16)
    budget = TuningBudget(passes, trainer.shape, trainer.epoch_images)
    first = budget.further_images()
    budget.skip(most_tunings(trainer.shape) // 2)
    assert 2 * first < budget.further_images() < 2.2 * first
    # The paper's epochs over all images are the most.
    whole = SplitTrainer(40, epochs=1e6)
    assert TuningBudget(Passes.within(0.2, whole, 16), whole.shape, 40).further_images() == 40 - 16


@pytest.mark.parametrize(
    ("depth", "epoch_images", "epochs", "cached", "expected"),
    [
        # The methods' table: 10,000 images, 3 epochs.
        (6, 10_000, 3.0, 512, Passes(measured=67, tuned=201)),
        (4, 1_000, 2.0, 16, Passes(measured=16, tuned=16)),
        # Nearly the paper's epochs over all cached images.
        (4, 2_879, 2.0, 16, Passes(measured=16, tuned=47)),
    ],
)
def test_a_share_that_limits_the_tuning_of_cached_images_is_spent_on_these(
    depth: int, epoch_images: int, epochs: float, cached: int, expected: Passes
):
    trainer = SplitTrainer(epoch_images, epochs=epochs)
    trainer.shape = trainer.shape.replace(depth=depth)
    passes = Passes.within(0.2, trainer, cached)
    assert passes == expected
    assert TuningBudget(passes, trainer.shape, epoch_images).further_images() == 0


@pytest.mark.parametrize(("depth", "cached", "expected"), [(12, 133, 80_000), (12, 505, 80_000), (16, 202, 70_000)])
def test_the_papers_recipes_tune_every_candidate_on_as_many_images_as_their_comments_say(depth: int, cached: int, expected: int):
    """Of ImageNet 90 % train, where the test split is taken from the training images."""
    trainer = SplitTrainer(1_153_000, epochs=38.0)
    trainer.shape = trainer.shape.replace(depth=depth)
    budget = TuningBudget(Passes.within(0.2, trainer, cached), trainer.shape, trainer.epoch_images)
    assert budget.further_images() + cached == pytest.approx(expected, rel=0.03)


# Which images.


def stream_of(trainer: SplitTrainer) -> tuple[nn.Module, TokenStream, Passes]:
    """A stream that has 20 further images for the next candidate, beside 6 cached ones."""
    passes = Passes(measured=6, tuned=18, streaming=most_tunings(trainer.shape) * (18 + 20.5 * (3 + trainer.shape.depth / 6)))
    model = trainer.student()
    return model, TokenStream(model, trainer, passes), passes


def test_further_tokens_are_the_dense_models_and_no_more_at_once_than_are_cached():
    trainer = SplitTrainer(200, epochs=1.0)
    model, stream, _ = stream_of(trainer)
    chunks = list(stream.chunks(1))
    assert trainer.read == [26]
    assert [(len(entering), len(leaving)) for entering, leaving in chunks] == [(6, 6), (6, 6), (6, 6), (2, 2)]
    whole = tokens_between_blocks(model, torch.cat(list(trainer.images(26)))[6:])
    for place, parts in zip((1, 3), zip(*chunks, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(parts), whole[place], rtol=1e-4, atol=1e-4)


def test_each_further_image_is_tuned_on_as_often_as_a_cached_one_and_always_in_the_same_order():
    trained = []
    for _ in range(2):
        trainer = SplitTrainer(200, epochs=1.0)
        model, stream, passes = stream_of(trainer)
        tokens = tokens_between_blocks(model, torch.cat(list(trainer.images(6))))
        search = _Search(blocks_of(model), tokens, trainer.shape, passes, "paper", "score", stream)
        search._tune(1, MASK_P, BEHIND_P, (float("inf"), float("inf")))
        trained.append(search.blocks[1].state_dict())
    assert all(torch.equal(value, trained[1][name]) for name, value in trained[0].items())
    cached = _Search(blocks_of(model), tokens, trainer.shape, passes, "paper", "score")
    cached._tune(1, MASK_P, BEHIND_P, (float("inf"), float("inf")))
    assert not torch.equal(cached.blocks[1].state_dict()["mlp.fc1.weight"], trained[0]["mlp.fc1.weight"])
    again = _Search(blocks_of(model), tokens, trainer.shape, passes, "paper", "score", stream_of(trainer)[1])
    batches = [entering_BND for entering_BND, _ in again._batches(1)]
    assert max(len(batch) for batch in batches) <= 6
    seen = torch.cat(batches).flatten(1).unique(dim=0, return_counts=True)[1]
    assert seen.tolist() == [CANDIDATE_EPOCHS] * 26


@pytest.mark.slow
@pytest.mark.short
def test_a_search_reads_further_images_where_its_share_pays_for_them_alone():
    # 16 images are cached, and 8 are left.
    trainer = SplitTrainer(24, epochs=400.0)
    cached_B3HW = torch.cat(list(trainer.images(16)))
    trainer.read.clear()
    shared = finished(ladder(trainer, cached_B3HW, paths="paper", places="score", share=0.2))
    assert trainer.read and set(trainer.read) <= set(range(17, 25)) and max(trainer.read) == 24
    assert ((shared["errors"] <= shared["epsilons"].unsqueeze(1)) | (shared["counts"] == 64)).all()


def test_a_search_with_a_small_share_reads_no_further_images():
    trainer = NoFurtherImages(make_dense("vit"))
    shared = finished(ladder(trainer, images(4), paths="paper", places="score", share=0.1))
    assert len(shared["counts"]) == len(EPSILONS)
