"""What a trial leaves: its model in a folder, counted and checked against its plan, with everything about it in `config.json`."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe
from autoslim.cost import count_flops, count_flops_torch, predict
from autoslim.export.artifact import FORMAT, FlopsReport, SlimConfig, save, score_key, versions
from autoslim.methods import Constraints
from autoslim.methods.layers.adaptive_trunk import static_shapes
from autoslim.training.context import TrialContext
from autoslim.training.measure import Measured
from autoslim.training.model_checks import check_flops, check_limits


def save_finished_model(
    folder: Path,
    model: nn.Module,
    context: TrialContext,
    *,
    recipe: Recipe,
    plan: Plan,
    constraints: Constraints,
    measured: Measured,
    budget_label: str,
    kept_epoch: float,
) -> SlimConfig:
    """Saves `model`, which `recipe` and `plan` describe as it was at `kept_epoch`, in `folder`.

    Raises:
        TrialError: when its costs are not those of the plan, or above the budget or a limit.
    """
    shape = context.dense.shape
    flops = _count(model, context, recipe, plan, measured, budget_label)
    params = sum(p.numel() for p in model.parameters())
    check_limits(shape, plan, constraints, params=params)
    config = SlimConfig(
        format=FORMAT,
        architecture=context.dense.architecture,
        shape=shape,
        preprocessing=context.dense.preprocessing,
        classes=context.classes,
        recipe=recipe,
        plan=plan,
        flops=flops,
        params=params,
        accuracy={score_key("validation", classes=context.classes): measured.accuracy},
        images={"validation": len(context.splits.validation), "train": len(context.splits.train)},
        versions=versions(),
        kept_epoch=kept_epoch,
    )
    save(folder, model, config)
    return config


def _count(
    model: nn.Module, context: TrialContext, recipe: Recipe, plan: Plan, measured: Measured, budget_label: str
) -> FlopsReport:
    """On the model itself, not on its plan, which the counts are compared with."""
    shape = context.dense.shape
    predicted = predict(shape, plan)
    # Counted at the caps, where every image has the most tokens: this is what the plan describes.
    with static_shapes(model):
        fvcore = count_flops(model, shape.image_size)
        by_torch = count_flops_torch(model, shape.image_size)
    held = measured.flops_mean if recipe.bound == "mean" else None
    check_flops(predicted, plan, fvcore=fvcore, torch=by_torch, budget=recipe.budget, held=held)
    return FlopsReport(
        predicted=predicted.total,
        fvcore=fvcore,
        torch=by_torch,
        dense=predict(shape, Plan.dense(shape)).total,
        budget=recipe.budget,
        budget_label=budget_label,
        mean=measured.flops_mean,
        max=measured.flops_max,
        bound=recipe.bound,
    )
