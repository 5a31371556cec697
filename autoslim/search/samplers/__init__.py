"""What proposes recipes: `SAMPLERS` by name, all of them behind one protocol (`base.Sampler`).

forest     a forest of random trees over all trials, and the largest expected improvement (`forest`)
tpe        Optuna's tree-structured Parzen estimator (`optuna_samplers`, as all that follow)
nsga2      Optuna's NSGA-II
nsga3      Optuna's NSGA-III
gp         Optuna's Gaussian process
random     uniform draws (`random_sampler`)
"""

from autoslim.search.samplers.base import Sampler, SamplerContext, SamplingRequest
from autoslim.search.samplers.forest import ForestSampler
from autoslim.search.samplers.optuna_samplers import NSGA2, NSGA3, TPE, GaussianProcess
from autoslim.search.samplers.random_sampler import RandomSampler

SAMPLERS: dict[str, type[Sampler]] = {
    "forest": ForestSampler,
    "tpe": TPE,
    "nsga2": NSGA2,
    "nsga3": NSGA3,
    "gp": GaussianProcess,
    "random": RandomSampler,
}
"""By the names of `core.job.SAMPLER_NAMES`, in its order."""

__all__ = ["SAMPLERS", "Sampler", "SamplerContext", "SamplingRequest"]
