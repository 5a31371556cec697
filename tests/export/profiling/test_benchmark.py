"""Speed is measured in turns, told with its spread, and what cannot be measured is told with the reason."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny import config_of, images, make_dense, slim

from autoslim.cli.parsing import CliInput, spec_of
from autoslim.core.speed import SpeedReport, Timing
from autoslim.errors import ExportError, JobError, RequestError
from autoslim.export.artifact import save
from autoslim.export.profiling import measure_in_subprocess, runners
from autoslim.export.profiling.benchmark import measure
from autoslim.export.profiling.interleaved import WARM_UP, ratio, time_interleaved
from autoslim.models import write_folder
from autoslim.report.card_speed import speed_section


def test_a_race_goes_in_turns_and_back_again():
    order: list[str] = []
    timings = time_interleaved([lambda: order.append("a"), lambda: order.append("b")], seconds=0.0, at_least=4)
    assert [len(own) for own in timings] == [4, 4]
    assert "".join(order) == "a" * WARM_UP + "b" * WARM_UP + "abbaabba"


def test_the_ratio_is_that_of_each_round():
    """A machine that slows down for both does not show."""
    assert ratio([2.0, 4.0, 200.0, 6.0, 8.0], [1.0, 2.0, 100.0, 3.0, 4.0]) == (2.0, 2.0, 2.0)
    middle, low, high = ratio([1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5)
    assert (low, middle, high) == (2.0, 3.0, 4.0)


def test_both_models_run_in_every_mode_and_batch(monkeypatch: pytest.MonkeyPatch):
    dense = make_dense()
    slimmed = slim("life_regression", dense, share=0.5).model
    seen: list[tuple[str, int]] = []

    def way(model, shape, device):
        name = "dense" if model is dense.module else "slimmed"
        return lambda x: seen.append((name, len(x)))

    monkeypatch.setattr(runners, "BACKENDS", {"eager": way})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    report = measure(slimmed, dense.module, dense.shape, images(3), modes=("eager",), batches=(1, 8), seconds=0.0)
    assert [(timing.mode, timing.device, timing.batch) for timing in report.timings] == [("eager", "cpu", 1), ("eager", "cpu", 8)]
    assert set(seen) == {("dense", 1), ("slimmed", 1), ("dense", 8), ("slimmed", 8)}
    assert report.threads == torch.get_num_threads() and report.hardware


def test_a_mode_that_cannot_run_is_left_out_with_its_reason(monkeypatch: pytest.MonkeyPatch):
    def refuses(model, shape, device):
        raise ExportError("there is no compiler")

    def breaks(model, shape, device):
        raise ZeroDivisionError("oh\ndear")

    monkeypatch.setattr(runners, "BACKENDS", {"eager": breaks, "compiled": refuses})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    dense = make_dense()
    report = measure(dense.module, dense.module, dense.shape, images(2), modes=("eager", "compiled"), batches=(1,))
    assert report.timings == ()
    assert report.left_out == {"eager on cpu": "ZeroDivisionError: oh", "compiled on cpu": "there is no compiler"}


def test_an_unknown_mode_is_named():
    dense = make_dense()
    with pytest.raises(RequestError, match="'tensorrt' is unknown; allowed: eager, compiled, onnxruntime"):
        measure(dense.module, dense.module, dense.shape, images(2), modes=("tensorrt",))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    dense = make_dense("vit")
    finished = slim("sit", dense, share=0.5)
    config = config_of("sit", dense, finished)
    save(tmp_path / "slim", finished.model, config)
    write_folder(tmp_path / "dense", dense.module, dense.architecture, preprocessing=dense.preprocessing, classes=config.classes)
    return tmp_path / "slim", tmp_path / "dense"


@pytest.mark.slow
def test_it_is_measured_in_a_process_of_its_own(folders: tuple[Path, Path]):
    report = measure_in_subprocess(*folders, images(4), modes=("eager", "onnxruntime"), threads=1)
    cpu = [timing for timing in report.timings if timing.device == "cpu"]
    assert [(timing.mode, timing.batch) for timing in cpu] == [
        ("eager", 1),
        ("eager", 64),
        ("onnxruntime", 1),
        ("onnxruntime", 64),
    ]
    assert report.threads == 1
    for timing in cpu:
        assert timing.low <= timing.speedup <= timing.high
        assert timing.rounds >= 5
        assert timing.dense_ms > 0 and timing.slimmed_ms > 0
    assert SpeedReport.from_json(report.to_json()) == report


@pytest.mark.slow
def test_compiled_models_are_measured_too(folders: tuple[Path, Path]):
    report = measure_in_subprocess(*folders, images(4), modes=("compiled",), threads=1)
    assert [(timing.mode, timing.batch) for timing in report.timings if timing.device == "cpu"] == [
        ("compiled", 1),
        ("compiled", 64),
    ]


@pytest.mark.slow
def test_a_folder_that_cannot_be_read_says_so(folders: tuple[Path, Path], tmp_path: Path):
    with pytest.raises(JobError, match=r"its process ended with 1: .*holds no slimmed model"):
        measure_in_subprocess(tmp_path / "nothing", folders[1], images(2), modes=("eager",))


@pytest.mark.slow
def test_images_are_read_without_pickle(folders: tuple[Path, Path], tmp_path: Path):
    np.save(tmp_path / "images.npy", np.array([object()]), allow_pickle=True)
    command = [sys.executable, "-m", "autoslim.export.profiling.benchmark", *map(str, folders), str(tmp_path / "images.npy")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode != 0 and "allow_pickle=False" in run.stderr


def timing(mode: str, batch: int, speedup: float) -> Timing:
    return Timing(
        mode=mode, device="cpu", batch=batch, dense_ms=20.0, slimmed_ms=20 / speedup, speedup=speedup, low=0.9, high=1.3, rounds=9
    )


def card(*timings: Timing, **left_out: str) -> str:
    dense = make_dense()
    config = config_of("sit", dense, slim("sit", dense, share=0.5))
    return speed_section(config.replace(speed=SpeedReport(hardware="a chip", threads=2, timings=timings, left_out=left_out)))


def test_a_model_that_is_not_faster_at_batch_1_is_said_so_plainly():
    text = card(
        timing("eager", 1, 0.97), timing("eager", 64, 1.5), timing("onnxruntime", 1, 1.2), compiled="there is no compiler"
    )
    assert "**At batch 1 it is not faster than the dense model**: eager on the CPU (0.97 times as fast)." in text
    assert "| eager, cpu | 64 | 20 | 13.3 | 4,800 | 1.50 (0.90-1.30) unreliable |" in text
    assert "Times as fast is the median over all rounds of the ratio of both times in one round" in text
    assert "It is unreliable where the quartiles lie more than 20% of it apart" in text
    assert "Not measured: compiled, because there is no compiler." in text
    steady = card(timing("eager", 1, 1.1).replace(low=1.05, high=1.15))
    assert "not faster" not in steady and "unreliable" not in steady


def test_modes_are_typed_as_a_list_or_none():
    def modes(text: str) -> tuple[str, ...]:
        flags = {"model": "m", "data": "d", "flops": ["50%"], "speed": text}
        return spec_of(CliInput(flags=flags, environment={}), None).speed

    assert modes("none") == ()
    assert modes("eager,onnxruntime") == ("eager", "onnxruntime")
    with pytest.raises(RequestError, match="--speed is 'fast'; allowed: eager, compiled, onnxruntime"):
        modes("eager,fast")
