"""Tiny models, and the shortest way through a method's phases: what the tests of several folders start from."""

from __future__ import annotations

import copy
import functools
import hashlib
import importlib
from collections.abc import Callable, Generator, Iterable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from autoslim.core.job import ModelSpec
from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs, Recipe, Step, TrainingSettings
from autoslim.core.result import EpochReport, Phase
from autoslim.core.shape import ViTShape
from autoslim.cost import predict
from autoslim.export.artifact import FORMAT, FlopsReport, SlimConfig, versions
from autoslim.methods import METHODS, DistillationBatch, Method, SlimmedModel, StepContext, solve
from autoslim.methods.base import logits_of
from autoslim.methods.trainer import Tensors
from autoslim.models import DenseModel, create_dense
from autoslim.training.batch import LazyDistillationBatch

CLASSES = tuple(f"class {number}" for number in range(10))
SIZES: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 4, "num_heads": 3}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", {"patch_size": 4}),
    "deit": ("deit_tiny_patch16_224", {}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "average": ("vit_tiny_patch16_224", {"global_pool": "avg"}),
    "average without class token": ("vit_tiny_patch16_224", {"global_pool": "avg", "class_token": False}),
    "registers": ("vit_tiny_patch16_224", {"reg_tokens": 4}),
}
"""What the conformance suite runs every method on, and other tests too."""

PARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "packed SwiGLU": ("vit_giant_patch14_dinov2", {}),
    "SwiGLU, RMSNorm and normed patches": ("aimv2_large_patch14_224", {}),
    "attention pooling": ("vit_base_patch16_siglip_224", {}),
    # A stem of many of the FLOPs would leave little of a budget: the blocks are wider than the others'.
    "convolutional stem": ("vit_tiny_r_s16_p8_224", {"patch_size": 2, "embed_dim": 144}),
    "LV-ViT": ("lvvit_s", {"patch_size": 4, "embed_dim": 144}),
    "normalised queries": ("deit_tiny_patch16_224", {"qk_norm": True}),
    "norms inside": ("beit3_base_patch16_224", {}),
    "dynamic size": ("vit_intern300m_patch14_448", {}),
    "parallel attention and MLP": ("vit_pwee_patch16_reg1_gap_256", {}),
    "parallel branches": ("vit_small_patch16_18x2_224", {}),
    "norms behind": ("vit_base_patch16_rpn_224", {}),
    "rotary positions": ("vit_small_plus_patch16_dinov3_qkvb", {}),
    # Angles that are learned for each head need widths that are multiples of four.
    "learned rotary positions": ("vit_small_patch16_rope_mixed_ape_224", {}),
    "rotary positions and norms inside": ("eva02_base_patch16_clip_224", {}),
    "rotary positions and attention pooling": ("vit_pe_core_small_patch16_384", {}),
    "keys without a bias": ("eva_giant_patch14_224", {}),
    "relative positions": ("beit_base_patch16_224", {}),
    "relative positions by an MLP": ("vit_relpos_base_patch16_clsgap_224", {}),
    # The first stage has shifted windows, the second a single one that needs no shift.
    "windows": ("swin_tiny_patch4_window7_224", {}),
    "windows and norms behind": ("swinv2_tiny_window8_256", {}),
}
"""Models with parts that those in `MODELS` have not, by the parts."""

_STAGES: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 4,
    "embed_dim": 48,
    "depths": (2, 2),
    "num_heads": (3, 6),
    "window_size": 4,
    # timm's is 0.1, in these models alone: training at random would hide what tests compare.
    "drop_path_rate": 0.0,
}

SIZES_OF: dict[str, dict[str, Any]] = {"windows": _STAGES, "windows and norms behind": _STAGES}
"""The sizes of models whose arguments are not those of `SIZES`."""

KINDS = {**MODELS, **PARTS}
"""All kinds of models that methods have to slim."""


def make_spec(name: str = "deit", **args: Any) -> ModelSpec:
    timm_name, own = KINDS[name]
    return ModelSpec(name=timm_name, weights="scratch", args={**SIZES_OF.get(name, SIZES), **own, **args})


def make_dense(name: str = "deit", **args: Any) -> DenseModel:
    dense = create_dense(make_spec(name, **args), classes=len(CLASSES))
    enliven(dense.module)
    return dense


def enliven(module: nn.Module, seed: int = 0) -> None:
    """Weights large enough for every part to be felt in the logits; timm's own start leaves them almost constant."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        with torch.no_grad():
            parameter.copy_(noise / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else parameter + 0.1 * noise)


def images(batch: int = 3, *, size: int | tuple[int, int] = 32, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def share_of_dense(shape: ViTShape, share: float) -> int:
    return int(share * predict(shape, Plan.dense(shape)).total)


def method_of(case: str) -> Method:
    """A case is a method's name, or `name:variant`."""
    return METHODS[case.partition(":")[0]]


def variant_knobs(case: str) -> Knobs:
    """The knobs of a variant: an entry of `VARIANTS` in the method's test file."""
    name, _, variant = case.partition(":")
    return method_tests(name).VARIANTS[variant] if variant else {}


def method_tests(method: str) -> ModuleType:
    """`tests/methods/<method>/test_method.py`, which tells the contract suite what it cannot know:

    - `KEEP_ALL`: knobs that remove nothing;
    - `check_training_form_is_pruned_form(model)`: asserts that the model computes the same before and after pruning;
    - `VARIANTS` (optional): knobs under which the method works otherwise, by name. The suite runs with them, too, as `method:variant`, and
      passes the name to the check as its second argument.
    """
    return importlib.import_module(f"methods.{method}.test_method")


def solved_knobs(method: str, shape: ViTShape, share: float = 0.6, knobs: Knobs | None = None) -> Knobs:
    drawn = {**variant_knobs(method), **(knobs or {})}
    return solve(method_of(method), shape, Plan.dense(shape), drawn, share_of_dense(shape, share)).knobs


def context_of(
    shape: ViTShape,
    knobs: Knobs,
    share: float = 0.6,
    *,
    shared: Tensors | None = None,
    bound: str = "max",
    class_query: bool = False,
) -> StepContext:
    plan, budget = Plan.dense(shape, class_query=class_query), share_of_dense(shape, share)
    return StepContext(shape=shape, plan=plan, knobs=knobs, budget=budget, bound=bound, shared=shared)


class TinySharedTrainer:
    """Shared work on a few generated images, in the dense model's own precision."""

    training = TrainingSettings(epochs=1.0, batch_size=8, distillation=0.5)
    epoch_images = 1000

    def __init__(self, dense: DenseModel) -> None:
        self.shape = dense.shape
        self.teacher = copy.deepcopy(dense.module).requires_grad_(False).eval()
        self._dtype = next(self.teacher.parameters()).dtype

    def student(self) -> nn.Module:
        return copy.deepcopy(self.teacher)

    def images(self, count: int) -> Iterator[Tensor]:
        for start in range(0, min(count, 16), 8):
            yield images(8, size=self.shape.image_size, seed=100 + start, dtype=self._dtype)

    def train(
        self,
        student: nn.Module,
        loss: Callable[[DistillationBatch], Tensors],
        *,
        epochs: float,
        learning_rates: dict[str, float] | None = None,
        constant_rate: bool = False,
        weight_decay: float | None = None,
    ) -> Generator[EpochReport]:
        torch.manual_seed(0)
        rates = (learning_rates or {}).items()
        groups = [
            {"params": [p], "lr": 0.05 * next((rate for suffix, rate in rates if name.endswith(suffix)), 1.0)}
            for name, p in student.named_parameters()
            if p.requires_grad
        ]
        optimizer = torch.optim.SGD(groups, lr=0.05)
        student.train()
        for step in range(2):
            optimizer.zero_grad()
            losses = loss(batch_of(student, self.teacher, self.shape, seed=step))
            losses["loss"].backward()
            optimizer.step()
        student.eval()
        yield EpochReport(epoch=epochs, phase=Phase.SHARED, metrics={"loss": float(losses["loss"].detach())})


_SHARED: dict[str, Tensors] = {}


def shared_of(method: str, dense: DenseModel, knobs: Knobs) -> Tensors | None:
    """What `prepare` finds on the tiny workshop; once for equal settings on equal weights, as trials share it."""
    settings = method_of(method).shared_settings(dense.shape, knobs)
    if settings is None:
        return None
    weights = hashlib.sha256()
    for name, value in dense.module.state_dict().items():
        weights.update(f"{name} {value.dtype}".encode() + value.numpy().tobytes())
    key = f"{method_of(method).name} {settings} {dense.shape} {weights.hexdigest()}"
    if key not in _SHARED:
        work = method_of(method).prepare(TinySharedTrainer(dense), settings)
        while key not in _SHARED:
            try:
                next(work)
            except StopIteration as end:
                _SHARED[key] = end.value
    return dict(_SHARED[key])


def attach(
    method: str, dense: DenseModel, knobs: Knobs, x: Tensor | None = None, *, share: float = 0.6, class_query: bool = False
) -> nn.Module:
    context = context_of(dense.shape, knobs, share, shared=shared_of(method, dense, knobs), class_query=class_query)
    # As in a trial: what a method draws depends on the recipe's seed alone.
    torch.manual_seed(0)
    return method_of(method).attach(copy.deepcopy(dense.module), context, images(size=dense.shape.image_size) if x is None else x)


def attached(method: str, dense: DenseModel, knobs: Knobs, *, share: float = 0.6, class_query: bool = False) -> nn.Module:
    """The training form, with masks away from 1 so that they are felt, and heads that differ, as a trained model's do."""
    dtype = next(dense.module.parameters()).dtype
    student = attach(method, dense, knobs, images(size=dense.shape.image_size, dtype=dtype), share=share, class_query=class_query)
    generator = torch.Generator().manual_seed(7)
    for name, parameter in student.named_parameters():
        if name.endswith("zeta"):
            parameter.data.copy_(0.5 + torch.rand(parameter.shape, generator=generator))
    for name, worth_HK in student.named_buffers():
        if name.endswith("worth_HK"):
            worth_HK.mul_(torch.logspace(-3, 0, len(worth_HK))[:, None])
    return student


def train(method: str, dense: DenseModel, student: nn.Module, knobs: Knobs, *, steps: int = 2) -> None:
    """Does nothing where nothing asks to be trained."""
    trained = [p for p in student.parameters() if p.requires_grad]
    if not trained:
        return
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(trained, lr=0.05)
    student.train()
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(method, dense, student, knobs, seed=step).backward()
        optimizer.step()
    student.eval()


def batch_of(
    student: nn.Module, teacher: nn.Module, shape: ViTShape, *, seed: int = 0, distillation: float = 0.0
) -> LazyDistillationBatch:
    x = images(4, size=shape.image_size, seed=seed, dtype=next(student.parameters()).dtype)
    training = TrainingSettings(label_smoothing=0.0, distillation=distillation)
    return LazyDistillationBatch(student, teacher, x, torch.arange(4) % len(CLASSES), training, progress=0.5)


def loss_of(
    method: str, dense: DenseModel, student: nn.Module, knobs: Knobs, *, seed: int = 0, distillation: float = 0.0
) -> Tensor:
    teacher = copy.deepcopy(dense.module).to(next(student.parameters()).dtype).requires_grad_(False).eval()
    return method_of(method).loss(knobs, batch_of(student, teacher, dense.shape, seed=seed, distillation=distillation))["loss"]


def slim(
    method: str, dense: DenseModel, *, share: float = 0.6, knobs: Knobs | None = None, steps: int = 0, class_query: bool = False
) -> SlimmedModel:
    """Attach, train for `steps`, finish. With `class_query` the plan says so already and the last block is still whole."""
    start = Plan.dense(dense.shape, class_query=class_query)
    drawn = {**variant_knobs(method), **(knobs or {})}
    solved = solve(method_of(method), dense.shape, start, drawn, share_of_dense(dense.shape, share)).knobs
    student = attached(method, dense, solved, share=share, class_query=class_query)
    if steps:
        train(method, dense, student, solved, steps=steps)
    return prune(method, student, dense.shape, solved, share, class_query=class_query)


def prune(
    method: str, student: nn.Module, shape: ViTShape, knobs: Knobs, share: float = 0.6, *, class_query: bool = False
) -> SlimmedModel:
    with torch.no_grad():
        finished = method_of(method).prune(student, context_of(shape, knobs, share, class_query=class_query))
    finished.model.eval()
    return finished


@functools.cache
def slimmed(method: str, model: str) -> tuple[DenseModel, SlimmedModel]:
    """A finished model per case, made once; copy it before changing it."""
    dense = make_dense(model)
    return dense, slim(method, dense, steps=2)


def config_of(method: str, dense: DenseModel, finished: SlimmedModel, *, share: float = 0.6) -> SlimConfig:
    total = predict(dense.shape, finished.plan).total
    budget = share_of_dense(dense.shape, share)
    flops = FlopsReport(predicted=total, fvcore=total, torch=total, dense=total, budget=budget, budget_label="60%")
    return SlimConfig(
        format=FORMAT,
        architecture=dense.architecture,
        shape=dense.shape,
        preprocessing=dense.preprocessing,
        classes=CLASSES,
        recipe=recipe_of([Step(method=method_of(method).name, knobs=finished.knobs)], budget),
        plan=finished.plan,
        flops=flops,
        params=sum(p.numel() for p in finished.model.parameters()),
        accuracy={},
        images={},
        versions=versions(),
    )


def recipe_of(steps: Iterable[Step], budget: int, *, seed: int = 0, **training: Any) -> Recipe:
    return Recipe(steps=tuple(steps), budget=budget, training=TrainingSettings(**training), seed=seed)


@torch.no_grad()
def logits(model: nn.Module, x: Tensor) -> Tensor:
    return logits_of(model(x))
