"""The output folder of a search of version 0.1.0, which was moved since.

It is kept as that version wrote it, but without what can be made again (the prepared images, MLflow's files, ONNX and pt2 files, pictures),
and with another path of the folder, which does not exist.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.workers_command import Search

from autoslim.core.result import TrialState
from autoslim.core.urls import default_url
from autoslim.store import Store

ARTIFACT = Path(__file__).parents[1] / "artifacts" / "run-0.1"
FORMER = Path("/former/run")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ARTIFACT, tmp_path / "run"))


def test_its_front_report_and_model_are_read_as_they_were(autoslim: Callable[..., tuple[int, str, str]], output: Path) -> None:
    code, out, err = autoslim("front", "run")
    assert code == 0, err
    assert [line.split()[:3] for line in out.splitlines()[1:]] == [
        ["dense", "99.65K", "100.0%"],
        ["0", "patch_slimming", "65.89K"],
    ]
    code, _, err = autoslim("report", "run")
    assert code == 0, err
    assert "15.56" in (output / "report.html").read_text()
    code, out, err = autoslim("evaluate", "run/models/70%", "--data", "digits")
    assert code == 0, err
    assert out.startswith("top-1 15.56% (")


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_it_is_resumed_where_it_is_now_with_its_trials(output: Path) -> None:
    search = Search("--resume", "--output", str(output), "--trials", "4")
    assert search.end() == 0, search.text
    with Store(default_url(str(output))) as store:
        (job,) = store.jobs()
        stored = store.stored_trials(job.job.id)
    results = [trial.result for trial in stored]
    assert [(result.number, result.state) for result in results] == [(number, TrialState.COMPLETE) for number in range(4)]
    # The first three are those of the folder: none was run again.
    assert [result.flops for result in results[:3]] == [65_888, 85_552, 66_752]
    assert [trial.attempt for trial in stored] == [1, 1, 1, 2]
    assert job.job.output == str(output)
    assert (output / "mlflow.db").is_file()
    assert not FORMER.exists()
