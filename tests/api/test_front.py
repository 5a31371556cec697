"""The front of a search that has already happened, in Python."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.sample_search import DENSE, fill, make_job, make_recipe, make_results

from autoslim.api.front import Front
from autoslim.core.interval import wilson
from autoslim.core.result import DataFacts, ParetoFront
from autoslim.core.selection import best_within
from autoslim.core.urls import default_url
from autoslim.errors import BudgetError
from autoslim.store import Store


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Front:
    job = make_job()
    with Store(default_url(tmp_path_factory.mktemp("store"))) as store:
        fill(store, job)
        return Front(store.job(job.id), tuple(store.stored_trials(job.id)))


def test_it_is_the_front_of_the_trials_cheapest_first(front: Front) -> None:
    expected = [result.number for result in ParetoFront.of(make_results()).results]
    assert [trial.number for trial in front] == expected
    assert len(front) == len(expected)
    assert len(front.trials) == len(make_results())


@pytest.mark.parametrize("budget", ["50%", "3G", 4_608_338_304])
def test_the_best_within_a_budget_is_the_one_that_is_chosen_everywhere(front: Front, budget: str | int) -> None:
    flops = {"50%": DENSE.dense_flops // 2, "3G": 3_000_000_000}.get(str(budget), budget)
    expected = best_within(make_results(), flops)
    assert expected is not None
    assert front.best(budget).number == expected.number


def test_a_budget_that_no_trial_is_within_names_the_cheapest(front: Front) -> None:
    with pytest.raises(BudgetError, match=r"budget 10%: no complete trial is within 460.8M; the cheapest has 2\.\d+G"):
        front.best("10%")


def test_the_table_has_the_columns_of_trials_parquet(front: Front) -> None:
    everything, table = front.to_pandas(all_trials=True), front.to_pandas()
    assert everything["number"].tolist() == [result.number for result in make_results()]
    assert table["number"].tolist() == [trial.number for trial in front]
    assert {"method", "flops", "accuracy", "chosen"} <= set(table.columns)


def test_the_picture_has_every_complete_trial_and_the_dense_model(front: Front) -> None:
    figure = pytest.importorskip("matplotlib.figure")
    axes = front.plot(figure.Figure().subplots())
    complete = [trial for trial in front.trials if trial.flops is not None and trial.accuracy is not None]
    points = [point for collection in axes.collections for point in collection.get_offsets()]
    assert len(points) == len(complete) + 1
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert {"front", "dense", *{trial.recipe.method for trial in complete}} == set(labels)


def test_a_chain_on_the_front_is_listed_by_its_name(front: Front) -> None:
    chained = with_chain(front)
    _, _, first, *others = chained.table()
    assert first[1] == "width+merge"
    assert "width+merge" not in {row[1] for row in others}
    assert chained.to_rows()[0]["method"] == "width+merge"
    assert repr(chained).startswith("Front(width+merge ")
    assert "<td>width+merge</td>" in chained._repr_html_()


def test_a_chain_on_the_front_is_drawn_as_a_method(front: Front) -> None:
    figure = pytest.importorskip("matplotlib.figure")
    axes = with_chain(front).plot(figure.Figure().subplots())
    (points,) = [collection for collection in axes.collections if collection.get_label() == "width+merge"]
    cheapest = next(iter(front))
    assert points.get_offsets().tolist() == [
        [pytest.approx((cheapest.flops or 0) / 1e9), pytest.approx(100 * (cheapest.accuracy or 0.0))]
    ]
    assert "width+merge" in {text.get_text() for text in axes.get_legend().get_texts()}


def with_chain(front: Front) -> Front:
    """The same with a chain as its cheapest trial."""
    number = next(iter(front)).number
    recipe = make_recipe(number, "width+merge")
    stored = [
        trial.replace(result=trial.result.replace(recipe=recipe)) if trial.result.number == number else trial
        for trial in front.stored
    ]
    return Front(front.job, tuple(stored))


def test_accuracies_have_intervals_before_a_model_is_delivered(front: Front) -> None:
    base = DENSE.replace(data=DataFacts(content_digest="d", images={"validation": 500}, classes=10))
    known = Front(front.job.replace(base=base), front.stored)
    assert (front.validation_images, known.validation_images) == (None, 500)
    head, dense, *_ = known.table()
    assert head[5] == "validation top-1, % (95 %)"
    assert dense[5] == wilson(DENSE.dense_accuracy, 500).percent()


def test_it_shows_itself(front: Front, tmp_path: Path) -> None:
    html = front._repr_html_()
    assert all(f">{trial.number}<" in html for trial in front)
    assert ">dense</td><td>4.608G</td><td>100.0%</td>" in html
    assert html.startswith("<table><thead><tr><th>trial</th><th>method</th>")
    assert "NaN" not in html
    assert repr(front).startswith("Front(")
