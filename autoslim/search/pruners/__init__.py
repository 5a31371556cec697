"""What stops trials early: `PRUNERS` by name, all of them behind one protocol (`base.Pruner`).

halving    asynchronous successive halving between trials of the same FLOPs (`halving`)
median     below the median of the finished trials of the same FLOPs (`median`)
none       nothing is stopped (`nop`)
"""

from autoslim.core.score import ACCURACY, Score
from autoslim.errors import RequestError
from autoslim.search.pruners.base import Pruner
from autoslim.search.pruners.halving import HalvingPruner
from autoslim.search.pruners.median import MedianPruner
from autoslim.search.pruners.nop import NopPruner

PRUNERS: dict[str, type[Pruner]] = {"halving": HalvingPruner, "median": MedianPruner, "none": NopPruner}
"""By the names of `core.job.PRUNER_NAMES`, in its order."""


def make_pruner(name: str, *, epochs: float, chance: float, score: Score = ACCURACY) -> Pruner:
    """The pruner of a search; `epochs` are a trial's, `chance` is the accuracy of the best constant guess, `score` what is compared.

    Raises:
        RequestError: for an unknown name.
    """
    if name not in PRUNERS:
        raise RequestError(f"there is no scheduler {name!r}; allowed: {', '.join(PRUNERS)}")
    return PRUNERS[name](epochs=epochs, chance=chance, score=score)


__all__ = ["PRUNERS", "Pruner", "make_pruner"]
