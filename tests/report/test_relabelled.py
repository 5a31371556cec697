"""A model that a second budget has chosen, too: its folder says that budget, and what was exported and measured stays."""

from __future__ import annotations

from pathlib import Path

from helpers.searched_folder import photos
from helpers.tiny import config_of, make_dense, slim

from autoslim.core.job import DatasetSpec
from autoslim.data import prepare_dataset
from autoslim.export.artifact import FormReport, load_config, save
from autoslim.report.finalize import Provenance, RequestedBudget, relabel_folder

ONNX = FormReport(name="onnx", file="model.onnx", difference=1e-6, accuracy=0.7, drop=0.0)


def test_the_budget_is_another_and_nothing_is_exported_again(tmp_path: Path) -> None:
    dataset = prepare_dataset(DatasetSpec(source=str(photos(tmp_path / "photos"))), tmp_path / "cache", seed=0)
    dense, folder = make_dense(), tmp_path / "model"
    finished = slim("width", dense)
    accuracy = {"test/dense": 0.72, "test/slimmed": 0.7, "validation/slimmed": 0.71, "validation/dense": 0.73}
    before = config_of("width", dense, finished).replace(
        accuracy=accuracy, images={"test": 10, "validation": 10, "compared": 4}, forms=(ONNX,)
    )
    save(folder, finished.model, before)
    (folder / "model.onnx").write_bytes(b"as it was exported")
    relabel_folder(
        folder,
        requested=RequestedBudget(budget=10**9, label="70%"),
        dataset=dataset,
        provenance=Provenance(source="photos", job="j", trial=3, reason="it is the same model as that of 50%"),
    )
    after = load_config(folder)
    assert after == before.replace(flops=before.flops.replace(budget=10**9, budget_label="70%"))
    card = (folder / "README.md").read_text()
    assert card.startswith(f"# {before.architecture.name}, slimmed to 70%\n")
    assert "It is the same model as that of 50%." in card
    assert "budget 70%" in (folder / "picture.html").read_text()
    assert (folder / "model.onnx").read_bytes() == b"as it was exported"
    assert {"model.onnx", "README.md", "picture.png"} <= {
        line.split()[1] for line in (folder / "SHA256SUMS").read_text().splitlines()
    }
