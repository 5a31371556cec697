"""What trials of other models (`autoslim.search.prior`) say to a search, in the vectors of its own encoder."""

from __future__ import annotations

import dataclasses

import numpy as np

from autoslim.search.prior import Prior, PriorTrial
from autoslim.search.samplers.features import Encoder
from autoslim.search.samplers.surrogate import Surrogate

MIN_TRIALS = 20
"""Fewer trials, as in a space of one rare method, do not tell a good recipe from luck."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LevelledTrial:
    """A trial, with minus the accuracy that it lost on the `level` that all tables have in common, and by how much that is `ahead` of the
    trials of the same FLOPs."""

    trial: PriorTrial
    kept: float
    ahead: float


def levelled(prior: Prior, encoder: Encoder) -> list[LevelledTrial]:
    """The trials whose methods the space has, with what sets the tables apart taken out, so that methods of one table can be compared with
    those of another.

    A model on hard images, or one that is trained for fewer epochs, loses more with whatever recipe. That is a constant per table beside a
    curve over the FLOPs that all tables have in common.
    """
    names = encoder.methods.keys() & encoder.space.methods.keys()
    known = [(place, trial) for place, table in enumerate(prior) for trial in table.trials if trial.is_of(names)]
    if not known:
        return []
    places = np.array([place for place, _ in known])
    flops, kept = np.array([[trial.flops, -trial.lost] for _, trial in known]).T
    constants = np.eye(len(prior))[places]
    columns = np.column_stack([constants, flops, flops**2])
    # The least norm: a table without a trial of these methods has a constant of 0 that nothing reads.
    weights, *_ = np.linalg.lstsq(columns, kept, rcond=None)
    level = constants @ weights[: len(prior)]
    common, ahead = kept - level + level.mean(), kept - columns @ weights
    return [
        LevelledTrial(trial=trial, kept=float(one), ahead=float(other))
        for (_, trial), one, other in zip(known, common, ahead, strict=True)
    ]


def fit_prior(trials: list[LevelledTrial], encoder: Encoder, *, seed: int) -> Surrogate | None:
    """Predicts minus the accuracy lost, up to a constant; None for fewer than `MIN_TRIALS` trials."""
    if len(trials) < MIN_TRIALS:
        return None
    vectors = [encoder.encode_prior(one.trial) for one in trials]
    return Surrogate(vectors, [1.0] * len(trials), [one.kept for one in trials], seed=seed)
