"""The training loop: schedule, average, memory, and a loss that runs away."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable

import pytest
import torch
from helpers.tiny import images, make_dense
from torch import Tensor, nn
from torch.nn import functional

from autoslim.core.recipe import TrainingSettings
from autoslim.core.result import Phase
from autoslim.data import Loader
from autoslim.errors import DivergedError, InfeasibleError
from autoslim.training import TrialContext
from autoslim.training.batch_update import Objective
from autoslim.training.device import Precision, choose_precision
from autoslim.training.loop import Trainer
from autoslim.training.losses import task_loss
from autoslim.training.optimizer import make_optimizer
from autoslim.training.phase_schedule import PhaseSchedule, learning_rate_factor

CPU = torch.device("cpu")
PLAIN = TrainingSettings(batch_size=32, precision="float32", distillation=0.0, label_smoothing=0.0, flip=False)


@pytest.fixture
def loader(context: TrialContext) -> Loader:
    return context.loader(context.splits.train, PLAIN, seed=0, train=True)


MakeTrainer = Callable[..., Trainer]


@pytest.fixture
def make_trainer(context: TrialContext, loader: Loader) -> MakeTrainer:
    def make_trainer(student: nn.Module, objective: Objective | None = None, *, steps: int = 6, **training) -> Trainer:
        training = PLAIN.replace(**training)

        def plain(images_B3HW: Tensor, targets: Tensor) -> dict[str, Tensor]:
            return {"loss": task_loss(student, None, images_B3HW.to(next(student.parameters()).dtype), targets, training)}

        student.requires_grad_(True)
        schedule = PhaseSchedule(phase=Phase.FINETUNE, seed_name="test", steps=steps)
        precision = choose_precision(training.precision, CPU)
        return Trainer(student, objective or plain, loader, training, schedule, seed=0, device=CPU, precision=precision)

    return make_trainer


@pytest.mark.parametrize(
    ("step", "steps", "warmup", "expected"),
    [
        (0, 100, 0.1, 0.1),
        (4, 100, 0.1, 0.5),
        (9, 100, 0.1, 1.0),
        (10, 100, 0.1, 1.0),
        (55, 100, 0.1, 0.505),
        (99, 100, 0.1, 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * 89 / 90))),
        (0, 100, 0.0, 1.0),
        (0, 1, 0.1, 1.0),
    ],
)
def test_the_learning_rate_rises_linearly_and_falls_as_half_a_cosine(step: int, steps: int, warmup: float, expected: float):
    assert learning_rate_factor(step, steps, warmup) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("step", "steps", "warmup", "expected"),
    [(0, 100, 0.1, 0.1), (10, 100, 0.1, 1.0), (55, 100, 0.1, 0.5), (99, 100, 0.1, 1 / 90), (0, 1, 0.1, 1.0), (1, 2, 0.0, 1.0)],
)
def test_the_learning_rate_falls_in_a_line_where_that_is_asked_for(step: int, steps: int, warmup: float, expected: float):
    assert learning_rate_factor(step, steps, warmup, "linear") == pytest.approx(expected)


def test_a_cosine_ends_where_the_recipe_says_and_stays_there_while_it_cools_down():
    rates = [learning_rate_factor(step, 200, 0.1, final_rate=0.05, cooldown=0.2) for step in range(200)]
    assert rates[20] == 1.0
    assert rates[90] == pytest.approx(0.525)
    assert rates[160:] == pytest.approx([0.05] * 40)
    assert rates[20:160] == sorted(rates[20:160], reverse=True)
    assert learning_rate_factor(199, 200, 0.1, final_rate=0.05) > 0.05
    # A line ends at nothing, whatever the recipe says of a cosine.
    line = learning_rate_factor(199, 200, 0.1, "linear", final_rate=0.05, cooldown=0.2)
    assert line == learning_rate_factor(199, 200, 0.1, "linear")


def test_every_step_is_taken_at_its_learning_rate(make_trainer: MakeTrainer, context: TrialContext):
    seen: list[float] = []
    student = context.student()

    def objective(images_B3HW: Tensor, targets: Tensor) -> dict[str, Tensor]:
        seen.append(trainer.optimizer.param_groups[0]["lr"])
        return {"loss": task_loss(student, None, images_B3HW, targets, PLAIN)}

    own = {"final_rate": 0.1, "cooldown": 0.2}
    trainer = make_trainer(student, objective, steps=15, lr=1e-3, warmup=0.2, **own)
    list(trainer.segments())
    assert seen == pytest.approx([1e-3 * learning_rate_factor(step, 15, 0.2, **own) for step in range(15)])
    assert seen[-3:] == pytest.approx([1e-4] * 3)


def test_a_beat_runs_in_segments_of_an_epoch(make_trainer: MakeTrainer, context: TrialContext):
    segments = [(s.index, s.steps) for s in make_trainer(context.student(), steps=15).segments()]
    assert segments == [(0, 6), (1, 12), (2, 15)]


def test_a_part_with_a_learning_rate_of_its_own_gets_it_and_decays_like_the_others():
    student = make_dense().module.requires_grad_(True)
    schedule = PhaseSchedule(phase=Phase.FINETUNE, seed_name="test", steps=1, learning_rates={"head.weight": 7.0})
    optimizer = make_optimizer(student, PLAIN.replace(lr=1e-3, weight_decay=0.05), schedule)
    groups = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert groups[id(student.head.weight)] == pytest.approx((7e-3, 0.05))
    assert groups[id(student.head.bias)] == groups[id(student.norm.weight)] == pytest.approx((1e-3, 0.0))
    assert groups[id(student.pos_embed)] == groups[id(student.cls_token)] == pytest.approx((1e-3, 0.0))
    assert groups[id(student.blocks[0].attn.qkv.weight)] == pytest.approx((1e-3, 0.05))
    assert len(groups) == len(list(student.parameters()))


def test_a_beats_rate_is_that_of_all_its_parts():
    student = make_dense().module.requires_grad_(True)
    schedule = PhaseSchedule(phase=Phase.FINETUNE, seed_name="test", steps=1, rate=0.1, learning_rates={"head.weight": 7.0})
    groups = make_optimizer(student, PLAIN.replace(lr=1e-3), schedule).param_groups
    assert sorted({group["lr"] for group in groups}) == pytest.approx([1e-4, 7e-4])


def test_what_asks_for_no_gradient_stays(make_trainer: MakeTrainer, context: TrialContext):
    student = context.student()
    trainer = make_trainer(student)
    student.requires_grad_(False)
    student.head.requires_grad_(True)
    trainer = Trainer(
        student,
        trainer.update.objective,
        trainer.loader,
        PLAIN,
        PhaseSchedule(phase=Phase.FINETUNE, seed_name="test", steps=3),
        seed=0,
        device=CPU,
        precision=Precision.FLOAT32,
    )
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    list(trainer.segments())
    moved = {name for name, p in student.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"head.weight", "head.bias"}


def test_the_average_follows_the_weights(make_trainer: MakeTrainer, context: TrialContext):
    """average = d average + (1 - d) weights, d rising from 0 to the recipe's: 1 - step^(-2/3) at first."""
    student = context.student()
    states = [student.head.weight.detach().clone()]

    def objective(images_B3HW: Tensor, targets: Tensor) -> dict[str, Tensor]:
        states.append(student.head.weight.detach().clone())
        return {"loss": task_loss(student, None, images_B3HW, targets, PLAIN)}

    trainer = make_trainer(student, objective, steps=6, ema_decay=0.6, lr=1e-2)
    (segment,) = trainer.segments()
    after = [*states[2:], student.head.weight.detach().clone()]
    average = states[0]
    for step, weights in enumerate(after, 1):
        decay = 0.0 if step == 1 else min(0.6, 1 - step ** (-2 / 3))
        average = decay * average + (1 - decay) * weights
    assert segment.model is not student
    torch.testing.assert_close(segment.model.head.weight, average, rtol=1e-5, atol=1e-6)
    assert not torch.equal(segment.model.head.weight, student.head.weight)


def test_without_an_average_the_model_itself_is_judged(make_trainer: MakeTrainer, context: TrialContext):
    student = context.student()
    (segment,) = make_trainer(student, ema_decay=0.0).segments()
    assert segment.model is student


def test_a_loss_that_is_not_a_number_ends_the_trial(make_trainer: MakeTrainer, context: TrialContext):
    student = context.student()

    def objective(images_B3HW: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"loss": student(images_B3HW).sum() * float("nan")}

    with pytest.raises(DivergedError, match="the loss is nan at step 6 of the finetune phase") as found:
        list(make_trainer(student, objective).segments())
    assert re.search(r"\(epoch 1, learning rate [\d.e-]+\); first not finite: loss, at step 1$", str(found.value))


def test_the_part_of_the_loss_that_diverged_is_named_with_the_step_it_did(make_trainer: MakeTrainer, context: TrialContext):
    student, calls = context.student(), itertools.count(1)

    def objective(images_B3HW: Tensor, targets: Tensor) -> dict[str, Tensor]:
        labels = student(images_B3HW).sum()
        # It takes the weights along, and with them the other part, at the next step.
        teacher = labels * (float("inf") if next(calls) == 3 else 1.0)
        return {"loss": labels + teacher, "labels": labels, "teacher": teacher}

    with pytest.raises(DivergedError, match=r"at step 6 of the finetune phase .*; first not finite: teacher, at step 3$"):
        list(make_trainer(student, objective).segments())


def test_weights_that_are_not_numbers_end_the_trial_though_no_loss_has_seen_them(
    make_trainer: MakeTrainer, context: TrialContext
):
    student = context.student()

    def objective(images_B3HW: Tensor, targets: Tensor) -> dict[str, Tensor]:
        # Finite itself, but with a gradient of infinity.
        return {"loss": student(images_B3HW).sum() * 0 + (student.head.bias - student.head.bias.detach()).abs().sqrt().sum()}

    with pytest.raises(
        DivergedError,
        match=r"the parameter \w+ is not finite after step 1 of the finetune phase \(epoch 1, learning rate 0\.0005\)",
    ):
        list(make_trainer(student, objective, steps=1).segments())


def _gradients(student: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in student.named_parameters()}


@pytest.mark.parametrize("largest", [16, 31])
def test_a_batch_that_does_not_fit_is_accumulated_to_the_same_gradient(
    largest: int, make_trainer: MakeTrainer, context: TrialContext
):
    gradients, curves = [], []
    for limit in (None, largest):
        student = context.student().double()

        def objective(images_B3HW: Tensor, targets: Tensor, student=student, limit=limit) -> dict[str, Tensor]:
            if limit is not None and len(images_B3HW) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return {"loss": task_loss(student, None, images_B3HW.double(), targets, PLAIN), "other": images_B3HW.mean()}

        trainer = make_trainer(student, objective, steps=1, clip_norm=0.0, lr=0.0, ema_decay=0.0)
        (segment,) = trainer.segments()
        assert trainer.update.pieces == (1 if limit is None else 2)
        gradients.append(_gradients(student))
        curves.append(segment.metrics)
    assert curves[0]["loss"] == pytest.approx(curves[1]["loss"], rel=1e-5)
    assert curves[0]["other"] == pytest.approx(curves[1]["other"], rel=1e-5)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=0, atol=1e-6)


def test_half_a_batch_that_does_not_fit_either_is_infeasible(make_trainer: MakeTrainer, context: TrialContext):
    calls = []

    def objective(images_B3HW: Tensor, targets: Tensor) -> dict[str, Tensor]:
        calls.append(len(images_B3HW))
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(InfeasibleError, match="16 images at once do not fit into the memory of cpu"):
        list(make_trainer(context.student(), objective).segments())
    assert calls == [32, 16]


def test_the_curves_are_means_over_the_segment(make_trainer: MakeTrainer, context: TrialContext):
    student, values = context.student(), iter([1.0, 2.0, 3.0, 4.0, 5.0, 9.0])

    def objective(images_B3HW: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"loss": student(images_B3HW).sum() * 0 + next(values)}

    (segment,) = make_trainer(student, objective).segments()
    assert segment.metrics["loss"] == pytest.approx(4.0)
    assert segment.metrics["images_per_second"] > 0
    assert 0 <= segment.metrics["loader_wait"] < 1


# The task's loss.


class Fixed(nn.Module):
    def __init__(self, logits_BC: Tensor) -> None:
        super().__init__()
        self.logits_BC = nn.Parameter(logits_BC)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        return self.logits_BC


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_distillation_is_the_formula(temperature: float, weight: float):
    """(1 - d) cross entropy + d T^2 KL(teacher || student)."""
    student, teacher = torch.randn(5, 10), torch.randn(5, 10)
    labels_B = torch.arange(5)
    training = PLAIN.replace(distillation=weight, temperature=temperature, label_smoothing=0.1)
    p, q = (teacher / temperature).softmax(1), (student / temperature).softmax(1)
    divergence = (p * (p / q).log()).sum(1).mean()
    expected = (1 - weight) * functional.cross_entropy(student, labels_B, label_smoothing=0.1)
    expected = expected + weight * temperature**2 * divergence
    model = Fixed(student)
    found = task_loss(model, Fixed(teacher), images(5), labels_B, training)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert model.logits_BC.grad is not None


def test_without_a_teacher_the_labels_alone_count():
    student, labels_B = Fixed(torch.randn(5, 10)), torch.arange(5)
    expected = functional.cross_entropy(student.logits_BC, labels_B, label_smoothing=0.2)
    for teacher, weight in ((None, 0.5), (Fixed(torch.randn(5, 10)), 0.0)):
        training = PLAIN.replace(distillation=weight, label_smoothing=0.2)
        torch.testing.assert_close(task_loss(student, teacher, images(5), labels_B, training), expected)


def test_soft_labels_are_not_smoothed_again():
    student, soft_BC = Fixed(torch.randn(5, 10)), torch.rand(5, 10).softmax(1)
    expected = -(soft_BC * student.logits_BC.log_softmax(1)).sum(1).mean()
    found = task_loss(student, None, images(5), soft_BC, PLAIN.replace(label_smoothing=0.3))
    torch.testing.assert_close(found, expected)


def test_a_distilled_models_two_heads_are_averaged_in_training_as_in_inference():
    model = make_dense("distilled").module
    labels_B = torch.arange(3)
    training = PLAIN.replace(label_smoothing=0.0)
    with torch.no_grad():
        inference = task_loss(model.eval(), None, images(), labels_B, training)
        torch.testing.assert_close(task_loss(model.train(), None, images(), labels_B, training), inference)


def test_mixup_mixes_each_image_with_its_opposite_number(make_trainer: MakeTrainer, context: TrialContext):
    seen = []
    student = context.student()

    def objective(images_B3HW: Tensor, targets: Tensor) -> dict[str, Tensor]:
        seen.append((images_B3HW, targets))
        return {"loss": student(images_B3HW).sum() * 0}

    plain = make_trainer(student, objective, steps=2)
    list(plain.segments())
    list(make_trainer(student, objective, steps=2, mixup=0.5, label_smoothing=0.1).segments())
    shares = []
    for (plain_B3HW, labels_B), (mixed_B3HW, targets_BC) in zip(seen[:2], seen[2:], strict=True):
        smooth_BC = functional.one_hot(labels_B, 10) * 0.9 + 0.01
        first = (labels_B != labels_B.flip(0)).nonzero()[0, 0]
        label = labels_B[first]
        share = float((targets_BC[first, label] - smooth_BC.flip(0)[first, label]) / (smooth_BC[first, label] - 0.01))
        shares.append(share)
        torch.testing.assert_close(targets_BC, share * smooth_BC + (1 - share) * smooth_BC.flip(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mixed_B3HW, share * plain_B3HW + (1 - share) * plain_B3HW.flip(0), rtol=1e-3, atol=1e-4)
    assert shares[0] != pytest.approx(shares[1])
    assert all(0 <= share <= 1 for share in shares)


def test_cutmix_takes_pixels_and_labels_from_the_same_partner(make_trainer: MakeTrainer, context: TrialContext):
    seen = []
    student = context.student()

    def objective(images_B3HW: Tensor, targets: Tensor) -> dict[str, Tensor]:
        seen.append((images_B3HW, targets))
        return {"loss": student(images_B3HW).sum() * 0}

    list(make_trainer(student, objective, steps=1).segments())
    list(make_trainer(student, objective, steps=1, cutmix=1.0).segments())
    (plain_B3HW, labels_B), (cut_B3HW, targets_BC) = seen
    assert bool(((cut_B3HW == plain_B3HW) | (cut_B3HW == plain_B3HW.flip(0))).all())
    hard_BC = functional.one_hot(labels_B, 10).float()
    first = (labels_B != labels_B.flip(0)).nonzero()[0, 0]
    share = float(targets_BC[first, labels_B[first]])
    # At most what differs from the image is the partner's; where both are black nobody can tell.
    assert 0 < share <= float((cut_B3HW == plain_B3HW).all(dim=0).all(dim=0).float().mean()) + 1e-6
    torch.testing.assert_close(targets_BC, share * hard_BC + (1 - share) * hard_BC.flip(0), rtol=1e-4, atol=1e-5)
