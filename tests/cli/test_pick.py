"""`autoslim pick`: which trial is the wished one. That its model is handed over whole is tested on a finished search."""

from __future__ import annotations

import pytest
from helpers.sample_search import DENSE, fill, make_job, make_recipe, make_result, make_results
from helpers.searched_folder import photos

from autoslim.core.job import DatasetSpec, Resources
from autoslim.core.result import Origin, ParetoFront, TrialResult
from autoslim.core.run_folder import RunFolder
from autoslim.core.urls import default_url
from autoslim.data import prepare_dataset
from autoslim.errors import BudgetError, DatasetError, RequestError
from autoslim.report.search_report.environment import write_environment
from autoslim.store import Store
from workers.search.pick import Wish, search_images, wished_trial


def wished(**wish):
    return wished_trial(make_results(), DENSE, Wish.of(**wish), make_job())[0]


def test_within_a_budget_it_is_the_most_accurate():
    front = [trial for trial in ParetoFront.of(make_results()).results if trial.flops <= 2_500_000_000]
    assert wished(flops="2.5G").number == front[-1].number


@pytest.mark.parametrize("drop", [3.0, 5.0, 20.0])
def test_within_a_drop_it_is_the_cheapest(drop):
    able = [trial for trial in ParetoFront.of(make_results()).results if trial.accuracy >= DENSE.dense_accuracy - drop / 100]
    assert wished(max_drop=drop).number == able[0].number


def test_what_no_trial_is_names_the_nearest():
    with pytest.raises(BudgetError, match=r"--flops 10%: no trial is within it; the cheapest has 2\.\d+G"):
        wished(flops="10%")
    with pytest.raises(
        BudgetError, match=r"--max-drop 0: no .* at most 0 points below the dense model's 94\.10%; the nearest, trial 0 "
    ):
        wished_trial(make_results()[:1], DENSE, Wish.of(max_drop=0.0), make_job())


def test_the_cheapest_of_an_accuracy_is_that_of_the_drop_to_it():
    least = f"{100 * (DENSE.dense_accuracy - 0.05):g}%"
    assert wished(min_accuracy=least) == wished(max_drop=5.0)


def refined(number: int, recipe: int, seed: int, accuracy: float) -> TrialResult:
    made = make_recipe(recipe).replace(seed=seed)
    return make_result(number, recipe=made, origin=Origin.REFINEMENT, accuracy=accuracy, flops=2_000_000_000)


SEEDS = [refined(20, 4, 0, 0.97), refined(21, 4, 1, 0.90), refined(22, 5, 0, 0.95), refined(23, 5, 1, 0.94)]
"""The most accurate trial is the lucky seed of a recipe that another one surpasses in its mean."""


def test_a_lucky_seed_of_a_surpassed_recipe_is_not_offered(autoslim, tmp_path):
    for wish in ({"flops": "50%"}, {"max_drop": 0.0}, {"min_accuracy": "94%"}):
        assert wished_trial(SEEDS, DENSE, Wish.of(**wish), make_job())[0].number == 22
    with pytest.raises(BudgetError, match=r"the nearest, trial 22 .*95\.00%"):
        wished_trial(SEEDS, DENSE, Wish.of(min_accuracy="96%"), make_job())
    job = make_job(str(tmp_path / "run"))
    (tmp_path / "run").mkdir()
    RunFolder(tmp_path / "run").write_job(job)
    with Store(default_url(str(tmp_path / "run"))) as store:
        fill(store, job, SEEDS)
    code, _, err = autoslim("pick", "run", "--flops", "50%")
    assert (code, "the model of trial 22 was not kept; those of the front were: 22. " in err) == (2, True)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({}, "one of --flops, --max-drop and --min-accuracy is needed"),
        ({"flops": "50%", "max_drop": 1.0}, "one of --flops, --max-drop and --min-accuracy is needed"),
        ({"max_drop": -1.0}, "--max-drop is -1; allowed: 0 to 100"),
        ({"max_drop": 100.0}, "--max-drop is 100; allowed: 0 to 100"),
        ({"min_accuracy": "80"}, "--min-accuracy is '80'; allowed: a share"),
    ],
)
def test_a_wish_is_one_of_three(wish, message):
    with pytest.raises(RequestError, match=message):
        Wish.of(**wish)


def test_a_model_that_was_not_kept_or_is_there_is_told(autoslim, tmp_path):
    folder = tmp_path / "run"
    job = make_job(str(folder))
    folder.mkdir()
    RunFolder(folder).write_job(job)
    with Store(default_url(str(folder))) as store:
        fill(store, job)
    code, _, err = autoslim("pick", "run", "--flops", "60%")
    assert (code, "was not kept; those of the front were: " in err) == (2, True)
    (folder / "models" / "60%").mkdir(parents=True)
    code, _, err = autoslim("pick", "run", "--flops", "60%")
    assert (code, "is there already" in err) == (2, True)
    code, _, err = autoslim("pick", "elsewhere", "--flops", "60%")
    assert (code, "holds no search" in err) == (2, True)


def test_the_images_are_those_of_the_search_also_where_their_source_is_gone(tmp_path):
    source, output = photos(tmp_path / "photos"), RunFolder(tmp_path / "run")
    job = make_job(str(output.root), dataset=DatasetSpec(source=str(source)))
    prepared = prepare_dataset(job.dataset, output.cache, seed=job.seed)
    write_environment(output, prepared, Resources())
    for image in (source / "class 0").iterdir():
        image.write_bytes(b"")
    assert search_images(output, job).digest == prepared.digest
    output.environment.unlink()
    with pytest.raises(
        DatasetError, match=r"goes on with those that are left by: autoslim search --resume --output .*-share \d+$"
    ) as found:
        search_images(output, job)
    # `pick` has no such flag, so that no command with it is printed.
    assert found.value.flags == ()
