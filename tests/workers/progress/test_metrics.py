"""What a search tells Ray's metrics."""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest
import ray
from helpers.sample_search import DENSE, make_job, make_report, make_result, make_results

from autoslim.core.result import TrialState
from workers.progress.callbacks import SearchInfo
from workers.progress.metrics import GAUGES, SearchMetrics, ray_gauges
from workers.search.cluster import Cluster

BUDGETS = {"50%": 2_304_169_152}


class Recorded(dict[tuple[str, frozenset[tuple[str, str]]], float]):
    """The last value of each series, as a gauge keeps it."""

    def __call__(self, name: str, value: float, tags: Mapping[str, str]) -> None:
        assert tuple(sorted(tags)) == tuple(sorted(GAUGES[name][1])), name
        self[name, frozenset(tags.items())] = value

    def of(self, name: str, score: str = "accuracy", **tags: str) -> float:
        if "score" in GAUGES[f"autoslim_{name}"][1]:
            tags["score"] = score
        return self[f"autoslim_{name}", frozenset({"job": "digits-1", **tags}.items())]


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


def metrics_of(recorded: Recorded, earlier=(), **changes: object) -> SearchMetrics:
    metrics = SearchMetrics(recorded)
    metrics.on_search_start(SearchInfo(job=make_job(trials=6, **changes), budgets=BUDGETS, base=DENSE, results=list(earlier)))
    return metrics


def test_trials_are_counted_by_state_from_waiting_to_ended(recorded: Recorded):
    metrics = metrics_of(recorded)
    assert (recorded.of("trials_waiting"), recorded.of("trials", state="running")) == (6, 0)
    metrics.on_trial_start(make_result(0, TrialState.RUNNING), "50%")
    metrics.on_trial_start(make_result(1, TrialState.RUNNING), "50%")
    assert (recorded.of("trials_waiting"), recorded.of("trials", state="running")) == (4, 2)
    metrics.on_trial_end(make_result(0), "50%")
    metrics.on_trial_end(make_result(1, TrialState.FAILED, error="x"), "50%")
    metrics.on_trial_end(make_result(2, TrialState.INFEASIBLE, error="never began"), "50%")
    states = {state.value: recorded.of("trials", state=state.value) for state in TrialState}
    assert states == {"running": 0, "complete": 1, "failed": 1, "infeasible": 1, "stopped": 0}
    assert recorded.of("trials_waiting") == 3
    metrics.on_search_end("a plateau", 2)
    assert recorded.of("trials_waiting") == 2


def test_a_trial_is_told_by_number_and_method_while_it_runs(recorded: Recorded):
    metrics, running = metrics_of(recorded), make_result(3, TrialState.RUNNING)
    who = {"trial": "003", "method": running.recipe.method}
    metrics.on_trial_start(running, "50%")
    metrics.on_epoch_end(running, make_report(2, images_per_second=812.0, loader_wait=0.07))
    found = {
        name: recorded.of(name, **who) for name in ("images_per_second", "loader_wait_share", "trial_epochs", "trial_accuracy")
    }
    assert found == {"images_per_second": 812.0, "loader_wait_share": 0.07, "trial_epochs": 2.0, "trial_accuracy": 0.7}
    metrics.on_trial_end(make_result(3, accuracy=0.72), "50%")
    assert (recorded.of("images_per_second", **who), recorded.of("trial_accuracy", **who)) == (0.0, 0.72)


def test_what_was_not_measured_is_not_told(recorded: Recorded):
    metrics, running = metrics_of(recorded), make_result(3, TrialState.RUNNING)
    metrics.on_trial_start(running, "50%")
    metrics.on_epoch_end(running, make_report(1, accuracy=float("nan")))
    assert not [name for name, _ in recorded if name in ("autoslim_images_per_second", "autoslim_trial_accuracy")]


def test_an_attempt_that_goes_on_begins_with_what_is_known(recorded: Recorded):
    earlier = make_results()
    metrics_of(recorded, earlier=earlier[:4] + earlier[11:])
    complete = [result for result in earlier[:4] if result.state is TrialState.COMPLETE]
    assert recorded.of("trials", state="complete") == len(complete) == 4
    assert recorded.of("trials_waiting") == 2
    within = [result.accuracy or 0.0 for result in complete if (result.flops or 0) <= BUDGETS["50%"]]
    assert recorded.of("best_accuracy", budget="50%") == max(within)
    assert 0 < recorded.of("hypervolume") < 1
    assert recorded.of("dense_accuracy") == DENSE.dense_accuracy


def test_an_accuracy_is_tagged_with_the_score_that_it_is(recorded: Recorded):
    features = make_job(trials=6).replace(dataset=make_job().dataset.replace(labelled=False))
    metrics = SearchMetrics(recorded)
    metrics.on_search_start(SearchInfo(job=features, budgets=BUDGETS, base=DENSE, results=[make_result(0)]))
    assert recorded.of("dense_accuracy", score="agreement") == DENSE.dense_accuracy
    assert recorded.of("best_accuracy", score="agreement", budget="50%") == make_result(0).accuracy
    assert not any(("score", "accuracy") in tags for _, tags in recorded)


@pytest.mark.cluster
def test_prometheus_finds_every_metric_at_the_node(cluster: Cluster):
    metrics, running = metrics_of(ray_gauges(), (make_result(0),)), make_result(3, TrialState.RUNNING)  # type: ignore[arg-type]
    metrics.on_trial_start(running, "50%")
    metrics.on_epoch_end(running, make_report(2, images_per_second=812.0, loader_wait=0.07))
    (node,) = ray.nodes()
    wanted = {f"ray_{name}{{" for name in GAUGES}
    until = time.monotonic() + 60
    while (missing := {name for name in wanted if name not in exposition(node)}) and time.monotonic() < until:
        time.sleep(2)
    assert not missing
    (line,) = [line for line in exposition(node).splitlines() if line.startswith("ray_autoslim_images_per_second{")]
    assert all(part in line for part in ('job="digits-1"', 'trial="003"', f'method="{running.recipe.method}"')), line
    assert line.endswith(" 812.0")


def exposition(node: Mapping[str, object]) -> str:
    """With the token that a scraper needs as well."""
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    headers = {"Authorization": f"Bearer {file.read_text().strip()}"} if file.exists() else {}
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.read().decode()
    except urllib.error.URLError as error:
        return str(error)
