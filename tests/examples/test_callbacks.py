"""The example callbacks, with stand-ins for what they write to: neither tensorboard nor wandb is needed."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers.documents import ROOT
from helpers.sample_search import DENSE, make_job, make_report, make_result

import autoslim
from autoslim.core.result import ErrorClass, TrialState
from workers.progress.callbacks import SearchCallback, SearchInfo


def example(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def play(callback: SearchCallback) -> None:
    """Two trials side by side, one of which fails, and one that never starts."""
    job = make_job()
    callback.on_search_start(SearchInfo(job=job, budgets=job.budget_flops(DENSE.dense_flops), base=DENSE))
    good, bad = make_result(1), make_result(2, TrialState.FAILED, error_class=ErrorClass.DIVERGED, error="the loss is nan")
    for trial in (good, bad):
        callback.on_trial_start(trial, "50%")
    callback.on_epoch_end(good, make_report(1))
    callback.on_epoch_end(bad, make_report(1))
    callback.on_epoch_end(good, make_report(2))
    callback.on_trial_end(bad, "50%")
    callback.on_trial_end(good, "50%")
    callback.on_trial_end(make_result(3, TrialState.INFEASIBLE, error_class=ErrorClass.INFEASIBLE, error="needs 9 GB"), "50%")


def test_tensorboard_has_a_run_for_each_trial(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    written: dict[str, list[tuple[str, float, int]]] = {}
    closed: list[str] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            self.name = Path(folder).name
            assert Path(folder).parent == tmp_path
            written[self.name] = []

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written[self.name].append((name, value, step))

        def close(self) -> None:
            closed.append(self.name)

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    play(example("tensorboard_callback").TensorBoard(str(tmp_path)))
    good, bad = make_result(1), make_result(2)
    assert list(written) == [f"001-{good.recipe.method}", f"002-{bad.recipe.method}"] == closed[::-1]
    assert written[closed[1]] == [
        *(("loss", 1.0, 1), ("accuracy", 0.6, 1), ("loss", pytest.approx(2 / 3), 2), ("accuracy", 0.7, 2)),
        *(("trial/accuracy", good.accuracy, 0), ("trial/flops", good.flops, 0)),
    ]
    assert [name for name, _, _ in written[closed[0]]] == ["loss", "accuracy"]


def test_wandb_has_a_run_for_each_trial_in_the_group_of_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Any] = []

    class Run:
        def __init__(self, **options: Any) -> None:
            self.options, self.logged, self.summary, self.ended = options, [], {}, None
            runs.append(self)

        def log(self, values: dict[str, Any]) -> None:
            self.logged.append(values)

        def finish(self, exit_code: int) -> None:
            self.ended = exit_code

    module = ModuleType("wandb")
    module.init = Run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    play(example("wandb_callback").WeightsAndBiases("slimming"))
    good, bad = runs
    assert [(run.options["project"], run.options["group"], run.ended) for run in runs] == [
        ("slimming", "digits-1", 0),
        ("slimming", "digits-1", 1),
    ]
    assert good.options["config"]["target"] == "50%"
    assert good.options["config"]["rate"] == make_result(1).recipe.steps[0].knobs["rate"]
    assert good.logged[1] == {"epoch": 2.0, "phase": "finetune", "loss": pytest.approx(2 / 3), "accuracy": 0.7}
    assert good.summary["flops"] == make_result(1).flops
    assert len(bad.logged) == 1


def test_the_search_that_they_follow_has_settings_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {}
    signature = inspect.signature(autoslim.run_search)
    monkeypatch.setattr(autoslim, "run_search", lambda *args, **given: settings.update(signature.bind(*args, **given).arguments))
    callback = SearchCallback()
    example("digits_search").search_digits(callback, "runs/out")
    assert (settings["data"], settings["output"], settings["callbacks"]) == ("digits", "runs/out", [callback])
