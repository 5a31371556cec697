"""`LatencyTable`: what each part of a block takes on one device, and from it what a plan takes.

The parts are attention and MLP with their norms and residual sums, by tokens and widths; attention that computes some of its tokens
only; tokens dropped in front of a block; the methods' own parts; and what lies before and behind the blocks. Between the points that
were measured, time is linear. Whole models, dense and cut, were measured too: they say by how much the sum of the parts is off.
"""

from __future__ import annotations

import dataclasses
import functools

from autoslim.core.plan import BlockPlan, Plan
from autoslim.core.recipe import Step
from autoslim.core.record import Record
from autoslim.core.shape import ViTShape
from autoslim.cost.flops import predict
from autoslim.cost.grid import Grid

DENSE = "dense"
"""The recipe of the dense model."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate(Record):
    """A cut model to measure whole: the methods with solved knobs, and the plan that they come to."""

    steps: tuple[Step, ...]
    plan: Plan

    @property
    def recipe(self) -> str:
        return "+".join(step.method for step in self.steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatencyRequest(Record):
    """What to measure: a timm model and its arguments, a batch size, a way of `job.SPEED_MODES`, and the cut models to correct by.

    `class_query` as in `Recipe`, of the cut models.
    """

    name: str
    args: dict[str, object]
    batch: int
    mode: str
    class_query: bool
    candidates: tuple[Candidate, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration(Record):
    """A whole model: the sum of its parts, and what it took, in milliseconds a batch."""

    recipe: str
    flops: int
    parts_ms: float
    measured_ms: float

    @property
    def correction(self) -> float:
        return self.measured_ms / self.parts_ms


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatencyTable(Record):
    """Milliseconds of a batch. Grids are over tokens (prefix included) first; `rows` over the tokens that come in, the share of their
    patches that is computed, and the width; `extras`, by name, over the tokens that come in and the share of them that is left.

    `precision`, `threads` and `torch` are what it was measured with; `rounds` is how often each part was.
    """

    shape: ViTShape
    batch: int
    mode: str
    device: str
    hardware: str
    threads: int
    precision: str
    torch: str
    rounds: int
    ends_ms: float
    attention: Grid
    rows: Grid
    mlp: Grid
    drop: Grid
    extras: dict[str, Grid]
    calibrations: tuple[Calibration, ...] = ()

    def __call__(self, plan: Plan, recipe: str = DENSE) -> float:
        """Predicted milliseconds of a batch; `recipe` names the methods, as in `Recipe.method`, and is corrected for."""
        parts = self.parts(plan)
        return parts * self.correction(recipe, parts)

    @property
    def place(self) -> str:
        """Where and how it was measured."""
        threads = f", {self.threads} thread{'' if self.threads == 1 else 's'}" if self.device == "cpu" else ""
        return f"{self.hardware}, {self.device.upper()}{threads}, {self.mode}, {self.precision}"

    def correction(self, recipe: str, parts_ms: float) -> float:
        """How many times as long as its parts a whole model takes: between the recipe's models that were measured as their times say,
        beyond them as the nearest; of a recipe without any, the largest that was found.
        """
        curve = self._curves.get(recipe)
        if curve is None:
            return max([found.correction for found in self.calibrations], default=1.0)
        low, high = curve.axes[0][0], curve.axes[0][-1]
        known = min(max(parts_ms, low), high)
        return curve(known) / known

    @functools.cached_property
    def _curves(self) -> dict[str, Grid]:
        """By recipe what whole models take over what their parts take; rising, so that a smaller plan is never said to take longer."""
        curves = {}
        for recipe in {found.recipe for found in self.calibrations}:
            own: dict[float, float] = {}
            for found in self.calibrations:
                if found.recipe == recipe:
                    own[found.parts_ms] = max(own.get(found.parts_ms, 0.0), found.measured_ms)
            parts = tuple(sorted(own))
            curves[recipe] = Grid(axes=(parts,), values=tuple(own[part] for part in parts)).rising()
        return curves

    def parts(self, plan: Plan) -> float:
        """The sum of the parts."""
        total, tokens = self.ends_ms, self.shape.tokens
        for index, block in enumerate(plan.blocks):
            total += self._block(block)
            extras = [extra for extra in plan.extras if extra.place == f"block {index}"]
            for extra in extras:
                left = min(block.tokens_kv, block.tokens_q) / tokens
                grid = self.extras.get(extra.name)
                # Of a part that is not known here, at the rate of the dense model.
                total += self._rate * extra.matmuls if grid is None else grid(tokens, left)
            # A module of the method's own has measured the drop along with itself.
            if block.tokens_kv < tokens and not extras:
                total += self.drop(tokens)
            if block.tokens_mlp < block.tokens_q:
                total += self.drop(block.tokens_q)
            tokens = block.tokens_mlp
        return total

    def _block(self, block: BlockPlan) -> float:
        known = self._blocks
        if block not in known:
            known[block] = self._attention(block) + (self.mlp(block.tokens_mlp, block.hidden) if block.hidden else 0.0)
        return known[block]

    def _attention(self, block: BlockPlan) -> float:
        width = block.attention_width
        if not width:
            return 0.0
        if block.tokens_q == block.tokens_kv:
            return self.attention(block.tokens_kv, width)
        prefix = self.shape.prefix_tokens
        return self.rows(block.tokens_kv, (block.tokens_q - prefix) / max(block.tokens_kv - prefix, 1), width)

    @functools.cached_property
    def _blocks(self) -> dict[BlockPlan, float]:
        """A solver asks for the same blocks over and over."""
        return {}

    @functools.cached_property
    def _rate(self) -> float:
        """Milliseconds of a multiply-accumulate of the dense model."""
        dense = Plan.dense(self.shape)
        return sum(self._block(block) for block in dense.blocks) / predict(self.shape, dense).total
