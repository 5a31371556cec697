"""Two toy methods that only expect, never train, and results without a trial."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from torch import Tensor, nn

from autoslim.core.plan import Plan
from autoslim.core.recipe import Knobs, Recipe, Step, TrainingSettings
from autoslim.core.result import Origin, TrialResult, TrialState
from autoslim.core.shape import ViTShape
from autoslim.cost import predict
from autoslim.methods.base import Method, SlimmedModel, StepContext
from autoslim.methods.knob import Knob, Ranges
from autoslim.methods.trainer import DistillationBatch, Tensors
from autoslim.search import Proposal, Proposer, Space, parse_space

Make = Callable[..., Proposer]


class Toy(Method):
    """A method whose training part fails the test that reaches it: the search plans and never trains."""

    paper = ""

    def attach(self, model: nn.Module, context: StepContext, images_B3HW: Tensor) -> nn.Module:
        raise AssertionError("the search trained something")

    def loss(self, knobs: Knobs, batch: DistillationBatch) -> Tensors:
        raise AssertionError("the search trained something")

    def prune(self, student: nn.Module, context: StepContext) -> SlimmedModel:
        raise AssertionError("the search trained something")

    def build(self, model: nn.Module, shape: ViTShape, plan: Plan, knobs: Knobs) -> nn.Module:
        raise AssertionError("the search trained something")


class ToyTokens(Toy):
    """One or two cuts; the second's knobs are there only when it is. Cuts on one block become one."""

    name = "tokens"
    ranges: ClassVar[Ranges] = {
        "cuts": Knob(kind="choice", help="", default=1, choices=(1, 2)),
        "layer_1": Knob(kind="layer", help="", default=0.25, low=0.0, high=1.0),
        "layer_2": Knob(kind="layer", help="", default=0.75, low=0.0, high=1.0),
        "gone_1": Knob(kind="float", help="", default=0.3, low=0.0, high=0.9, cost_sign=-1),
        "gone_2": Knob(kind="float", help="", default=0.6, low=0.0, high=0.9, cost_sign=-1),
        "filled": Knob(kind="int", help="", default=0, low=0, high=100, searched=False),
        "rate": Knob(kind="float", help="", default=1.0, low=0.1, high=10.0, log=True),
        "calls": Knob(kind="int", help="", default=4, low=1, high=8),
    }

    def is_active(self, knob: str, chosen: Knobs) -> bool:
        return not knob.endswith("_2") or chosen["cuts"] == 2

    def repair(self, shape: ViTShape, knobs: Knobs) -> Knobs:
        full = super().repair(shape, knobs)
        if full["cuts"] == 2 and full["layer_1"] == full["layer_2"]:
            harder = max(full["gone_1"], full["gone_2"])
            return super().repair(shape, {**full, "cuts": 1, "gone_1": harder})
        if full["cuts"] == 2:
            full["layer_1"], full["layer_2"] = sorted((full["layer_1"], full["layer_2"]))
            full["gone_1"], full["gone_2"] = sorted((full["gone_1"], full["gone_2"]))
        return full

    def expect(self, shape: ViTShape, plan: Plan, knobs: Knobs) -> Plan:
        tokens = [shape.tokens] * shape.depth
        for k in range(1, knobs["cuts"] + 1):
            left = max(1, round(shape.patches * (1 - knobs[f"gone_{k}"]))) + shape.prefix_tokens
            tokens[knobs[f"layer_{k}"] :] = [left] * (shape.depth - knobs[f"layer_{k}"])
        if knobs["filled"] and knobs["filled"] <= shape.tokens - tokens[-1]:
            tokens[-1] = min(tokens[-1] + knobs["filled"], tokens[-2])
        return plan.with_tokens(tuple(tokens))

    def costlier(self, shape: ViTShape, knobs: Knobs, ranges: Ranges) -> Iterator[Knobs]:
        if knobs["filled"] < 100:
            yield {**knobs, "filled": knobs["filled"] + 1}


class ToyWidth(Toy):
    name = "width"
    ranges: ClassVar[Ranges] = {
        "keep": Knob(kind="float", help="", default=0.7, low=0.3, high=1.0, cost_sign=1),
        "flavour": Knob(kind="choice", help="", default="sweet", choices=("sweet", "sour", "salty")),
        "bold": Knob(kind="choice", help="", default=False, choices=(False, True)),
    }

    def expect(self, shape: ViTShape, plan: Plan, knobs: Knobs) -> Plan:
        hidden = max(1, int(shape.hidden * knobs["keep"]))
        return plan.replace(blocks=tuple(block.replace(hidden=hidden) for block in plan.blocks))


@pytest.fixture(scope="session")
def methods() -> dict[str, Method]:
    return {"tokens": ToyTokens(), "width": ToyWidth()}


@pytest.fixture(scope="session")
def shape() -> ViTShape:
    return ViTShape(
        image_size=(48, 48),
        grid=(6, 6),
        patch_inputs=192,
        prefix_tokens=1,
        depth=8,
        dim=48,
        heads=3,
        head_width=16,
        hidden=192,
        classes=10,
        classifiers=1,
        pool="token",
        pre_norm=False,
        final_norm=True,
        pooled_norm=False,
        qk_norm=False,
    )


@pytest.fixture(scope="session")
def whole(methods: dict[str, Method]) -> Space:
    """Both toys over their whole ranges, and a training setting."""
    text = "methods: {tokens: , width: }\ntraining: {lr: {low: 1.0e-4, high: 1.0e-2}}"
    return parse_space(text, source="whole.yaml", methods=methods)


@pytest.fixture(scope="session")
def finished() -> Callable[..., TrialResult]:
    def finished(proposal: Proposal, accuracy: float | None = 0.5, **changes: Any) -> TrialResult:
        result = TrialResult(
            number=proposal.number,
            recipe=proposal.recipe,
            origin=proposal.origin,
            state=TrialState.COMPLETE if proposal.plan else TrialState.INFEASIBLE,
            accuracy=accuracy if proposal.plan else None,
            flops=proposal.flops,
        )
        return result.replace(**changes)

    return finished


@pytest.fixture(scope="session")
def point() -> Callable[..., TrialResult]:
    """A complete trial of which only its place on the front matters."""

    def point(
        number: int, flops: int, accuracy: float, *, origin: Origin = Origin.SAMPLER, budget: int | None = None
    ) -> TrialResult:
        recipe = Recipe(steps=(Step(method="width", knobs={}),), budget=budget or flops, training=TrainingSettings(), seed=0)
        return TrialResult(number=number, recipe=recipe, origin=origin, state=TrialState.COMPLETE, accuracy=accuracy, flops=flops)

    return point


@pytest.fixture(scope="session")
def dense(shape: ViTShape) -> int:
    return predict(shape, Plan.dense(shape)).total


@pytest.fixture(scope="session")
def make(methods: dict[str, Method], shape: ViTShape, whole: Space, dense: int) -> Make:
    def make(shares: tuple[float, ...] = (0.8, 0.65), *, space: Space = whole, seed: int = 0, sampler: str = "tpe") -> Proposer:
        budgets = {f"{share:.0%}": int(share * dense) for share in shares}
        return Proposer(
            space=space, shape=shape, budgets=budgets, training=TrainingSettings(), seed=seed, sampler=sampler, methods=methods
        )

    return make
