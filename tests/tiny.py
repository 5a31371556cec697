"""Tiny models, and the shortest way through a method's beats: what the tests of several folders start from."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoslim.artifact import FORMAT, FlopsReport, SlimConfig, versions
from autoslim.flops import predict
from autoslim.job import ModelSpec
from autoslim.methods import METHODS, Finished, solve
from autoslim.methods.base import logits_of
from autoslim.plan import Plan
from autoslim.recipe import Knobs, Recipe, Step, Training
from autoslim.shape import ViTShape
from autoslim.vit import DenseModel, create_dense

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
"""What the conformance suite runs every method on."""


def make_spec(name: str = "deit", **args: Any) -> ModelSpec:
    timm_name, own = MODELS[name]
    return ModelSpec(name=timm_name, weights="scratch", args={**SIZES, **own, **args})


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


def images(batch: int = 3, *, size: int = 32, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def share_of_dense(shape: ViTShape, share: float) -> int:
    return int(share * predict(shape, Plan.dense(shape)).total)


def solved_knobs(method: str, shape: ViTShape, share: float = 0.6, knobs: Knobs | None = None) -> Knobs:
    return solve(METHODS[method], shape, Plan.dense(shape), knobs or {}, share_of_dense(shape, share)).knobs


def attached(method: str, dense: DenseModel, knobs: Knobs) -> nn.Module:
    """The training form, with masks away from 1 so that they are felt."""
    student = METHODS[method].attach(copy.deepcopy(dense.module), dense.shape, knobs, images())
    generator = torch.Generator().manual_seed(7)
    for name, parameter in student.named_parameters():
        if name.endswith("zeta"):
            parameter.data.copy_(0.5 + torch.rand(parameter.shape, generator=generator))
    return student


def train(method: str, student: nn.Module, knobs: Knobs, *, steps: int = 2) -> None:
    torch.manual_seed(0)
    optimizer = torch.optim.SGD([p for p in student.parameters() if p.requires_grad], lr=0.05)
    student.train()
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(method, student, knobs, seed=step).backward()
        optimizer.step()
    student.eval()


def loss_of(method: str, student: nn.Module, knobs: Knobs, *, seed: int = 0) -> Tensor:
    x = images(4, seed=seed, dtype=next(student.parameters()).dtype)
    task = functional.cross_entropy(logits_of(student(x)), torch.arange(4) % len(CLASSES))
    return METHODS[method].loss(student, knobs, task)["loss"]


def slim(method: str, dense: DenseModel, *, share: float = 0.6, knobs: Knobs | None = None, steps: int = 0) -> Finished:
    """Attach, train for `steps`, finish."""
    solved = solved_knobs(method, dense.shape, share, knobs)
    student = attached(method, dense, solved)
    if steps:
        train(method, student, solved, steps=steps)
    return finish(method, student, dense.shape, solved, share)


def finish(method: str, student: nn.Module, shape: ViTShape, knobs: Knobs, share: float = 0.6) -> Finished:
    with torch.no_grad():
        finished = METHODS[method].finish(student, shape, Plan.dense(shape), knobs, share_of_dense(shape, share))
    finished.model.eval()
    return finished


@functools.cache
def slimmed(method: str, model: str) -> tuple[DenseModel, Finished]:
    """A finished model per case, made once; copy it before changing it."""
    dense = make_dense(model)
    return dense, slim(method, dense, steps=2)


def config_of(method: str, dense: DenseModel, finished: Finished, *, share: float = 0.6) -> SlimConfig:
    total = predict(dense.shape, finished.plan).total
    budget = share_of_dense(dense.shape, share)
    flops = FlopsReport(predicted=total, fvcore=total, torch=total, dense=total, budget=budget, budget_label="60%")
    return SlimConfig(
        format=FORMAT,
        architecture=dense.architecture,
        shape=dense.shape,
        preprocessing=dense.preprocessing,
        classes=CLASSES,
        recipe=recipe_of([Step(method=method, knobs=finished.knobs)], budget),
        plan=finished.plan,
        flops=flops,
        params=sum(p.numel() for p in finished.model.parameters()),
        accuracy={},
        images={},
        versions=versions(),
    )


def recipe_of(steps: Iterable[Step], budget: int, *, seed: int = 0, **training: Any) -> Recipe:
    return Recipe(steps=tuple(steps), budget=budget, training=Training(**training), seed=seed)


@torch.no_grad()
def logits(model: nn.Module, x: Tensor) -> Tensor:
    return logits_of(model(x))
