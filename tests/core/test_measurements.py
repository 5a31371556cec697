"""A measurement is one field of `Measurements`: every record, reply and table of a trial's result has it."""

from __future__ import annotations

import dataclasses
import json
import re

import pyarrow.parquet as pq
import pytest
from helpers.sample_search import DENSE, fill, make_job, make_result

from autoslim.client.replies import SelectedModel as ClientModel
from autoslim.client.replies import Trial
from autoslim.core.result import Measurements, Outcome, TrialResult, measurement_fields
from autoslim.report.tracking.run_content import trial_content
from autoslim.service.public_text import PublicText
from autoslim.service.schemas.job import JobResult
from autoslim.service.schemas.trial import trial_response
from autoslim.service.settings import ServiceSettings
from autoslim.slimming.run import Slimmed
from autoslim.store import Store
from autoslim.store.export import write_trials_parquet
from workers.search.finalize import SelectedModel

NAMES = [field.name for field in dataclasses.fields(Measurements)]
SEVENS = {name: kind(7) for name, (kind, _) in measurement_fields().items()}
TEXTS = {name for name, value in SEVENS.items() if isinstance(value, str)}


@pytest.mark.parametrize("record", [Outcome, TrialResult, SelectedModel, Slimmed])
def test_every_record_of_a_result_inherits_all_measurements(record: type[Measurements]):
    assert set(NAMES) <= {field.name for field in dataclasses.fields(record)}
    own = [name for name in record.__annotations__ if name in NAMES]
    assert own == [], f"{record.__name__} declares {own} again"


@pytest.mark.parametrize("reply", [Trial, ClientModel])
def test_the_client_has_all_measurements(reply: type[Trial]):
    assert set(NAMES) <= set(reply.model_fields)


def test_the_api_the_parquet_file_and_mlflow_have_all_measurements(tmp_path):
    measured = make_result(0, **SEVENS)
    with Store(f"sqlite:///{tmp_path / 'autoslim.db'}") as store:
        fill(store, make_job(), [measured])
        (trial,) = store.stored_trials("digits-1")
        job = store.job("digits-1")
    assert trial.result.measurements() == measured.measurements() == SEVENS
    response = json.loads(trial_response(trial, PublicText(ServiceSettings(root=tmp_path))).model_dump_json())
    assert {name: response[name] for name in NAMES} == SEVENS
    write_trials_parquet(tmp_path / "trials.parquet", job, [trial])
    (row,) = pq.read_table(tmp_path / "trials.parquet").to_pylist()
    assert {name: row[name] for name in NAMES} == SEVENS
    content = trial_content(job, trial, parent="p", pareto=False)
    logged = {point.name: point.value for point in content.points}
    renamed = {"accuracy": "val_accuracy", "accuracy_after_pruning": "val_accuracy_after_pruning", "params": "mparams"}
    assert {name: content.tags[name] for name in TEXTS} == dict.fromkeys(TEXTS, "7")
    expected = {renamed.get(name, re.sub("^flops", "gflops", name)) for name in NAMES if name not in TEXTS}
    assert set(logged) == {"flops_share", *expected}
    assert logged["flops_share"] == 7 / DENSE.dense_flops


def test_the_summary_that_version_0_1_of_slim_wrote_is_read():
    former = {
        "folder": "out", "method": "sit", "budget": 100, "budget_label": "50%", "flops": 99, "flops_mean": 99, "flops_max": 99,
        "params": 5, "dense_flops": 200, "dense_params": 9, "validation_accuracy": 0.75, "accuracy_after_cut": 0.25,
        "test_accuracy": 0.7, "dense_validation_accuracy": 0.8, "dense_test_accuracy": 0.8, "epochs": 3.0, "seconds": 9.0,
        "files": ["config.json"], "dense_folder": None,
    }  # fmt: skip
    read = Slimmed.from_dict(former)
    assert (read.accuracy, read.accuracy_after_pruning, read.budget_share) == (0.75, 0.25, 0.99)


def test_the_models_in_a_result_that_version_0_1_stored_have_todays_names():
    former = {"label": "50%", "budget": 100, "flops": 99, "validation_accuracy": 0.75, "test_accuracy": 0.7}
    (model,) = JobResult.stored(json.dumps({"models": [former], "missing": []})).models
    assert model == {"label": "50%", "budget": 100, "flops": 99, "accuracy": 0.75, "test_accuracy": 0.7, "budget_share": 0.99}
