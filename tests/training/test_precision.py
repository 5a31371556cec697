"""What training computes in, by the device and by the settings, and what is left of it in a checkpoint and in the result."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from helpers.marks import DISTINCT
from helpers.tiny import images, logits, make_dense

from autoslim.core.recipe import PRECISIONS, Recipe, TrainingSettings
from autoslim.core.result import Phase
from autoslim.errors import DivergedError, RequestError
from autoslim.methods.trainer import DistillationBatch, Tensors
from autoslim.training import TrialContext, run_trial
from autoslim.training.batch_parts import HalfTeacher
from autoslim.training.checkpoint import flatten_optimizer
from autoslim.training.device import Precision, autocast, choose_precision, fast_products, memory_format
from autoslim.training.divergence import LateCheck
from autoslim.training.loop import Segment, Trainer
from autoslim.training.phase import TrainingPhase, make_trainer
from autoslim.training.phase_schedule import PhaseSchedule

CPU, GPU = torch.device("cpu"), torch.device("cuda")
PLAIN = TrainingSettings(batch_size=32, precision="float32", augmentation="light", flip=False)


def trainer_of(
    context: TrialContext, *, steps: int = 6, loss: Callable[[DistillationBatch], Tensors] | None = None, **training
) -> Trainer:
    schedule = PhaseSchedule(phase=Phase.FINETUNE, seed_name="test", steps=steps)
    student = context.student().requires_grad_(True)
    return make_trainer(
        context, TrainingPhase(student=student, loss=loss, training=PLAIN.replace(**training), schedule=schedule, seed=0)
    )


def trained(context: TrialContext, **settings) -> Segment:
    (segment,) = trainer_of(context, **settings).segments()
    return segment


def gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: capability >= (8, 0))


@pytest.mark.parametrize(
    ("capability", "auto", "tf32"), [((9, 0), "bfloat16", "tf32"), ((7, 5), "float16", "float32"), ((6, 1), "float32", "float32")]
)
def test_auto_is_the_fastest_that_a_gpu_has(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], auto: str, tf32: str):
    gpu(monkeypatch, capability)
    chosen = {name: str(choose_precision(value, GPU)) for name, value in PRECISIONS.items()}
    assert chosen == {"auto": auto, "fp32": "float32", "tf32": tf32, "bf16": "bfloat16", "fp16": "float16"}


@pytest.mark.parametrize("fast", [True, False])
def test_auto_on_a_cpu_is_bfloat16_where_it_has_instructions_for_it(monkeypatch: pytest.MonkeyPatch, fast: bool):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert choose_precision("auto", CPU) is (Precision.BFLOAT16 if fast else Precision.FLOAT32)
    assert choose_precision("tf32", CPU) is Precision.FLOAT32


def test_every_precision_has_a_name():
    assert set(PRECISIONS.values()) == {"auto", *Precision}


def test_another_precision_is_refused():
    with pytest.raises(RequestError, match=r"^precision is 'float8'; allowed: auto, float32, tf32, bfloat16, float16$"):
        choose_precision("float8", CPU)


@pytest.mark.parametrize(
    ("device", "precision", "within"), [(GPU, "tf32", "high"), (GPU, "float32", "highest"), (CPU, "tf32", "highest")]
)
def test_products_in_float32_are_in_tf32_where_it_is_asked_for(device: torch.device, precision: str, within: str):
    with fast_products(device, Precision(precision)):
        assert torch.get_float32_matmul_precision() == within
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_training_in_half_precision_is_close_to_float32(context: TrialContext, precision: str):
    alone, half = (trained(context, steps=2, distillation=0.0, precision=name) for name in ("float32", precision))
    assert half.metrics["loss"] == pytest.approx(alone.metrics["loss"], rel=0.02)
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.float32}
    assert half.metrics["loss"] != alone.metrics["loss"]


def test_a_step_whose_gradients_overflow_is_left_out_and_the_next_is_scaled_less(context: TrialContext):
    trainer = trainer_of(context, steps=1, precision="float16", ema_decay=0.0)
    trainer.scaler.load_state_dict(trainer.scaler.state_dict() | {"scale": 2.0**120})
    before = copy.deepcopy(trainer.student.state_dict())
    (segment,) = trainer.segments()
    assert all(torch.equal(value, before[name]) for name, value in segment.model.state_dict().items())
    assert trainer.scaler.get_scale() == 2.0**119


@pytest.mark.slow
@pytest.mark.short
def test_a_resumed_run_in_float16_has_its_scale_and_ends_as_one_that_was_not_interrupted(context: TrialContext):
    def begun() -> Trainer:
        trainer = trainer_of(context, steps=9, precision="float16", lr=1e-3, distillation=0.0)
        # Grows within the run, so that the steps since the last change count, too.
        trainer.scaler.load_state_dict(trainer.scaler.state_dict() | {"scale": 256.0, "growth_interval": 4})
        return trainer

    whole, first, resumed = begun(), begun(), begun()
    *_, last = whole.segments()
    segment = next(first.segments())
    resumed.restore({name: value.clone() for name, value in segment.state().items()}, step=segment.steps)
    assert resumed.scaler.get_scale() == first.scaler.get_scale()
    *_, end = resumed.segments()
    expected, found = last.state(), end.state()
    assert float(found["scaler.scale"]) == 1024.0
    assert expected.keys() == found.keys()
    assert [name for name, value in expected.items() if not torch.equal(value, found[name])] == []


def test_a_run_that_goes_on_in_another_precision_has_no_scale(context: TrialContext):
    segment = trained(context, steps=1, precision="float16", ema_decay=0.0)
    assert "scaler.scale" in segment.state()
    other = trainer_of(context, ema_decay=0.0)
    other.restore(segment.state(), step=segment.steps)
    assert not any(name.startswith("scaler.") for name in flatten_optimizer(other.optimizer, other.scaler))


def test_a_loss_beyond_float16_names_precisions_that_have_it(context: TrialContext):
    def overflowing(batch: DistillationBatch) -> Tensors:
        return {"loss": batch.task_loss * float("inf")}

    with pytest.raises(
        DivergedError, match=r"first not finite: loss, at step 1; float16 ends at 65504: --precision bf16 or fp32 may"
    ):
        trained(context, steps=1, precision="float16", loss=overflowing)


def test_a_teacher_in_bfloat16_gives_nearly_the_teachers_logits_and_leaves_it_alone():
    teacher = make_dense("distilled").module
    half = HalfTeacher(teacher)
    with autocast(teacher, device=CPU, precision=Precision.BFLOAT16):
        found = half(images())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, logits(teacher, images()), rtol=0.05, atol=0.1)
    assert {parameter.dtype for parameter in teacher.parameters()} == {torch.float32}


def test_the_teacher_of_a_cpu_is_the_one_in_float32(context: TrialContext):
    assert context.half_teacher(Precision.BFLOAT16) is None


@pytest.mark.parametrize(("model", "on_a_gpu"), [("convolutional stem", torch.channels_last), ("vit", torch.preserve_format)])
def test_images_are_channels_last_where_convolutions_overlap(model: str, on_a_gpu: torch.memory_format):
    module = make_dense(model).module
    assert memory_format(module, GPU) == on_a_gpu
    assert memory_format(module, CPU) == torch.preserve_format


def test_a_value_that_is_not_finite_is_noticed_at_once_on_a_cpu():
    check = LateCheck()
    assert check.is_finite(torch.tensor(1.0))
    assert not check.is_finite(torch.tensor(float("nan")))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_value_that_is_not_finite_is_noticed_at_the_next_check_on_a_gpu():
    check = LateCheck()
    assert check.is_finite(torch.tensor(float("nan"), device=GPU))
    assert not check.is_finite(torch.tensor(1.0, device=GPU))


def test_a_result_says_what_it_was_trained_in(context: TrialContext, make_recipe: Callable[..., Recipe], drain, tmp_path):
    recipe = make_recipe("merge", epochs=0.5, precision="tf32", grad_accum_steps=2)
    _, outcome = drain(run_trial(recipe, context, tmp_path))
    assert (outcome.precision, outcome.grad_accum_steps) == ("float32", 2)
    assert outcome.from_json(outcome.to_json()) == outcome


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("method", DISTINCT)
def test_every_method_is_trained_in_half_precision(
    method: str, precision: str, context: TrialContext, make_recipe: Callable[..., Recipe], drain, tmp_path
):
    _, outcome = drain(run_trial(make_recipe(method, epochs=1.0, precision=precision, lr=1e-4), context, tmp_path))
    assert outcome.precision == precision
    assert outcome.accuracy > 0.2
