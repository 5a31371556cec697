"""`LatencyTable`: the latency of each part of a block on one device, and from it that of a plan.

The parts are attention and MLP with their norms and residual sums, over tokens and widths; attention that computes some of its tokens
only; tokens dropped in front of a block or in its middle; the methods' own modules; and the ends, which are all that is not a block.
Between the points that were measured, latency is interpolated linearly. The sum of the parts is not the latency of the whole: caches
and launches are shared. So whole models, dense and slimmed, are measured, too, and correct the sum.
"""

from __future__ import annotations

import dataclasses
import functools
import math

from autoslim.core.plan import BlockPlan, Plan
from autoslim.core.recipe import Step
from autoslim.core.record import Record
from autoslim.core.shape import ViTShape
from autoslim.cost.flops import predict
from autoslim.cost.grid import Grid

DENSE = "dense"
"""The recipe of the dense model."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrationModel(Record):
    """A slimmed model to measure as a whole: methods with solved knobs, and their plan."""

    steps: tuple[Step, ...]
    plan: Plan

    @property
    def recipe(self) -> str:
        return "+".join(step.method for step in self.steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatencyRequest(Record):
    """What to measure: a timm model and its arguments, a batch size, a mode of `job.SPEED_MODES`, and slimmed models for the correction.

    `candidates` are these slimmed models (the name is part of the key of stored tables); `class_query` says, as in `Recipe`, how they end.
    """

    name: str
    args: dict[str, object]
    batch: int
    mode: str
    class_query: bool
    candidates: tuple[CalibrationModel, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration(Record):
    """A whole model in milliseconds per batch: the sum of its parts, and what was measured."""

    recipe: str
    flops: int
    parts_ms: float
    measured_ms: float

    @property
    def correction(self) -> float:
        return self.measured_ms / self.parts_ms


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatencyTable(Record):
    """Milliseconds per batch of `batch` images.

    Grids: `attention` and `mlp` over tokens (prefix included) and width; `rows` over the tokens that enter, the share of their patches
    that is computed, and the width; `drop` over the tokens that enter; `extras`, by name, over the tokens that enter and the share of
    them that leaves. `ends_ms` is the embedding and the head. `rounds` is how often each part was measured.
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
        """Predicted milliseconds per batch, corrected for the methods that `recipe` names, as in `Recipe.method`."""
        parts = self.parts(plan)
        return parts * self.correction(recipe, parts)

    @property
    def place(self) -> str:
        """Where and how the table was measured, for messages."""
        threads = f", {self.threads} thread{'' if self.threads == 1 else 's'}" if self.device == "cpu" else ""
        return f"{self.hardware}, {self.device.upper()}{threads}, {self.mode}, {self.precision}"

    def correction(self, recipe: str, parts_ms: float) -> float:
        """The latency of a whole model over the sum of its parts, `parts_ms`.

        It is interpolated between the measured models of the same methods, and constant beyond them. A chain of which no model was
        measured has its first method's correction times what the others' largest ones are above the dense model's. A method without any has
        the largest that was measured of others, to err on the side of the limit.
        """
        curve = self._curves.get(recipe)
        if curve is None and "+" in recipe:
            first, *others = recipe.split("+")
            # Constant factors: interpolating both could predict a smaller plan to be slower.
            return self.correction(first, parts_ms) * math.prod(self._largest(name) / self._largest(DENSE) for name in others)
        if curve is None:
            return max([found.correction for found in self.calibrations], default=1.0)
        low, high = curve.axes[0][0], curve.axes[0][-1]
        # Interpolating times, not ratios, keeps the prediction rising with the parts.
        known = min(max(parts_ms, low), high)
        return curve(known) / known

    def _largest(self, recipe: str) -> float:
        """The largest measured correction of this recipe, or where there is none, of any."""
        own = [found.correction for found in self.calibrations if found.recipe == recipe]
        return max(own or [found.correction for found in self.calibrations], default=1.0)

    @functools.cached_property
    def _curves(self) -> dict[str, Grid]:
        """Per recipe the measured latency over the sum of parts, made non-decreasing, so that a smaller plan is never predicted slower."""
        curves = {}
        for recipe in {found.recipe for found in self.calibrations}:
            own: dict[float, float] = {}
            for found in self.calibrations:
                if found.recipe == recipe:
                    # Of two models with equal sums the slower one counts, to err on the side of the limit.
                    own[found.parts_ms] = max(own.get(found.parts_ms, 0.0), found.measured_ms)
            parts = tuple(sorted(own))
            curves[recipe] = Grid(axes=(parts,), values=tuple(own[part] for part in parts)).non_decreasing()
        return curves

    def parts(self, plan: Plan) -> float:
        """The uncorrected sum of the parts in milliseconds."""
        total, tokens = self.ends_ms, self.shape.tokens
        for index, block in enumerate(plan.blocks):
            total += self._block(block)
            extras = [extra for extra in plan.extras if extra.place == f"block {index}"]
            for extra in extras:
                # A module in front of the block leaves it fewer keys and queries, one inside fewer queries alone.
                left = min(block.tokens_kv, block.tokens_q) / tokens
                grid = self.extras.get(extra.name)
                # A module that was not measured: its multiply-accumulates at the dense model's rate.
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
        # Computing some tokens only gathers them and splits the projection of q, k and v: another code path, with a grid of its own.
        if block.tokens_q == block.tokens_kv:
            return self.attention(block.tokens_kv, width)
        prefix = self.shape.prefix_tokens
        return self.rows(block.tokens_kv, (block.tokens_q - prefix) / max(block.tokens_kv - prefix, 1), width)

    @functools.cached_property
    def _blocks(self) -> dict[BlockPlan, float]:
        """A cache: a solver asks for the same blocks again and again."""
        return {}

    @functools.cached_property
    def _rate(self) -> float:
        """Milliseconds per multiply-accumulate in the dense model's blocks."""
        dense = Plan.dense(self.shape)
        return sum(self._block(block) for block in dense.blocks) / predict(self.shape, dense).total
