"""`autoslim pick --tune`: the longer fine-tuning replaces the shorter where it is better on the validation images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers.small_search import make_search

from autoslim.export.artifact import load_config
from autoslim.models.weights import file_digest
from workers.search import pick as picking
from workers.search.pick import Wish

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search") / "run"
    make_search(folder)
    return folder


@pytest.fixture
def run(search: Path, tmp_path: Path) -> Path:
    return shutil.copytree(search, tmp_path / "run")


def digest(folder: Path) -> str:
    return file_digest(folder / "model.safetensors")


def test_a_better_model_replaces_the_one_that_was_handed_over(autoslim, run: Path):
    code, out, err = autoslim("pick", "run", "--flops", "60%", "--json")
    assert code == 0, err
    shorter, first = json.loads(out), load_config(run / "models" / "60%")
    assert first.made_from.tuned == ()
    code, _, err = autoslim("pick", "run", "--flops", "60%")
    assert (code, "or fine-tune it with --tune EPOCHS" in err) == (2, True)
    code, out, err = autoslim("pick", "run", "--flops", "60%", "--tune", "3", "--json")
    assert code == 0, err
    longer, second = json.loads(out), load_config(run / "models" / "60%")
    assert longer["tuned"]["before"] == shorter["accuracy"] < longer["tuned"]["after"] == longer["accuracy"]
    assert (second.made_from.tuned, second.recipe.training.epochs) == ((3.0,), 4.0)
    assert longer["flops"] == shorter["flops"]
    assert "the longer training is kept" in err
    assert "3 more epochs: validation accuracy" in (run / "models" / "60%" / "README.md").read_text()
    assert not list((run / "cache").glob("longer-*"))


def test_a_worse_one_does_not_and_both_are_told(autoslim, run: Path, monkeypatch):
    code, _, err = autoslim("pick", "run", "--flops", "60%")
    assert code == 0, err
    before = digest(run / "models" / "60%")
    tune = picking.tune_longer

    def worse(*arguments, **named):
        tuned = yield from tune(*arguments, **named)
        return tuned.replace(after=0.0)

    monkeypatch.setattr(picking, "tune_longer", worse)
    code, out, err = autoslim("pick", "run", "--flops", "60%", "--tune", "1")
    assert code == 0, err
    assert "0.00% after; the shorter training stays" in out
    assert digest(run / "models" / "60%") == before
    # Where nothing was handed over yet, the shorter one is.
    code, out, err = autoslim("pick", "run", "--max-drop", "99", "--tune", "1")
    assert code == 0, err
    assert digest(run / "models" / "drop-99") == before


def test_the_epochs_are_more_than_none():
    with pytest.raises(picking.RequestError, match="--tune is 0; allowed: more than 0 epochs"):
        Wish.of(flops="50%", tune=0.0)
