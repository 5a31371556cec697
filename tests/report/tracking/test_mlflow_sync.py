import json
import os
import socket
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from helpers.sample_search import DENSE, add, end, fill, make_job, make_recipe, make_report, make_result, make_results

from autoslim.core.interval import wilson
from autoslim.core.job import DatasetSpec
from autoslim.core.result import DataFacts, Origin, ParetoFront, Target, TrialState
from autoslim.core.urls import default_url
from autoslim.errors import RequestError, UnavailableError
from autoslim.report.tracking import MlflowSync, default_tracking_uri
from autoslim.report.tracking.datasets import logged_splits
from autoslim.report.tracking.description import front_note
from autoslim.report.tracking.mlflow_client import TrackingServer
from autoslim.store import JobState, Store

IMAGES = {"train": 1293, "validation": 144, "test": 360}


def runs_of(client, experiment="autoslim"):
    """The parent, and the children by trial number."""
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id], max_results=1000)
    (parent,) = [run for run in found if run.data.tags["autoslim.entity"] == "job"]
    return parent, {int(run.data.tags["trial"]): run for run in found if run is not parent}


def snapshot(client):
    """Everything MLflow shows of a search, metric histories included."""
    parent, children = runs_of(client)
    runs = [parent, *(children[number] for number in sorted(children))]
    histories = [[client.get_metric_history(run.info.run_id, name) for name in sorted(run.data.metrics)] for run in runs]
    points = [[[(m.value, m.step, m.timestamp) for m in metric] for metric in history] for history in histories]
    return [(run.info.run_id, run.info.status, run.data.params, run.data.tags) for run in runs], points


def closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    """A search of twelve trials that was logged once, for tests that only look at it."""
    from mlflow import MlflowClient

    output = tmp_path_factory.mktemp("search")
    with Store(default_url(output)) as store:
        fill(store, make_job(str(output)))
        assert MlflowSync(store, "digits-1").sync() == 13
    return MlflowClient(tracking_uri=default_tracking_uri(output)), output


def test_search_is_a_parent_run_with_a_child_for_every_trial(search):
    parent, children = runs_of(search[0])
    assert parent.info.run_name == "digits-1"
    assert sorted(children) == list(range(12))
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parent.info.run_id}
    assert children[3].info.run_name == "t03 sit 50%"
    assert parent.data.params["budgets"] == "50%, 70%, 3G"
    assert parent.data.params["model"] == "deit_small_patch16_224"


def test_child_holds_the_recipe_the_curves_and_the_result(search):
    run = runs_of(search[0])[1][4]
    result = make_result(4)
    assert run.data.params["vit_slim.rate"] == "0.38"
    assert run.data.params["training.lr"] == str(make_recipe(4).training.lr)
    assert run.data.metrics["val_accuracy"] == result.accuracy
    assert run.data.metrics["gflops"] == result.flops / 1e9
    curve = search[0].get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value) for m in curve] == [(1, 1.0), (2, 2 / 3), (3, 0.5)]
    assert len(run.data.metrics) <= 25


def test_status_and_tags_tell_how_a_trial_ended(search):
    children = runs_of(search[0])[1]
    statuses = {number: children[number].info.status for number in (0, 7, 8, 9, 11)}
    assert statuses == {0: "FINISHED", 7: "KILLED", 8: "FAILED", 9: "FAILED", 11: "RUNNING"}
    assert (children[8].data.tags["error_class"], children[8].data.tags["error"]) == ("DivergedError", "the loss is nan")
    assert children[10].data.tags["duplicate_of"] == "4"
    assert children[9].data.tags["state"] == "infeasible"
    front = {result.number for result in ParetoFront.of(make_results()).results}
    assert {n for n, run in children.items() if run.data.tags["pareto"] == "true"} == front


def test_parent_carries_the_front_as_picture_table_parquet_and_text(search):
    client, output = search
    parent = runs_of(client)[0]
    files = ["front.html", "front.json", "front.parquet", "trials.parquet"]
    assert sorted(file.path for file in client.list_artifacts(parent.info.run_id)) == files
    folder = output / "mlartifacts" / parent.info.run_id / "artifacts"
    table = json.loads((folder / "front.json").read_text())
    front = [result.number for result in ParetoFront.of(make_results()).results]
    assert [row[table["columns"].index("trial")] for row in table["data"]] == front
    assert pq.read_table(folder / "front.parquet")["number"].to_pylist() == front
    assert "<svg" in (folder / "front.html").read_text()
    assert "| Trial | Method | Top-1, % |" in parent.data.tags["mlflow.note.content"]


def test_the_run_of_a_search_of_chains_names_them_as_it_does_methods(store, output, client):
    chain = make_result(0, recipe=make_recipe(0, "width+merge"))
    job = make_job(str(output))
    fill(store, job, [chain, make_result(1, recipe=make_recipe(1, "width"))])
    store.set_chosen(job.id, {"50%": 0})
    MlflowSync(store, job.id).sync()
    parent, children = runs_of(client)
    run = children[0]
    assert (run.info.run_name, run.data.params["method"], run.data.tags["method"]) == (
        "t00 width+merge 50%",
        *["width+merge"] * 2,
    )
    knobs = {name for name in run.data.params if name.startswith(("width.", "merge."))}
    assert knobs == {f"{name}.{knob}" for name in ("width", "merge") for knob in chain.recipe.steps[0].knobs}
    assert parent.data.metrics["best_val_accuracy/50pct"] == chain.accuracy
    (row,) = [line for line in parent.data.tags["mlflow.note.content"].splitlines() if line.startswith("| 0 | ")]
    assert row.startswith("| 0 | width+merge | ")
    assert "width.rate=0.3" in row
    assert "merge.rate=0.3" in row
    folder = output / "mlartifacts" / parent.info.run_id / "artifacts"
    assert pq.read_table(folder / "trials.parquet")["method"].to_pylist() == ["width+merge", "width"]


@pytest.mark.slow
@pytest.mark.short
def test_the_images_are_the_runs_datasets(store, job, client):
    store.set_base(job.id, DENSE.replace(data=DataFacts(content_digest="0123456789abcdef", images=IMAGES, classes=10)))
    MlflowSync(store, job.id).sync()
    parent, children = runs_of(client)
    logged = parent.inputs.dataset_inputs
    assert {(one.dataset.name, one.tags[0].key, one.tags[0].value, one.dataset.digest) for one in logged} == {
        ("digits", "mlflow.data.context", split, f"0123456789abcdef-{split}") for split in IMAGES
    }
    rows = {one.tags[0].value: json.loads(one.dataset.profile)["num_rows"] for one in logged}
    assert rows == IMAGES
    assert not children[0].inputs.dataset_inputs
    # An account that was lost, and a search that goes on, log none of them twice.
    mirror = MlflowSync(store, job.id)
    store.forget_tracked(job.id, mirror._destination)
    mirror.sync()
    store.finish_trial(job.id, make_result(3))
    mirror.sync()
    assert len(runs_of(client)[0].inputs.dataset_inputs) == 3


@pytest.mark.parametrize(
    ("source", "name", "source_type", "fields"),
    [
        ("/data/flowers.parquet", "flowers", "local", {"uri": "/data/flowers.parquet"}),
        ("hf:owner/flowers", "owner/flowers", "hugging_face", {"path": "owner/flowers", "config_name": "large"}),
        (
            "hf://datasets/owner/flowers@v1/data",
            "owner/flowers",
            "hugging_face",
            {"path": "owner/flowers", "config_name": "large"},
        ),
        ("digits", "digits", "code", {"tags": {"mlflow.source.name": "autoslim", "data": "digits"}}),
        ("s3://me:secret@host/flowers.tar", "flowers", "local", {"uri": "s3://me:***@host/flowers.tar"}),
    ],
)
def test_a_dataset_has_a_source_that_mlflow_reads(store, output, source, name, source_type, fields):
    from mlflow.data import get_source
    from mlflow.entities import Dataset

    job = make_job(str(output), dataset=DatasetSpec(source=source, config="large"))
    store.create_job(job)
    assert logged_splits(store.job(job.id)) == ()
    store.set_base(job.id, DENSE.replace(data=DataFacts(content_digest="0123456789abcdef", images=IMAGES, classes=10)))
    split = logged_splits(store.job(job.id))[0]
    assert (split.name, split.source_type, json.loads(split.source)) == (name, source_type, fields)
    read = get_source(Dataset(split.name, split.digest, split.source_type, split.source))
    assert read.to_dict().items() >= fields.items()


def test_the_load_of_a_trials_machine_is_on_mlflows_page_for_it(store, job, client):
    system = {"cpu_utilization_percentage": 93.5, "system_memory_usage_megabytes": 2048.0}
    store.report(job.id, 3, make_report(4).replace(system=system))
    MlflowSync(store, job.id).sync()
    metrics = runs_of(client)[1][3].data.metrics
    assert {name: metrics[f"system/{name}"] for name in system} == system


def test_the_description_of_a_long_front_has_the_chosen_and_the_most_accurate(store, output):
    flops = [2_000_000_000 + 10_000_000 * number for number in range(40)]
    results = [make_result(n, accuracy=0.5 + n / 100, flops=flops[n]) for n in range(40)]
    job = make_job(str(output))
    fill(store, job, results)
    store.set_chosen(job.id, {"50%": 2})
    note = front_note(store.job(job.id), store.stored_trials(job.id))
    rows = [line for line in note.splitlines() if line.startswith("| ")][1:]
    assert [int(row.split("|")[1]) for row in rows] == [2, *range(29, 40)]
    assert note.endswith("28 more are in `front.json`.")
    # What they share is named once; the width share, which some methods have, differs.
    head, _, table = note.replace("\\", "").partition("### Pareto front")
    assert "vit_slim.ranking=attention" in head
    assert "ranking=" not in table
    assert "vit_slim.rate=" in table
    assert len(note) < 3000
    assert "| Trial | Method | Top-1, % | " in note
    store.set_base(job.id, DENSE.replace(data=DataFacts(content_digest="d", images={"validation": 500}, classes=10)))
    note = front_note(store.job(job.id), store.stored_trials(job.id))
    assert f"top-1 {wilson(DENSE.dense_accuracy, 500).percent()} % at" in note
    assert "| Trial | Method | Top-1, % (95 %) | " in note
    assert f"| {wilson(0.52, 500).percent()} | " in note


def test_front_moves_as_trials_finish(store, job, client):
    mirror = MlflowSync(store, job.id)
    mirror.sync()
    was = runs_of(client)[0].data.metrics["hypervolume"]
    store.finish_trial(job.id, make_result(3, accuracy=0.99, flops=2_000_000_000))
    mirror.sync()
    parent, children = runs_of(client)
    assert [n for n, run in children.items() if run.data.tags["pareto"] == "true"] == [3]
    assert parent.data.metrics["hypervolume"] > was
    assert parent.data.metrics["best_val_accuracy/50pct"] == 0.99
    assert children[3].info.status == "FINISHED"


def test_syncing_twice_logs_nothing_twice(store, job, client):
    mirror = MlflowSync(store, job.id)
    assert mirror.sync() == 5
    before = snapshot(client)
    assert mirror.sync() == 0
    assert MlflowSync(store, job.id).sync() == 0
    assert snapshot(client) == before


def test_crash_that_lost_the_account_of_what_was_logged_repeats_nothing(store, job, client):
    mirror = MlflowSync(store, job.id)
    mirror.sync()
    before = snapshot(client)
    store.forget_tracked(job.id, mirror._destination)
    MlflowSync(store, job.id).sync()
    assert snapshot(client) == before


def test_the_runs_of_a_folder_that_was_moved_go_on(store, job, client, output, tmp_path):
    MlflowSync(store, job.id).sync()
    before = runs_of(client)
    store.close()
    moved = output.rename(tmp_path / "moved")
    with Store(default_url(moved)) as again:
        again.set_output(job.id, str(moved))
        again.report(job.id, 3, make_report(4))
        mirror = MlflowSync(again, job.id)
        mirror.sync()
    client = type(client)(tracking_uri=mirror.uri)
    parent, children = runs_of(client)
    assert parent.info.run_id == before[0].info.run_id
    assert {number: run.info.run_id for number, run in children.items()} == {n: run.info.run_id for n, run in before[1].items()}
    # MLflow keeps a parameter as it was logged.
    assert parent.data.params == before[0].data.params
    assert client.get_metric_history(children[3].info.run_id, "loss")[-1].step == 4


def test_epochs_of_a_resumed_trial_go_on_where_they_were(store, job, client):
    mirror = MlflowSync(store, job.id)
    mirror.sync()
    store.begin_attempt(job.id)
    store.restart_trial(job.id, 3)
    store.report(job.id, 3, make_report(3))
    store.report(job.id, 3, make_report(4))
    mirror.sync()
    run = runs_of(client)[1][3]
    assert [m.step for m in client.get_metric_history(run.info.run_id, "loss")] == [1, 2, 3, 4]


def test_no_run_stays_running_when_the_job_has_ended(store, job, client):
    mirror = MlflowSync(store, job.id)
    mirror.sync()
    end(store, job.id, JobState.FAILED)
    mirror.sync()
    parent, children = runs_of(client)
    assert (parent.info.status, children[3].info.status) == ("FAILED", "KILLED")
    store.begin_attempt(job.id)
    mirror.sync()
    parent, children = runs_of(client)
    assert (parent.info.status, children[3].info.status) == ("RUNNING", "RUNNING")


def test_chosen_models_are_tagged_with_their_budget(store, job, client):
    mirror = MlflowSync(store, job.id)
    store.set_chosen(job.id, {"50%": 0, "70%": 1})
    mirror.sync()
    store.set_chosen(job.id, {"50%": 3, "70%": 1})
    mirror.sync()
    children = runs_of(client)[1]
    assert {n: run.data.tags["selected_for"] for n, run in children.items() if "selected_for" in run.data.tags} == {
        0: "none",
        1: "70%",
        3: "50%",
    }


def test_a_run_that_an_earlier_version_logged_gets_todays_names_and_no_second_run(store, job, client):
    mirror = MlflowSync(store, job.id)
    mirror.sync()
    # As version 0.1 left it: another tag, and the account of it.
    run = store.tracked(job.id, mirror._destination)["0"]
    client.set_tag(run.run_id, "chosen", "50%")
    logged = {**run.logged, "tags": {**run.logged["tags"], "chosen": "50%"}, "results": [["final_accuracy", 0.5, 0]]}
    store.set_tracked(job.id, mirror._destination, run.replace(logged=logged))
    store.set_chosen(job.id, {"50%": 0})
    MlflowSync(store, job.id).sync()
    found = runs_of(client)[1][0]
    assert found.info.run_id == run.run_id
    assert (found.data.tags["chosen"], found.data.tags["selected_for"]) == ("none", "50%")
    assert found.data.metrics["val_accuracy"] == store.trials(job.id)[0].accuracy


def test_pictures_of_a_chosen_model_are_artifacts_of_its_trial(store, job, client, output):
    mirror = MlflowSync(store, job.id)
    mirror.sync()
    store.set_chosen(job.id, {"50%": 0, "70%": 1})
    mirror.sync()
    children = runs_of(client)[1]
    assert not client.list_artifacts(children[0].info.run_id), "a model without pictures is no mistake"
    folder = output / "models" / "50%"
    folder.mkdir(parents=True)
    (folder / "picture.png").write_bytes(b"a picture")
    (folder / "picture.html").write_text("a page")
    assert MlflowSync(store, job.id).sync() == 1
    assert MlflowSync(store, job.id).sync() == 0
    assert [file.path for file in client.list_artifacts(children[0].info.run_id)] == ["picture.html", "picture.png"]
    assert not client.list_artifacts(children[1].info.run_id)


def test_the_report_in_the_output_folder_is_an_artifact_of_the_search(store, job, client, output):
    mirror = MlflowSync(store, job.id)
    mirror.sync()
    parent = runs_of(client)[0].info.run_id
    assert "report.html" not in {file.path for file in client.list_artifacts(parent)}
    (output / "report.html").write_text("a report")
    # The store has not changed: it is the file that is new.
    assert mirror.sync() == 1
    assert mirror.sync() == 0
    assert MlflowSync(store, job.id).sync() == 0
    logged = output / "mlartifacts" / parent / "artifacts" / "report.html"
    assert logged.read_text() == "a report"
    (output / "report.html").write_text("another report")
    assert mirror.sync() == 1
    assert logged.read_text() == "another report"


def test_artifacts_are_renewed_only_when_a_trial_has_ended(store, job, client, tmp_path):
    mirror = MlflowSync(store, job.id)
    mirror.sync()
    picture = tmp_path / "out" / "mlartifacts" / runs_of(client)[0].info.run_id / "artifacts" / "front.html"
    picture.write_text("untouched")
    store.report(job.id, 3, make_report(4))
    mirror.sync()
    assert picture.read_text() == "untouched"
    store.finish_trial(job.id, make_result(3))
    mirror.sync()
    assert picture.read_text() != "untouched"


def test_search_without_trials_or_a_measured_model_is_logged(store, output, client):
    store.create_job(make_job(str(output)))
    MlflowSync(store, "digits-1").sync()
    parent, children = runs_of(client)
    assert (parent.data.metrics, children) == ({"trials_ended": 0.0}, {})


def test_what_mlflow_missed_while_it_was_down_is_logged_later(store, job, client):
    down = MlflowSync(store, job.id, tracking_uri=f"http://me:secret@127.0.0.1:{closed_port()}")
    with pytest.raises(UnavailableError, match=r"MLflow at http://me:\*\*\*@127.0.0.1:\d+ cannot be used") as caught:
        down.sync()
    assert "secret" not in str(caught.value)
    assert MlflowSync(store, job.id).sync() == 5
    assert len(runs_of(client)[1]) == 4


def test_an_error_of_the_artifacts_store_is_told_without_its_credentials(tmp_path, monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCESS_KEY", "canary-value")
    server = TrackingServer("http://mlflow", "autoslim", artifacts=None)
    server._client = SimpleNamespace(log_artifacts=refuse)
    with pytest.raises(UnavailableError, match=r"^MLflow at http://mlflow cannot be used: PUT https://account/x, key \*\*\*$"):
        server.upload("run", tmp_path)


def refuse(run_id, folder):
    raise OSError("PUT https://account/x, key canary-value")


def test_limits_on_waiting_leave_the_environment_as_it_was(store, job, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "7")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    with pytest.raises(UnavailableError):
        MlflowSync(store, job.id, tracking_uri=f"http://127.0.0.1:{closed_port()}").sync()
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "7"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


def test_tracking_that_was_thrown_away_is_filled_again(store, job, client):
    MlflowSync(store, job.id).sync()
    parent, children = runs_of(client)
    for run in [parent, *children.values()]:
        client.delete_run(run.info.run_id)
    assert MlflowSync(store, job.id).sync() == 5
    assert runs_of(client)[0].info.run_id != parent.info.run_id


def test_parent_deleted_while_searching_is_made_again_over_the_same_children(store, job, client):
    mirror = MlflowSync(store, job.id)
    mirror.sync()
    parent, children = runs_of(client)
    client.delete_run(parent.info.run_id)
    store.finish_trial(job.id, make_result(3))
    mirror.sync()
    renewed, same = runs_of(client)
    assert {run.info.run_id for run in same.values()} == {run.info.run_id for run in children.values()}
    assert {run.data.tags["mlflow.parentRunId"] for run in same.values()} == {renewed.info.run_id}


def test_child_a_user_deleted_stays_deleted(store, job, client, caplog):
    mirror = MlflowSync(store, job.id)
    mirror.sync()
    client.delete_run(runs_of(client)[1][3].info.run_id)
    store.finish_trial(job.id, make_result(3))
    mirror.sync()
    assert "trial 3 of job digits-1 was deleted in MLflow" in caplog.text
    store.set_chosen(job.id, {"50%": 3})
    mirror.sync()
    assert 3 not in runs_of(client)[1]


def test_experiment_a_user_deleted_is_an_error_that_says_so(store, job, client):
    client.delete_experiment(client.create_experiment("old"))
    with pytest.raises(RequestError, match=r"the experiment 'old' .* is deleted; restore it"):
        MlflowSync(store, job.id, experiment="old").sync()


def test_two_searches_of_one_id_do_not_share_runs(store, job, client, tmp_path):
    MlflowSync(store, job.id).sync()
    (tmp_path / "second").mkdir()
    with Store(default_url(tmp_path / "second")) as second:
        fill(second, job, make_results()[:2])
        assert MlflowSync(second, job.id).sync() == 3
    assert len(client.search_runs([client.get_experiment_by_name("autoslim").experiment_id])) == 8


def test_odd_names_and_values_are_logged_in_a_form_mlflow_takes(store, output, client):
    fill(store, make_job(str(output)), [])
    add(store, "digits-1", make_result(0, TrialState.FAILED, error="at postgres://me:secret@db\n" + "x" * 9000), epochs=0)
    many = {f"loss[{index}] <é>": float(index) for index in range(30)}
    store.add_trial("digits-1", 1, make_recipe(1), origin=Origin.SAMPLER, target=Target.FREE)
    store.report("digits-1", 1, make_report(1, gflops=3.0, broken=float("nan"), **many))
    MlflowSync(store, "digits-1").sync()
    children = runs_of(client)[1]
    assert "secret" not in children[0].data.tags["error"]
    assert children[1].data.metrics["curve.gflops"] == 3.0
    assert "broken" not in children[1].data.metrics
    assert len(children[1].data.metrics) <= 17


def test_fluent_state_of_the_user_is_left_alone(store, job):
    import mlflow

    before = mlflow.get_tracking_uri()
    MlflowSync(store, job.id).sync()
    assert mlflow.get_tracking_uri() == before
    assert mlflow.active_run() is None


def test_default_address_lies_in_the_output_folder(tmp_path):
    assert default_tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
