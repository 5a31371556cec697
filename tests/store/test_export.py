import json

import pyarrow.parquet as pq
import pytest
from helpers.sample_search import fill, make_job, make_recipe, make_result, make_results

from autoslim.core.recipe import Recipe, Step
from autoslim.core.result import ParetoFront
from autoslim.errors import OutputError
from autoslim.store.export import write_front_parquet, write_trials_parquet


def test_every_trial_is_a_row_with_every_knob_as_a_column(tmp_path, store):
    fill(store, make_job())
    store.set_chosen("digits-1", {"50%": 3, "3G": 3})
    write_trials_parquet(tmp_path / "trials.parquet", store.job("digits-1"), store.stored_trials("digits-1"))
    rows = pq.read_table(tmp_path / "trials.parquet").to_pylist()
    assert [row["number"] for row in rows] == list(range(12))
    assert [row["accuracy"] for row in rows] == [result.accuracy for result in make_results()]
    assert rows[0]["knob.vit_slim.rate"] == 0.3
    assert rows[0]["knob.life_regression.rate"] is None
    assert json.loads(rows[0]["knob.vit_slim.layers"]) == [3, 6, 9]
    assert rows[3]["training.lr"] == make_recipe(3).training.lr
    assert (rows[3]["chosen"], rows[3]["target"], rows[8]["error_class"]) == ("50%, 3G", "50%", "DivergedError")
    assert rows[10]["duplicate_of"] == 4


def test_columns_have_their_own_types(tmp_path, store):
    fill(store, make_job())
    write_trials_parquet(tmp_path / "trials.parquet", store.job("digits-1"), store.stored_trials("digits-1"))
    schema = pq.read_schema(tmp_path / "trials.parquet")
    types = {name: str(schema.field(name).type) for name in schema.names}
    assert types["flops"] == types["knob.sit.rate"].replace("double", "int64") == "int64"
    assert (types["knob.vit_slim.width_share"], types["knob.sit.ranking"], types["training.flip"]) == ("double", "string", "bool")
    assert b"multiply-accumulates" in schema.field("flops").metadata[b"description"]
    assert json.loads(schema.metadata[b"autoslim"])["job"] == "digits-1"


def test_front_is_cheapest_first_with_the_columns_of_all_trials(tmp_path, store):
    fill(store, make_job())
    job, trials = store.job("digits-1"), store.stored_trials("digits-1")
    write_trials_parquet(tmp_path / "trials.parquet", job, trials)
    write_front_parquet(tmp_path / "front.parquet", job, trials)
    front = pq.read_table(tmp_path / "front.parquet")
    assert front.schema == pq.read_schema(tmp_path / "trials.parquet")
    assert front["number"].to_pylist() == [result.number for result in ParetoFront.of(make_results()).results]


def test_no_trials_give_the_same_columns_but_for_knobs(tmp_path, store):
    stored = store.create_job(make_job())
    write_trials_parquet(tmp_path / "none.parquet", stored, [])
    write_front_parquet(tmp_path / "front.parquet", stored, [])
    fill(store, make_job(id="full"))
    write_trials_parquet(tmp_path / "some.parquet", store.job("full"), store.stored_trials("full"))
    none, some = pq.read_schema(tmp_path / "none.parquet"), pq.read_schema(tmp_path / "some.parquet")
    assert list(none) == [field for field in some if not field.name.startswith("knob.")]
    assert pq.read_table(tmp_path / "front.parquet").num_rows == 0


def test_knobs_of_a_method_that_comes_twice_are_kept_apart():
    twice = tuple(Step(method="sit", knobs={"rate": rate}) for rate in (1, 2))
    recipe = Recipe(steps=twice, budget=1, training=make_recipe(0).training, seed=0)
    assert recipe.flat_knobs == {"sit.rate": 1, "sit@2.rate": 2}


def test_a_chain_is_a_method_with_the_knobs_of_both(tmp_path, store):
    chain = make_result(0).replace(recipe=make_recipe(0, "width+patch_slimming"))
    fill(store, make_job(), [chain, make_result(1)])
    write_trials_parquet(tmp_path / "trials.parquet", store.job("digits-1"), store.stored_trials("digits-1"))
    rows = pq.read_table(tmp_path / "trials.parquet").to_pylist()
    assert [row["method"] for row in rows] == ["width+patch_slimming", "life_regression"]
    assert rows[0]["knob.width.rate"] == rows[0]["knob.patch_slimming.rate"] == 0.3
    assert rows[1]["knob.width.rate"] is None


def test_file_that_cannot_be_replaced_stays_and_leaves_no_scraps(tmp_path, store):
    stored = store.create_job(make_job())
    (tmp_path / "trials.parquet").mkdir()
    (tmp_path / "trials.parquet" / "keep").touch()
    with pytest.raises(OutputError, match=r"trials.parquet cannot be written"):
        write_trials_parquet(tmp_path / "trials.parquet", stored, [])
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_data_set_credentials_do_not_reach_the_file(tmp_path, store):
    job = make_job()
    stored = store.create_job(job.replace(dataset=job.dataset.replace(source="s3://me:secret@bucket/x.parquet")))
    write_trials_parquet(tmp_path / "trials.parquet", stored, [])
    assert b"secret" not in (tmp_path / "trials.parquet").read_bytes()


def test_recipe_of_a_running_trial_is_exported_too(tmp_path, store):
    running = make_result(11).state.__class__.RUNNING
    fill(store, make_job(), [make_result(11, running)])
    write_trials_parquet(tmp_path / "trials.parquet", store.job("digits-1"), store.stored_trials("digits-1"))
    (row,) = pq.read_table(tmp_path / "trials.parquet").to_pylist()
    assert (row["state"], row["accuracy"], row["knob.sit.ranking"]) == ("running", None, "attention")


def test_latencies_are_columns_with_a_front_of_their_own(tmp_path, store):
    results = [result.replace(latency_ms=5.0 + result.number) if result.number < 6 else result for result in make_results()]
    fill(store, make_job(), results)
    store.set_latency("digits-1", 2, 7.5)
    write_trials_parquet(tmp_path / "trials.parquet", store.job("digits-1"), store.stored_trials("digits-1"))
    rows = pq.read_table(tmp_path / "trials.parquet").to_pylist()
    assert [row["latency_ms"] for row in rows[:7]] == [5.0, 6.0, 7.0, 8.0, 9.0, 10.0, None]
    assert [row["latency_measured_ms"] for row in rows[:4]] == [None, None, 7.5, None]
    fast = {result.number for result in ParetoFront.of(results, cost="latency_ms").results}
    assert {row["number"] for row in rows if row["pareto_latency"]} == fast
    assert rows[6]["pareto_latency"] is None
