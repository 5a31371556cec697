"""What ranks compute together is what one process computes of the whole batch; here they are threads (`helpers.thread_ranks`)."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools

import pytest
import torch
from helpers.thread_ranks import on_ranks
from helpers.tiny import images, make_dense
from torch import nn

from autoslim.core.recipe import TrainingSettings
from autoslim.core.result import Phase
from autoslim.errors import InfeasibleError
from autoslim.methods.layers.gumbel_noise import GumbelNoise
from autoslim.methods.trainer import DistillationBatch, Tensors
from autoslim.training import TrialContext
from autoslim.training.phase import TrainingPhase, make_trainer
from autoslim.training.phase_schedule import PhaseSchedule
from autoslim.training.rank_group import RankGroup
from autoslim.training.whole_batch import WholeBatch, whole_batch

PLAIN = TrainingSettings(batch_size=31, precision="float32", augmentation="light", clip_norm=1.0, mixup=0.4)


def over_moments(batch: DistillationBatch) -> Tensors:
    """A loss that is divided by moments of the batch, as those of features are."""
    tokens_BND = batch.teacher_tokens[-1]
    moments = batch.variance(tokens_BND.flatten(0, 1)).mean() + batch.mean(tokens_BND.square().mean())
    return {"loss": batch.task_loss / moments, "labels": batch.label_loss}


def small_logits(batch: DistillationBatch) -> Tensors:
    """Without a property of the batch: Python 3.11 computes one of a class at a time, whatever thread asks."""
    return {"loss": batch.student(batch.images_B3HW).square().mean()}


def curves(context: TrialContext, group: RankGroup | None = None, *, steps: int = 3, loss=None) -> dict[str, float]:
    schedule = PhaseSchedule(phase=Phase.FINETUNE, seed_name="test", steps=steps)
    # Each rank has a teacher of its own, as a process has.
    dense = dataclasses.replace(context.dense, module=copy.deepcopy(context.teacher))
    student = context.student().requires_grad_(True)
    phase = TrainingPhase(student=student, loss=loss, training=PLAIN, schedule=schedule, seed=0)
    metrics = make_trainer(dataclasses.replace(context, dense=dense, group=group), phase).train_segment(0, steps)
    return {name: value for name, value in metrics.items() if name not in ("images_per_second", "loader_wait")}


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_losses_are_those_of_one_process(context: TrialContext, ranks: int):
    alone = curves(context, loss=over_moments)
    for own in on_ranks(ranks, functools.partial(curves, context, loss=over_moments)):
        assert own == pytest.approx(alone, rel=1e-5, abs=1e-5)


def test_batch_norms_have_the_moments_of_the_whole_batch(context: TrialContext):
    dense = make_dense("LV-ViT")
    dense.module.requires_grad_(False).eval()
    convolutional = dataclasses.replace(context, dense=dense)
    alone = curves(convolutional, steps=2, loss=small_logits)
    for own in on_ranks(2, functools.partial(curves, convolutional, steps=2, loss=small_logits)):
        assert own == pytest.approx(alone, rel=1e-5, abs=1e-5)


def test_running_moments_are_those_of_the_whole_batch():
    norm, x = nn.BatchNorm2d(3), 2 + images(6)
    whole = copy.deepcopy(norm)
    whole(x)

    def run(group: RankGroup) -> dict[str, torch.Tensor]:
        own = copy.deepcopy(norm)
        with whole_batch(own, group, 6):
            own(x[torch.from_numpy(group.share.rows(6))])
        return own.state_dict()

    for state in on_ranks(2, run):
        assert all(torch.allclose(value, state[name], atol=1e-6) for name, value in whole.state_dict().items())


def test_what_is_dropped_at_random_is_drawn_for_the_whole_batch():
    model = make_dense("windows", drop_path_rate=0.4, proj_drop_rate=0.2, drop_rate=0.3).module.train()
    x = images(5)
    torch.manual_seed(1)
    whole = model(x)
    for rank in range(2):
        group = RankGroup(rank, 2)
        rows = torch.from_numpy(group.share.rows(5))
        torch.manual_seed(1)
        with whole_batch(model, group, 5) as mode:
            assert isinstance(mode, WholeBatch)
            assert torch.allclose(model(x[rows]), whole[rows], atol=1e-5)


def test_noise_on_scores_is_drawn_for_the_whole_batch():
    noise, score_BP = GumbelNoise(0.5).train(), torch.randn(5, 7)
    torch.manual_seed(1)
    whole_BP = noise(score_BP)
    assert not torch.equal(whole_BP, score_BP)
    for rank in range(2):
        rows = torch.from_numpy(RankGroup(rank, 2).share.rows(5))
        torch.manual_seed(1)
        with whole_batch(noise, RankGroup(rank, 2), 5):
            assert torch.equal(noise(score_BP[rows]), whole_BP[rows])
    assert isinstance(whole_batch(GumbelNoise(0.0), RankGroup(0, 2), 4), contextlib.nullcontext)


def test_a_model_whose_images_are_independent_needs_no_whole_batch():
    assert whole_batch(make_dense().module.train(), RankGroup(0, 2), 4).__enter__() is None


def test_ranks_whose_weights_differ_are_refused():
    def run(group: RankGroup) -> str:
        parameter = nn.Parameter(torch.ones(3) + group.share.rank)
        with pytest.raises(RuntimeError, match=r"the weights of the 2 ranks differ: their sums are 3\.0 to 6\.0") as error:
            group.check_same([parameter])
        return str(error.value)

    assert len(set(on_ranks(2, run))) == 1


def test_a_rank_without_memory_does_not_halve_its_share(context: TrialContext):
    def run(batch: DistillationBatch) -> Tensors:
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(InfeasibleError, match="16 images at once do not fit"):
        curves(context, RankGroup(0, 2), loss=run)
