"""A small prepared data set, a base model trained on it, and trials run to their end."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny import SIZES

from autoslim.core.job import DatasetSpec, ModelSpec
from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs, Recipe, Step, TrainingSettings
from autoslim.core.result import EpochReport
from autoslim.cost import predict
from autoslim.data import PreparedDataset, prepare_dataset
from autoslim.methods import METHODS, solve
from autoslim.training import BaseRequest, TrialContext, prepare_base

CPU = torch.device("cpu")
PLAIN = {"batch_size": 32, "precision": "float32", "augmentation": "light", "flip": False}


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """Ten classes of handwritten digits; six steps an epoch at 32 images each."""
    return prepare_dataset(DatasetSpec(source="digits", train_limit=220), tmp_path_factory.mktemp("digits"), seed=0)


@pytest.fixture(scope="session")
def request_of(digits: PreparedDataset) -> Callable[..., BaseRequest]:
    def request_of(**training: Any) -> BaseRequest:
        return BaseRequest(
            model=ModelSpec(name="deit_tiny_patch16_224", weights="scratch", args=SIZES),
            weights_digest="",
            dataset_digest=digits.digest,
            training=TrainingSettings(**{**PLAIN, "epochs": 3.0, "lr": 3e-3, "distillation": 0.0, **training}),
            seed=0,
        )

    return request_of


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, digits: PreparedDataset, request_of: Callable[..., BaseRequest]) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    drain(prepare_base(folder, request_of(), digits, device=CPU))
    return folder


@pytest.fixture
def open_context(base: Path, digits: PreparedDataset) -> Callable[[], TrialContext]:
    return lambda: TrialContext.open(base=base, dataset=digits.path, device=CPU)


@pytest.fixture
def context(open_context: Callable[[], TrialContext]) -> TrialContext:
    return open_context()


@pytest.fixture
def make_recipe(context: TrialContext) -> Callable[..., Recipe]:
    """Steps by method name; the last is solved onto `share` of the dense model, those before onto `first`."""

    def make_recipe(
        *methods: str, share: float = 0.6, first: float = 0.8, seed: int = 0, knobs: Knobs | None = None, **training: Any
    ) -> Recipe:
        plan = Plan.dense(context.dense.shape)
        dense = predict(context.dense.shape, plan).total
        budget = int(share * dense)
        steps = []
        for position, name in enumerate(methods):
            method = METHODS[name]
            target = budget if position == len(methods) - 1 else int(first * dense)
            solved = solve(method, context.dense.shape, plan, knobs or {}, target)
            plan = solved.plan
            steps.append(Step(method=name, knobs=solved.knobs))
        return Recipe(
            steps=tuple(steps), budget=budget, training=TrainingSettings(**{**PLAIN, "epochs": 2.0, **training}), seed=seed
        )

    return make_recipe


def drain(run: Generator[EpochReport, None, Any]) -> tuple[list[EpochReport], Any]:
    """All reports, and what the generator returns."""
    reports: list[EpochReport] = []
    while True:
        try:
            reports.append(next(run))
        except StopIteration as end:
            return reports, end.value


@pytest.fixture(name="drain", scope="session")
def drain_fixture() -> Callable[[Generator[EpochReport, None, Any]], tuple[list[EpochReport], Any]]:
    return drain
