"""A batch in parts, activations that are computed again, and compiled blocks: each gives the training that there is without it."""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
from collections.abc import Callable

import pytest
import torch
from helpers.marks import CI_ONLY
from helpers.signs_of_life import counted_marks
from helpers.thread_ranks import on_ranks
from helpers.tiny import images, make_dense
from torch import Tensor

from autoslim.core.recipe import TrainingSettings
from autoslim.core.result import Phase
from autoslim.errors import InfeasibleError, RequestError
from autoslim.methods.trainer import DistillationBatch, Tensors
from autoslim.training import TrialContext, acceleration
from autoslim.training.batch_parts import SoftLabels, split_batch
from autoslim.training.loop import Trainer
from autoslim.training.phase import TrainingPhase, make_trainer
from autoslim.training.phase_schedule import PhaseSchedule
from autoslim.training.rank_group import RankGroup
from autoslim.training.whole_batch import WholeBatch, whole_batch

PLAIN = TrainingSettings(batch_size=32, precision="float32", augmentation="light", flip=False, clip_norm=1.0, mixup=0.4)


def trainer_of(context: TrialContext, *, loss: Callable[[DistillationBatch], Tensors] | None = None, **training) -> Trainer:
    schedule = PhaseSchedule(phase=Phase.FINETUNE, seed_name="test", steps=4)
    student = context.student().requires_grad_(True)
    return make_trainer(
        context, TrainingPhase(student=student, loss=loss, training=PLAIN.replace(**training), schedule=schedule, seed=0)
    )


def result(trainer: Trainer) -> tuple[float, Tensor]:
    """The mean loss of all steps, and the gradients of the last one. Weights say less: Adam makes steps of gradients that are rounding."""
    (segment,) = trainer.segments()
    return segment.metrics["loss"], torch.cat([parameter.grad.flatten() for parameter in trainer.student.parameters()])


def assert_same(found: tuple[float, Tensor], expected: tuple[float, Tensor]) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-5, abs=1e-5)
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("parts", [2, 5])
def test_a_batch_in_parts_is_trained_as_the_whole_batch(context: TrialContext, parts: int):
    assert_same(result(trainer_of(context, grad_accum_steps=parts, lr=1e-4)), result(trainer_of(context, lr=1e-4)))


def test_each_part_of_a_step_is_a_sign_of_life(context: TrialContext, monkeypatch: pytest.MonkeyPatch):
    trainer = trainer_of(context, grad_accum_steps=3)
    with contextlib.closing(trainer.loader.epoch(0)) as batches:
        batch = next(batches)
    marks = counted_marks(monkeypatch)
    trainer.update(*batch)
    assert len(marks) == 3


def test_a_batch_has_no_more_parts_than_images(context: TrialContext):
    assert trainer_of(context, grad_accum_steps=1000).update.pieces == 32


@pytest.mark.parametrize(("images_of_it", "parts", "expected"), [(7, 3, [3, 2, 2]), (4, 1, [4]), (2, 2, [1, 1])])
def test_parts_differ_by_one_image_at_most(images_of_it: int, parts: int, expected: list[int]):
    whole = images(images_of_it)
    found = list(split_batch(whole, parts))
    assert [len(part.images_b3HW) for part in found] == expected
    assert torch.equal(torch.cat([part.images_b3HW for part in found]), whole)


def test_the_teacher_sees_the_whole_batch_at_once(context: TrialContext):
    seen: list[int] = []
    # The student is a copy of the teacher, and would have a copy of its hook.
    trainer = trainer_of(context, grad_accum_steps=4)
    hook = context.teacher.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    result(trainer)
    hook.remove()
    assert seen == [32] * 4


def test_soft_labels_are_those_of_the_parts_images():
    soft_labels = SoftLabels(lambda images_B3HW: images_B3HW.flatten(1)[:, :10])
    for whole in (images(5, seed=1), images(5, seed=2)):
        for part in split_batch(whole, 2):
            assert torch.equal(soft_labels(part), part.images_b3HW.flatten(1)[:, :10])


def test_parts_that_do_not_fit_are_halved_once(context: TrialContext):
    def run(largest: int) -> Trainer:
        def loss(batch: DistillationBatch) -> Tensors:
            if len(batch.images_B3HW) > largest:
                raise torch.OutOfMemoryError("no memory")
            return {"loss": batch.task_loss}

        trainer = trainer_of(context, grad_accum_steps=2, loss=loss)
        result(trainer)
        return trainer

    assert run(8).update.pieces == 4
    with pytest.raises(
        InfeasibleError, match=r"8 images at once do not fit .*; --grad-accum-steps 8 and --grad-checkpointing need less$"
    ):
        run(7)


def small_logits(batch: DistillationBatch) -> Tensors:
    """Without a property of the batch: Python 3.11 computes one of a class at a time, whatever thread asks."""
    return {"loss": batch.student(batch.images_B3HW).square().mean()}


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_ranks_compute_their_shares_in_parts(context: TrialContext, precision: str):
    def run(group: RankGroup | None) -> float:
        own = dataclasses.replace(context, group=group)
        metrics = trainer_of(own, loss=small_logits, precision=precision, grad_accum_steps=3, lr=1e-4).train_segment(0, 1)
        return metrics["loss"]

    alone = run(None)
    for own in on_ranks(2, run):
        assert own == pytest.approx(alone, rel=1e-5 if precision == "float32" else 2e-3)


def test_a_rank_has_as_many_parts_as_every_other(context: TrialContext):
    for rank in range(3):
        own = dataclasses.replace(context, group=RankGroup(rank, 3))
        assert trainer_of(own, batch_size=7, grad_accum_steps=9).update.pieces == 2


@pytest.mark.parametrize("part", [0, 1])
def test_what_is_dropped_at_random_is_drawn_for_the_part_of_all_ranks(part: int):
    model = make_dense("windows", drop_path_rate=0.4, drop_rate=0.3).module.train()
    x = images(7)
    rows = [torch.from_numpy(own).tensor_split(2)[part] for own in RankGroup(0, 2).share.rows_by_rank(7)]
    everyones = torch.cat(rows).sort().values
    torch.manual_seed(1)
    whole = dict(zip(everyones.tolist(), model(x[everyones]), strict=True))
    for rank in range(2):
        torch.manual_seed(1)
        with whole_batch(model, RankGroup(rank, 2), 7, part=part, parts=2) as mode:
            assert isinstance(mode, WholeBatch)
            found = model(x[rows[rank]])
        torch.testing.assert_close(found, torch.stack([whole[row] for row in rows[rank].tolist()]), rtol=0, atol=1e-5)


def test_activations_that_are_computed_again_are_the_same(context: TrialContext):
    trainer = trainer_of(context, grad_checkpointing=True)
    kept: list[bool] = []
    trainer.student.blocks[0].register_forward_pre_hook(lambda *_: kept.append(trainer.student.grad_checkpointing))
    assert_same(result(trainer), result(trainer_of(context)))
    # Once forward and once in the backward pass.
    assert kept == [True] * 8
    assert not trainer.student.grad_checkpointing


def test_activations_are_computed_again_by_the_kernels_that_a_cpu_has_in_half_precision(context: TrialContext):
    trainer = trainer_of(context, grad_checkpointing=True, precision="bfloat16")
    fused = [block.attn.fused_attn for block in trainer.student.blocks]
    assert any(fused)
    assert_same(result(trainer), result(trainer_of(context, precision="bfloat16")))
    assert [block.attn.fused_attn for block in trainer.student.blocks] == fused


@pytest.mark.parametrize("backend", [pytest.param("eager", marks=CI_ONLY), pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_compiled_blocks_train_as_they_are(context: TrialContext, backend: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(acceleration, "_BACKEND", backend)
    trainer = trainer_of(context, compile=True, lr=1e-4)
    inside: list[bool] = []
    trainer.student.blocks[0].register_forward_hook(lambda block, *_: inside.append("forward" in vars(block)))
    assert_same(result(trainer), result(trainer_of(context, lr=1e-4)))
    assert inside == [True] * 4
    # Evaluated, copied and pickled without.
    assert not any("forward" in vars(module) for module in trainer.student.modules())
    trainer.student.blocks[0]._forward_hooks.clear()
    pickle.dumps(trainer.student)


def test_a_model_without_blocks_is_not_compiled():
    with pytest.raises(RequestError, match=r"^--compile: the model has no blocks"):
        acceleration.CompiledBlocks(torch.nn.Linear(2, 2), device=torch.device("cpu"))


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(acceleration.shutil, "which", lambda name: None)
    with pytest.raises(RequestError, match=r"^--compile needs a C\+\+ compiler on this machine, and there is none"):
        acceleration.CompiledBlocks(make_dense().module, device=torch.device("cpu"))


def test_what_ranks_draw_together_is_not_compiled(context: TrialContext):
    dense = make_dense("windows", drop_path_rate=0.4)
    own = dataclasses.replace(context, dense=dense, group=RankGroup(0, 2))
    with pytest.raises(RequestError, match=r"^--compile is given, 2 GPUs train a trial, and the model has dropout"):
        trainer_of(own, compile=True)
