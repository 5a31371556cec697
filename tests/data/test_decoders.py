"""What is decoded while it is read is decoded by processes, which hold little and end with the trial."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.marks import CI_ONLY

from autoslim.core import positioned_io
from autoslim.core.job import DatasetSpec
from autoslim.core.recipe import TrainingSettings
from autoslim.data import Loader, PreparedDataset, decoders, prepare_dataset

pytestmark = [*CI_ONLY, pytest.mark.usefixtures("home")]

SIZE = (12, 12)


@pytest.fixture
def sets(write_parquet, tmp_path) -> tuple[PreparedDataset, PreparedDataset]:
    """The same images, decoded once and decoded while they are read."""
    source = write_parquet("all.parquet", [0, 1] * 20)
    specs = (DatasetSpec(source=str(source), decoded_limit=limit) for limit in (2**30, 0))
    return tuple(prepare_dataset(spec, tmp_path / "cache", seed=0) for spec in specs)  # type: ignore[return-value]


@pytest.fixture(autouse=True)
def none_left():
    yield
    decoders.close_decoders()


def batches(prepared: PreparedDataset) -> list[tuple[torch.Tensor, torch.Tensor]]:
    training, norm = TrainingSettings(batch_size=8), (0.5, 0.5, 0.5)
    train = prepared.splits(SIZE).train
    return list(Loader(train, training=training, mean=norm, std=norm, image_size=SIZE, seed=0, train=True).epoch(0))


def test_batches_are_those_of_decoded_images_also_where_a_process_is_lost(sets, caplog):
    wanted = batches(sets[0])
    assert not decoders._idle
    for lost in (False, True):
        if lost:
            os.kill(decoders._idle[0].process.pid, signal.SIGKILL)
        found = batches(sets[1])
        assert len(found) == len(wanted) > 2
        for own, other in zip(found, wanted, strict=True):
            assert torch.equal(own[0], other[0])
            assert torch.equal(own[1], other[1])
        assert ("has ended with exit code -9" in caplog.text) is lost
    # One for the only thread of the tests.
    assert len(decoders._idle) == 1


def test_a_batch_that_is_longer_than_one_call_moves_is_read_in_several(sets, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(positioned_io, "_MOST_BYTES", 1000)
    for own, other in zip(batches(sets[1]), batches(sets[0]), strict=True):
        assert torch.equal(own[0], other[0])


def test_an_error_of_decoding_reaches_the_caller(sets):
    split = sets[1].splits(SIZE).train
    with pytest.raises(RuntimeError, match=r"(?s)in a process that decodes images:.*No such file"):
        decoders.decode_elsewhere(Path("nowhere.arrow"), SIZE, split.labels[:2])


_TRIAL = """
import os, signal, sys
from pathlib import Path
import numpy as np
from autoslim.data import decoders
decoders.decode_elsewhere(Path(sys.argv[1]), (12, 12), np.arange(4))
pid = decoders._idle[0].process.pid
maps = Path(f"/proc/{pid}/maps").read_text()
print(pid, "libtorch" in maps, "ray" in sys.modules, "torch" in sys.modules, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_holds_no_torch_and_ends_with_a_trial_that_is_killed(sets):
    command = [sys.executable, "-c", _TRIAL, str(sets[1].path / "train.arrow")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid, *imported = done.stdout.split()
    assert imported == ["False"] * 3
    until = time.monotonic() + 10
    while not has_ended(pid):
        assert time.monotonic() < until
        time.sleep(0.05)


def has_ended(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    # It waits to be collected, in a container where nobody does.
    return state == "Z"
