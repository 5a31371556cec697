"""What a driver leaves of a search that has ended, for whoever asks the service."""

from __future__ import annotations

import json

from autoslim.config import read_mapping
from autoslim.core.interval import wilson
from autoslim.core.speed import SpeedReport, Timing
from autoslim.search import Explanation, WithinNoise
from autoslim.service.schemas.job import JobResult
from autoslim.store import Claim, QueueState
from workers.progress.cost import SearchCost
from workers.search.finalize import SelectedModel
from workers.search.summary import Summary
from workers.service.attempt import _outcome

SPEC = read_mapping({"model": "deit_tiny_patch16_224", "data": "digits", "flops": "50%"})
CLAIM = Claim(id="digits-1", attempt=1, fence=1, owner="here")


def make_summary() -> Summary:
    model = SelectedModel(
        label="50%", budget=500, budget_share=1.0, folder="out/models/50%", trial=7, method="width", accuracy=0.72, flops=500, params=9,
        test_accuracy=0.711, dense_test_accuracy=0.73,
    )  # fmt: skip
    timing = Timing(
        mode="eager", device="cpu", batch=1, dense_ms=8.0, slimmed_ms=5.0, speedup=1.6, low=1.55, high=1.65, rounds=50
    )
    reason = Explanation(sentence="trial 7 is the best", budget_share=1.0, next_cheaper=None, next_costlier=None, knee=None)
    noise = WithinNoise(trial=7, title="width", accuracy=0.72, flops=500, best=7, interval=wilson(0.72, 5000), images=5000)
    return Summary(
        job="digits-1", output="out", dense_flops=1000, dense_accuracy=0.74, models=(model,), controls={}, reasons={"50%": reason},
        missing=(), shared=(), states={"complete": 12}, tracking_uri="", logged=True, images={"validation": 5000, "test": 10_000},
        within_noise=noise, speeds={"50%": SpeedReport(hardware="a CPU", threads=1, timings=(timing,))},
        cost=SearchCost(seconds=1.0, device="CPU", device_hours=0.1, bytes=10),
    )  # fmt: skip


def test_the_result_says_what_the_summary_says() -> None:
    state, outcome = _outcome(make_summary(), CLAIM, SPEC)
    assert state is QueueState.SUCCEEDED
    stored = str(outcome["result"])
    assert json.loads(stored)["models"][0]["folder"] == "models/50%"
    result = JobResult.stored(stored)
    assert result.lines == {
        "50%": "test 71.10% (70.2% to 72.0%), 1.9 points below the dense model; 1.60 times as fast (eager, CPU, batch 1)"
    }
    assert result.recommended.startswith("The numbers speak for 50%, trial 7 (width): ")
    assert result.reasons == {"50%": "trial 7 is the best"}


def test_a_search_without_a_model_has_failed_for_want_of_one() -> None:
    state, outcome = _outcome(make_summary().replace(models=(), why_missing={"50%": "no trial"}), CLAIM, SPEC)
    assert state is QueueState.FAILED
    assert set(outcome) == {"failure"}
