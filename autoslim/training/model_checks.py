"""What is checked on a finished model: it costs what its plan says, and no more than the recipe allows."""

from __future__ import annotations

from functools import partial

from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe
from autoslim.core.shape import ViTShape
from autoslim.cost import COUNTERS_AGREE_WITHIN, Flops, LatencyTable, predict_params
from autoslim.errors import TrialError
from autoslim.methods import Constraints


def check_flops(predicted: Flops, plan: Plan, *, fvcore: int, torch: int, budget: int, held: int | None = None) -> None:
    """Checks that three counters agree and that the budget is met; FLOPs are multiply-accumulates per image.

    Args:
        predicted: The closed form's count of `plan`.
        fvcore: fvcore's count of the finished model; it must equal `predicted`.
        torch: PyTorch's count, which has no norms; it is compared with `predicted` less the norms.
        budget: What the model may cost.
        held: The images' mean, where the budget bounds it instead of the model's own count.

    Raises:
        TrialError: with both numbers.
    """
    # fvcore counts the same operations as the closed form: any difference is an error in one of them.
    if fvcore != predicted.total:
        raise TrialError(f"fvcore counts {fvcore} multiply-accumulates on the finished model, its plan says {predicted.total}")
    if held is not None and held > budget:
        raise TrialError(f"the validation images have {held} multiply-accumulates on average, above the budget of {budget}")
    if held is None and fvcore > budget:
        raise TrialError(f"the finished model has {fvcore} multiply-accumulates, above the budget of {budget}")
    expected = predicted.total - predicted.norms - sum(extra.norms for extra in plan.extras)
    if abs(torch - expected) > COUNTERS_AGREE_WITHIN * expected:
        raise TrialError(f"torch counts {torch} multiply-accumulates without norms, ours are {expected}: more than 0.6 % apart")


def constraints_of(recipe: Recipe, latency: LatencyTable | None) -> Constraints:
    """Raises TrialError for a limit on the latency without a table to predict it from."""
    if recipe.limits.latency_ms is not None and latency is None:
        raise TrialError("the recipe limits the latency, and there is no latency table to predict it from")
    return Constraints(limits=recipe.limits, timer=None if latency is None else partial(latency, recipe=recipe.method))


def check_limits(shape: ViTShape, plan: Plan, constraints: Constraints, *, params: int) -> None:
    """Raises TrialError unless the finished model has as many parameters as its plan says, and the plan keeps to the limits."""
    expected = predict_params(shape, plan)
    if params != expected:
        raise TrialError(f"the finished model has {params} parameters, its plan says {expected}")
    if excess := constraints.excess(shape, plan):
        raise TrialError(f"the finished model takes {excess}")
