"""What slimming must beat. Every baseline is a `Method`, so that it runs through the very trial that ours run through, on the same
budgets; none is registered in the package.
"""

from autoslim.methods import METHODS
from autoslim.methods.base import Method
from baselines.dense import DenseFinetuned
from baselines.evit import ClassAttentionTopK
from baselines.random_places import RandomPlaces
from baselines.random_tokens import RandomTokens
from baselines.random_units import RandomUnits, RandomWidth
from baselines.smaller_image import SmallerImage
from baselines.tome import TokenMerging
from baselines.width_pruning import L2Width, TaylorWidth

BASELINES: dict[str, Method] = {
    baseline.name: baseline
    for baseline in (
        DenseFinetuned(),
        RandomTokens(),
        RandomPlaces(),
        ClassAttentionTopK(),
        TokenMerging(),
        SmallerImage(),
        RandomUnits(),
        RandomWidth(),
        L2Width(),
        TaylorWidth(),
    )
}


def register() -> None:
    """Lets trials and loading in this process find the baselines by name."""
    METHODS.update(BASELINES)
