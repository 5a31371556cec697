"""Whatever speaks of a search for features says agreement, and never accuracy or top-1."""

from __future__ import annotations

import datetime
import io
import re

import pytest
from helpers.driven_job import RESULT
from helpers.pruned_trials import finetuned, trial
from helpers.sample_search import DENSE, make_job, make_result, make_results
from helpers.tiny import config_of, make_dense, slim

from autoslim.cli import job_table
from autoslim.cli.summary import render
from autoslim.client import JobReply
from autoslim.core.job import DatasetSpec, SearchJob
from autoslim.core.result import EpochReport, Phase, Target, TrialState
from autoslim.core.score import ACCURACY, AGREEMENT, DENSE_AGREEMENT
from autoslim.progress.display import LineDisplay
from autoslim.progress.epoch_line import epoch_line
from autoslim.report import render_front
from autoslim.report.card import render_card
from autoslim.report.finalize import HoldoutResults
from autoslim.report.picture import cost_of
from autoslim.report.tracking.description import front_note
from autoslim.report.tracking.run_content import epoch_points, job_content, trial_content
from autoslim.search import AgainstControl, explain, make_pruner
from autoslim.store import JobState, StoredEpoch, StoredJob, StoredTrial
from autoslim.training.agreement import Agreement
from autoslim.training.feature_evaluation import FeatureResult, ProbeResult
from autoslim.training.holdout import HoldoutResult
from workers.progress.callbacks import SearchInfo
from workers.progress.console import Console
from workers.progress.cost import SearchCost
from workers.search.finalize import SelectedModel
from workers.search.summary import Summary

WRONG = re.compile(r"accura|top-1", re.IGNORECASE)
BASE = DENSE.replace(dense_accuracy=DENSE_AGREEMENT, chance=0.0)
PROBE = ProbeResult(dense=0.75, slimmed=0.71, images=90)


@pytest.fixture
def job() -> SearchJob:
    return make_job(dataset=DatasetSpec(source="photos", labelled=False))


def stored(job: SearchJob) -> tuple[StoredJob, list[StoredTrial]]:
    moment = "2026-01-01T00:00:00+00:00"
    whole = StoredJob(
        job=job, uid="u", state=JobState.COMPLETE, attempt=1, created_at=moment, updated_at=moment, base=BASE, chosen={"50%": 0}
    )
    trials = [
        StoredTrial(result=result, target=Target.FREE, attempt=1, started_at=moment, ended_at=moment)
        for result in make_results()
        if result.state is not TrialState.RUNNING
    ]
    return whole, trials


def test_the_front_draws_agreement(job: SearchJob):
    page = render_front(job, BASE, make_results(), {"50%": 0})
    # The style and the script are the same for every search.
    shown = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)
    assert not WRONG.search(shown), WRONG.findall(shown)
    assert "Agreement with the dense model&#x27;s features" in page
    assert "agreement is the mean cosine to the dense model&#x27;s features" in page
    assert "Dense model: agreement 1.0000 at" in page
    assert ">Agreement</button>" in page


def test_mlflow_has_metrics_of_agreement(job: SearchJob):
    whole, trials = stored(job)
    parent, child = job_content(whole, trials), trial_content(whole, trials[0], parent="p", pareto=True)
    epoch = StoredEpoch(
        position=1,
        revision=1,
        reported_at=whole.created_at,
        report=EpochReport(epoch=1.0, phase=Phase.FINETUNE, metrics={"accuracy": 0.9, "loss": 1.0}),
    )
    names = {point.name for point in (*parent.points, *child.points, *epoch_points([epoch], [], AGREEMENT))}
    assert {
        "dense_val_agreement",
        "best_val_agreement/50pct",
        "val_agreement",
        "val_agreement_after_pruning",
        "agreement",
    } <= names
    assert not [name for name in names if WRONG.search(name)]
    assert parent.params["objective"] == "features"
    note = front_note(whole, trials)
    assert "Dense model: agreement 1.0000 at" in note
    assert "| Trial | Method | Agreement |" in note
    assert not WRONG.search(note)


def test_reasons_and_lines_name_agreement(job: SearchJob):
    results = [result for result in make_results() if result.state is TrialState.COMPLETE]
    found = explain(results, results[0], 4 * 10**9, score=AGREEMENT)
    assert f"is the closest to the dense model of the {len(results) - 1} complete trials" in found.sentence
    assert AGREEMENT.text(results[0].accuracy or 0.0, 2) in found.sentence
    lines = [found.sentence, *found.describe_neighbours(AGREEMENT)]
    lines.append(epoch_line(EpochReport(epoch=1.0, phase=Phase.FINETUNE, metrics={"accuracy": 0.9}), 3.0, AGREEMENT))
    stream = io.StringIO()
    console = Console(job, LineDisplay(stream))
    console.on_search_start(SearchInfo(job=job, budgets={"50%": 10**10}, base=BASE, seconds_left=lambda: None))
    console.on_trial_end(make_result(0, accuracy=0.9), "50%")
    lines.append(stream.getvalue())
    assert "ends: agreement 0.900 at" in lines[-1]
    assert "best 50% 0.900 (trial 0)" in lines[-1]
    for name in ("halving", "median"):
        pruner = make_pruner(name, epochs=9.0, chance=0.0, score=AGREEMENT)
        for number in range(4):
            pruner.observe(trial(number, 100), finetuned(1.0, 0.9 + number / 100))
            pruner.observe(trial(number, 100), finetuned(9.0, 0.9 + number / 100))
        reason = pruner.should_prune(trial(9, 100), finetuned(1.0, 0.5))
        assert reason is not None
        assert reason.startswith(("agreement 0.500 after 1 epoch: ", "agreement 0.500 after 1 epoch is "))
        lines.append(reason)
    assert not [line for line in lines if WRONG.search(line)]


def test_the_summary_has_agreements_and_the_probe(job: SearchJob):
    model = SelectedModel(
        label="50%", budget=10**9, budget_share=0.99, folder="out/models/50%", trial=3, method="merge", accuracy=0.93,
        flops=10**9, params=10**6, test_accuracy=0.92, dense_test_accuracy=DENSE_AGREEMENT, probe=PROBE,
    )  # fmt: skip
    summary = Summary(
        job=job.id, output="out", score="agreement", dense_flops=2 * 10**9, dense_accuracy=DENSE_AGREEMENT, models=(model,),
        controls={"50%": AgainstControl(chosen=3, control=0, margin=0.0123)}, reasons={}, missing=(), shared=(),
        states={"complete": 4}, tracking_uri="http://m", logged=True,
        cost=SearchCost(seconds=1.0, device="CPU", device_hours=0.1, bytes=10),
    )  # fmt: skip
    assert Summary.from_json(summary.to_json()) == summary
    text = render(summary)
    assert "validation agreement" in text and "0.9300" in text and "0.9200" in text and "1.0000" in text
    assert summary.controls["50%"].describe(AGREEMENT).endswith("(trial 0) by 0.0123 of validation agreement")
    assert "50%: test 0.9200, 0.08 below the dense model; k-NN top-1 (20 neighbours) 71.00%" in text
    slimmed, dense = (ACCURACY.spoken(share, 90) for share in (0.71, 0.75))
    assert f"{slimmed}, the dense model's {dense}, on 90 test images" in text
    assert "accura" not in text


def test_a_job_of_the_service_is_told_in_agreements():
    now = datetime.datetime.now(datetime.UTC)
    job = JobReply.model_validate(
        {
            "id": "j", "state": "SUCCEEDED", "score": "agreement", "created_at": now, "started_at": now, "ended_at": now, "result": RESULT,
            "spec": {"model": "m", "data": "photos", "flops": ["50%"], "objective": "features"},
            "progress": {"best": {"50%": {"trial": 1, "method": "merge", "accuracy": 0.93, "flops": 5, "budget_share": 0.9}}},
        }
    )  # fmt: skip
    assert job_table.best(job) == "50% 0.930"
    assert not WRONG.search("\n".join(job_table.page(job)))


def test_the_card_and_the_picture_state_cosines_and_the_probe():
    dense = make_dense()
    config = config_of("merge", dense, slim("merge", dense)).replace(classes=())
    agreed = Agreement(pooled=0.95, patches=0.91, images=40)
    features = FeatureResult(agreement=agreed, probe=PROBE)
    slimmed = HoldoutResult(accuracy=agreed.score, images=40, search_packages=(), features=features)
    holdout = HoldoutResults(slimmed=slimmed, dense=slimmed.of_dense(), dense_validation=DENSE_AGREEMENT)
    config = config.replace(
        accuracy={"validation/agreement": 0.94, **holdout.accuracy}, images={"validation": 30, **holdout.images}
    )
    card = render_card(config, job="j", trial=3, source="photos", report="", reason="trial 3 is the closest")
    assert "| model | agreement, test (40 images) | agreement, validation (30 images) | FLOPs |" in card
    assert "| dense | 1.0000 | 1.0000 |" in card
    assert "| slimmed | 0.9300 | 0.9400 |" in card
    assert "pooled\n0.9500, patches at their places 0.9100" in card
    assert f"| dense | {ACCURACY.with_interval(0.75, 90)} |\n| slimmed | {ACCURACY.with_interval(0.71, 90)} |" in card
    assert "chosen by its agreement on the validation images" in card
    assert "restore_tokens=True" in card
    assert "accura" not in card
    assert "agreement 0.9300 on the test images" in cost_of(config)
