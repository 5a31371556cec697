"""`check_compiled_ranks`: a search whose trials could not compile their models is refused before anything is prepared."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from autoslim.core.job import SearchJob
from autoslim.methods import METHODS, Method
from autoslim.methods.knob import Ranges
from autoslim.models import DenseModel
from autoslim.search import Space
from autoslim.training.whole_batch import depends_on_batch, not_compiled
from workers.search.resources import trial_ranks

_NOISE = "noise"
"""Of methods that add Gumbel noise to scores: the knob that says how much."""


def check_compiled_ranks(job: SearchJob, starts: Mapping[str, DenseModel], space: Space) -> None:
    """`starts` are the models that trials begin with, by their names.

    Raises:
        RequestError: several ranks train a trial, and what they draw for a whole batch would be in a compiled graph.
    """
    if not job.training.compile or trial_ranks(job) == 1:
        return
    for name, dense in starts.items():
        if depends_on_batch(dense.module):
            raise not_compiled(f"{name} has dropout, stochastic depth or batch norms", gpus=trial_ranks(job))
    for name, ranges in space.methods.items():
        if _draws(METHODS[name], ranges):
            raise not_compiled(f"{name} may draw {_NOISE}, which the search space can set to 0", gpus=trial_ranks(job))


def _draws(method: Method, ranges: Ranges) -> bool:
    """Whether a recipe of these ranges may have noise: whether the knob has an effect depends on the choices before it."""
    if _NOISE not in ranges or not ranges[_NOISE].high:
        return False
    before = list(itertools.takewhile(lambda knob: knob != _NOISE, method.ranges))
    values = itertools.product(*(ranges[knob].choices or (ranges[knob].default,) for knob in before))
    return any(method.is_active(_NOISE, dict(zip(before, chosen, strict=True))) for chosen in values)
