"""A table is measured whole, and corrected by the models that it is asked to be corrected by. What anything takes is not tested here."""

from __future__ import annotations

import pytest
import torch
from helpers.latency_tables import make_table
from helpers.tiny import config_of, make_dense, slim

from autoslim.core.constraints import CostLimits
from autoslim.core.plan import Plan
from autoslim.cost import DENSE, LatencyTable
from autoslim.errors import RequestError
from autoslim.export.artifact import save
from autoslim.export.profiling import kept_table
from autoslim.export.profiling import profile_parts as measuring
from autoslim.export.profiling.calibration import calibration_models, request_of
from autoslim.export.profiling.check import check
from autoslim.methods import METHODS
from autoslim.models import write_folder

RANGES = {name: method.ranges for name, method in METHODS.items()}


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As few rounds as there may be, on as many threads as there are."""
    for name in ("_PARTS_SECONDS", "_WHOLE_SECONDS"):
        monkeypatch.setattr(measuring, name, 0.0)


@pytest.mark.slow
@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("model", ["deit", "average without class token"])
def test_a_table_has_all_parts_and_a_whole_model_for_every_candidate(model: str):
    dense = make_dense(model)
    usable = {name: ranges for name, ranges in RANGES.items() if model == "deit" or name in ("sit", "vit_slim")}
    candidates = list(calibration_models(usable, dense.shape, class_query=False))[::3]
    request = request_of(dense, CostLimits(latency_ms=1.0, batch=2), candidates, class_query=False)
    table = measuring.measure_table(request, threads=torch.get_num_threads())
    assert [found.recipe for found in table.calibrations] == [DENSE, *(candidate.recipe for candidate in candidates)]
    assert (table.batch, table.mode, table.shape) == (2, "eager", dense.shape)
    assert table.attention.axes[1][-1] == dense.shape.heads * dense.shape.head_width
    assert table.mlp.axes[1][-1] == dense.shape.hidden
    assert table.attention.axes[0][-1] == table.rows.axes[0][-1] == dense.shape.tokens
    assert all(value > 0 for grid in (table.attention, table.rows, table.mlp, table.drop) for value in grid.values)
    whole = Plan.dense(dense.shape)
    assert table(whole) == pytest.approx(table.calibrations[0].measured_ms)
    for candidate in candidates:
        assert table.parts(candidate.plan) > 0
    again = measuring.measure_table(request.replace(candidates=tuple(candidates[:1])), table)
    assert again.calibrations[:-1] == table.calibrations
    assert LatencyTable.from_json(again.to_json()) == again


def test_a_mode_that_there_is_not_is_refused():
    request = request_of(make_dense(), CostLimits(latency_ms=1.0, mode="fast"), [], class_query=False)
    with pytest.raises(RequestError, match="--latency-mode is 'fast'; allowed: eager, compiled, onnxruntime"):
        measuring.measure_table(request)


def test_a_table_is_measured_once_for_the_same_request(tmp_path):
    measured = []

    def measure(request):
        measured.append(request)
        return make_table()

    request = request_of(make_dense(), CostLimits(latency_ms=1.0), [], class_query=False)
    other = request_of(make_dense(), CostLimits(latency_ms=1.0, batch=8), [], class_query=False)
    for asked, threads in ((request, 1), (request, 1), (request, 2), (other, 1), (other, 1)):
        assert kept_table(tmp_path, asked, measure, threads=threads) == make_table()
    assert len(measured) == 3


def test_a_model_above_the_limit_is_measured_again_before_it_is_given_up(tmp_path, monkeypatch: pytest.MonkeyPatch):
    dense = make_dense()
    save(tmp_path / "slimmed", slim("dps", dense, share=0.5).model, config_of("dps", dense, slim("dps", dense, share=0.5)))
    write_folder(
        tmp_path / "dense",
        dense.module,
        dense.architecture,
        preprocessing=dense.preprocessing,
        classes=tuple(str(number) for number in range(10)),
    )
    tries = iter([9.0, 7.0, 8.0, 3.0])

    def time_interleaved(runs, **_):
        for run in runs:
            run()
        took = next(tries) / 1000
        return [[0.01] * 9, [took] * 9]

    monkeypatch.setattr("autoslim.export.profiling.check.time_interleaved", time_interleaved)
    report = check(tmp_path / "slimmed", tmp_path / "dense", batch=2, mode="eager", limit_ms=5.0)
    assert (report.ms, report.dense_ms, report.batch) == (pytest.approx(7.0), pytest.approx(10.0), 2)
    report = check(tmp_path / "slimmed", tmp_path / "dense", batch=2, mode="eager", limit_ms=5.0)
    assert report.ms == pytest.approx(3.0)
