"""What the pages and tables of a search with several dense models say of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.sample_search import DENSE, fill, make_job, make_results
from helpers.tiny import config_of, slimmed

from autoslim.core.job import ModelSpec, SearchJob
from autoslim.core.result import BaseFacts, TrialResult
from autoslim.core.score import ACCURACY
from autoslim.core.urls import default_url
from autoslim.report import render_front
from autoslim.report.card import render_card
from autoslim.report.tracking.description import front_note
from autoslim.report.tracking.run_content import job_content, trial_content
from autoslim.search import explain
from autoslim.service.public_text import PublicText
from autoslim.service.schemas.trial import front_response
from autoslim.service.settings import ServiceSettings
from autoslim.store import Store
from autoslim.store.export import trials_table

SMALL, TINY = "deit_small_patch16_224", "deit_tiny_patch16_224"
FACTS = DENSE.replace(
    starts={SMALL: DENSE, TINY: BaseFacts(dense_flops=1_260_000_000, dense_accuracy=0.902, params=5_700_000, chance=0.1)},
    teacher={TINY: SMALL},
)


@pytest.fixture
def job() -> SearchJob:
    return make_job(more_models=(ModelSpec(name=TINY),))


@pytest.fixture
def results() -> list[TrialResult]:
    found = make_results()
    return [result.replace(recipe=result.recipe.replace(model=(SMALL, TINY)[result.number % 2])) for result in found]


def test_the_page_names_the_models_their_teacher_and_each_trials_model(job: SearchJob, results: list[TrialResult]) -> None:
    page = render_front(job, FACTS, results, {"50%": 3})
    assert f"{SMALL}, {TINY} on digits</title>" in page
    assert f"Dense model {SMALL}: top-1 94.10 %" in page
    assert f"Dense model {TINY}: top-1 90.20 %" in page
    assert f"{SMALL} is the teacher of the trials of {SMALL} and {TINY}." in page
    assert f"trial 3 ({results[3].recipe.method} of {TINY}), top-1" in page
    assert '<button type="button">Model</button>' in page
    assert f"dense {TINY} 90.20 %" in page
    assert page.count('class="star"') == 2
    plain = render_front(make_job(), DENSE, make_results(), {"50%": 3})
    assert '<button type="button">Model</button>' not in plain
    assert plain.count('class="star"') == 1


def test_the_sentence_of_the_choice_names_the_start_and_compares_starts(results: list[TrialResult]) -> None:
    same = [results[0], results[3].replace(recipe=results[0].recipe.replace(model=TINY), accuracy=0.5)]
    sentence = explain(same, same[0], 4_000_000_000).sentence
    assert sentence.startswith(f"trial 0 ({same[0].recipe.method} of {SMALL}) is the most accurate of the 2")
    assert f"the best other recipe, trial 3 ({same[0].recipe.method} of {TINY}), has 50.00%" in sentence


def test_mlflow_the_store_and_http_have_the_model_of_each_trial(
    tmp_path: Path, job: SearchJob, results: list[TrialResult]
) -> None:
    with Store(default_url(tmp_path)) as store:
        fill(store, job, results)
        store.set_base(job.id, FACTS)
        stored, trials = store.job(job.id), store.stored_trials(job.id)
    assert stored.base == FACTS
    run = trial_content(stored, trials[1], parent="p", pareto=True)
    assert (run.params["model"], run.tags["model"]) == (TINY, TINY)
    assert run.name == f"t01 {results[1].recipe.method} of {TINY} 70%"
    parent = job_content(stored, trials)
    assert parent.params["model"] == f"{SMALL}, {TINY}"
    points = {point.name: point.value for point in parent.points}
    assert points[f"dense_val_accuracy/{TINY}"] == pytest.approx(0.902)
    assert points["dense_val_accuracy"] == pytest.approx(0.941)
    note = front_note(stored, trials)
    assert r"Dense model deit\_tiny\_patch16\_224: top-1 90.20 %" in note
    assert trials_table(stored, trials)["model"].to_pylist() == [result.recipe.model for result in results]
    answer = front_response(stored, trials, PublicText(ServiceSettings(storage=default_url(tmp_path))), score=ACCURACY)
    assert {trial.model for trial in answer.front} <= {SMALL, TINY}
    assert answer.dense is not None and answer.dense.flops == DENSE.dense_flops
    assert (answer.models[TINY].accuracy, answer.models[TINY].teacher, answer.models[SMALL].teacher) == (0.902, SMALL, None)


def test_the_card_says_which_of_the_searchs_models_it_was_made_from() -> None:
    shares = {f"{split}/{which}": 0.9 for split in ("test", "validation") for which in ("dense", "slimmed")}
    config = config_of("vit_slim", *slimmed("vit_slim", "deit"))
    config = config.replace(accuracy=shares, images={"test": 10, "validation": 10})
    told = {"job": "j", "trial": 3, "source": "digits", "report": ""}
    several = render_card(config.replace(recipe=config.recipe.replace(model=TINY)), **told)
    assert f"Job `j`, trial 3, from its dense model `{TINY}`, seed" in several
    assert "Job `j`, trial 3, seed" in render_card(config, **told)
