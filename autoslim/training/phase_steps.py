"""How a trial's optimizer steps are divided between its phases.

A recipe's step has a train phase where its method trains parts. Between two steps there may be a *rest*, which fine-tunes the model that
the earlier one has pruned.
"""

from __future__ import annotations

from autoslim.core.recipe import Recipe
from autoslim.methods import METHODS
from autoslim.methods.chain import REST_SHARE


def rests_before(recipe: Recipe, position: int) -> bool:
    """Whether the model is fine-tuned between the pruning before this step and the step.

    Without it the step decides on the dense model (`StepContext.dense`), and both prune at once.
    """
    step = recipe.steps[position]
    return position > 0 and (recipe.training.rest_share > 0 or METHODS[step.method].needs_rest(step.knobs))


def phase_shares(recipe: Recipe) -> list[float]:
    """For each step the share of its rest, where there is one, and of its train phase; each of the steps that are left then."""
    shares = []
    for position, step in enumerate(recipe.steps):
        shares += [recipe.training.rest_share or REST_SHARE] if rests_before(recipe, position) else []
        shares.append(METHODS[step.method].train_share(step.knobs))
    return shares


def split_steps(total: int, shares: list[float]) -> list[int]:
    """Optimizer steps of each train phase: its share of the steps that earlier phases have left.

    Every phase with a share above 0, and the fine-tuning, gets at least one step.
    """
    steps: list[int] = []
    for phases_after, share in zip(range(len(shares), 0, -1), shares, strict=True):
        left = total - sum(steps)
        # At least one step remains for each later phase and for the fine-tuning.
        steps.append(min(max(1, round(share * left)), left - phases_after) if share else 0)
    return steps
