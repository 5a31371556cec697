"""The end of a search: a model that cannot be completed costs neither the other models nor one that an earlier attempt delivered."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from helpers.sample_search import DENSE, make_job, make_result

from autoslim.core.run_folder import RunFolder
from autoslim.errors import JobError
from autoslim.training.holdout import HoldoutResult
from workers.search import finalize
from workers.search.base_model import AdaptedModel
from workers.search.dense_models import DenseModels

LABELS = {"70%": 3, "50%": 4}


@pytest.fixture
def finalize_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`finalize_models` of two trials; the caller says how a folder is completed."""
    output = RunFolder(tmp_path)
    results = {label: make_result(number, artifact=f"trials/{number}/model") for label, number in LABELS.items()}
    for result in results.values():
        folder = tmp_path / str(result.artifact)
        folder.mkdir(parents=True)
        (folder / "weights").write_text(f"of trial {result.number}")
    verdict = HoldoutResult(accuracy=0.9, images=10, search_packages=())
    monkeypatch.setattr(finalize, "evaluate_folders", lambda job, output, folders, *_, **__: [verdict] * len(folders))

    def run(complete: Any, **more: str) -> tuple[list[finalize.SelectedModel], list[str]]:
        """`more` are further labels, each with that of the model that they choose, too."""
        monkeypatch.setattr(finalize, "complete_folder", complete)
        monkeypatch.setattr(finalize, "relabel_folder", relabel)
        dataset: Any = None
        chosen = {**results, **{label: results[other] for label, other in more.items()}}
        selections = [
            finalize.Selection(label=label, budget=10**9, result=result, reason="so") for label, result in chosen.items()
        ]
        dense = DenseModels({"": AdaptedModel(tmp_path, DENSE)}, {})
        return finalize.finalize_models(make_job(str(tmp_path)), output, selections, dense=dense, dataset=dataset)

    return run, output


def complete(folder: Path, **_: Any) -> dict[str, float]:
    (folder / "card").write_text("complete")
    return {"model.onnx": 0.9}


def relabel(folder: Path, *, requested: finalize.RequestedBudget, provenance: finalize.Provenance, **_: Any) -> None:
    assert (folder / "card").read_text() == "complete"
    (folder / "card").write_text(f"{requested.label}: {provenance.reason}")


def complete_but_50(folder: Path, *, requested: finalize.RequestedBudget, **_: Any) -> dict[str, float]:
    if requested.label == "50%":
        raise JobError("the card cannot be written")
    return complete(folder)


def test_a_model_that_cannot_be_completed_costs_no_other(finalize_models):
    run, output = finalize_models
    models, failed = run(complete_but_50)
    assert [(model.label, model.forms) for model in models] == [("70%", {"model.onnx": 0.9})]
    assert failed == ["50% (trial 4): the card cannot be written"]
    assert (output.model("70%") / "card").is_file()
    assert not output.model("50%").exists()


def test_a_delivered_model_stays_until_its_successor_is_complete(finalize_models):
    run, output = finalize_models
    run(complete)
    (output.model("50%") / "weights").write_text("of an earlier trial")
    run(complete_but_50)
    assert (output.model("50%") / "weights").read_text() == "of an earlier trial"
    assert (output.model("50%") / "card").is_file()
    models, failed = run(complete)
    assert ([model.label for model in models], failed) == (["70%", "50%"], [])
    assert (output.model("50%") / "weights").read_text() == "of trial 4"
    assert sorted(path.name for path in (output.root / "models").iterdir()) == ["50%", "70%"]


def test_a_model_that_two_labels_choose_is_completed_once(finalize_models):
    run, output = finalize_models
    completed: list[str] = []

    def counted(folder: Path, *, requested: finalize.RequestedBudget, **_: Any) -> dict[str, float]:
        completed.append(requested.label)
        return complete(folder)

    models, failed = run(counted, drop="70%")
    assert (completed, failed) == (["70%", "50%"], [])
    assert [(model.label, model.trial, model.test_accuracy, model.forms) for model in models][::2] == [
        ("70%", 3, 0.9, {"model.onnx": 0.9}),
        ("drop", 3, 0.9, {"model.onnx": 0.9}),
    ]
    assert (output.model("drop") / "weights").read_text() == "of trial 3"
    assert (output.model("drop") / "card").read_text() == "drop: so; it is the same model as that of 70%"
    assert (output.model("70%") / "card").read_text() == "complete"
    # Where it cannot be completed, both lack it.
    models, failed = run(complete_but_50, drop="50%")
    assert ([model.label for model in models], len(failed)) == (["70%"], 2)
    assert failed[1] == "drop (trial 4): the card cannot be written"


def test_a_full_disk_ends_it(finalize_models):
    run, _ = finalize_models

    def full(folder: Path, **_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        run(full)
