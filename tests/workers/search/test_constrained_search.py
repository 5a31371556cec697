"""A search with a latency limit: the table is measured on the cluster, and the models before they are delivered."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers.workers_command import SEARCH, Search

from autoslim.core.plan import Plan
from autoslim.cost import LatencyTable
from autoslim.export.artifact import load_config

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
REQUEST = [word for word in SEARCH if word not in ("--flops", "70%", "50%")]


def test_a_delivered_model_keeps_to_the_latency_and_the_parameters(tmp_path: Path) -> None:
    output = tmp_path / "run"
    limited = ["--latency", "30s@2", "--flops", "60%", "--params", "54K"]
    search = Search(*REQUEST, *limited, "--trials", "2", "--output", str(output), "--json")
    assert search.end() == 0, search.text
    summary = json.loads(search.text[search.text.index("{\n") :])
    (model,) = summary["models"]
    config = load_config(Path(model["folder"]))
    table = LatencyTable.from_json((output / "cache" / "latency.json").read_text())
    assert (table.batch, table.threads, table.device) == (2, 1, "cpu")
    assert config.latency is not None
    assert model["latency"] == config.latency.to_dict()
    assert config.latency.predicted_ms == table(config.plan, config.recipe.method)
    assert config.latency.timed.ms <= 30_000
    assert config.params <= 54_000
    rows = pq.read_table(output / "trials.parquet").to_pylist()
    chosen = rows[model["trial"]]
    assert chosen["latency_measured_ms"] == config.latency.timed.ms
    assert all(row["latency_ms"] is not None for row in rows if row["state"] == "complete")
    assert "accuracy over latency" in (output / "front.html").read_text()
    assert table(Plan.dense(config.shape)) > 0
    again = Search("--resume", "--output", str(output), "--latency", "20s@2", "--json")
    assert again.end() == 2
    assert "--latency is '20000ms@2', but this search started with '30000ms@2'" in again.text


def test_a_latency_that_no_plan_reaches_is_an_error_before_anything_is_trained(tmp_path: Path) -> None:
    search = Search(*REQUEST, "--latency", "1us@1", "--trials", "2", "--output", str(tmp_path / "run"))
    assert search.end() == 3, search.text
    assert "--latency 0.001ms@1: nothing in the space" in search.text
    assert "the least is" in search.text
    assert " starts: " not in search.text
