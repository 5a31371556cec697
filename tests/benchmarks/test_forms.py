"""`benchmarks/forms.py`: its tables say what was exported, and what is finished is not made again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import forms
import pytest

TIMES = {"dense_ms": 2.0, "speedup": 2.0, "low": 1.9, "high": 2.1}


def found(folder: Path) -> dict[str, Any]:
    (folder / "openvino").mkdir(parents=True)
    for name, size in {"model.safetensors": 2_000_000, "model.onnx": 1_000_000, "openvino/model.xml": 250_000}.items():
        (folder / name).write_bytes(b"0" * size)
    (folder / "openvino" / "model.bin").write_bytes(b"0" * 250_000)
    timings = [{"mode": "onnx", "batch": batch, "slimmed_ms": 1.0 * batch, **TIMES} for batch in (1, 64)]
    return {
        "folder": str(folder),
        "images": 1000,
        "accuracy": 0.7,
        "forms": [
            {"name": "onnx", "file": "model.onnx", "accuracy": 0.7, "drop": 0.0, "made": ""},
            {"name": "openvino", "file": "openvino", "accuracy": 0.699, "drop": 0.1},
            {"name": "pt2", "file": "", "reason": "it cannot"},
        ],
        "speed": {"hardware": "a chip", "threads": 2, "timings": timings},
    }


def test_every_file_has_a_row_of_equal_length(tmp_path: Path):
    text = forms.tables("width", found(tmp_path / "model"))
    head, _, *rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows == [
        "| `model.safetensors` | 70.00% | | 2.00 | | |",
        "| `model.onnx` | 70.00% | +0.00 | 1.00 | 1 ms, 2.00 (1.90-2.10) | 64 ms, 2.00 (1.90-2.10) |",
        "| `openvino` | 69.90% | +0.10 | 0.50 |  |  |",
        "| pt2 | not made: it cannot | | | | |",
    ]
    assert {row.count("|") for row in rows} == {head.count("|")}
    assert "1000 test images; a chip, 2 threads" in text


def test_what_is_finished_is_not_made_again(tmp_path: Path):
    (tmp_path / "width.json").write_text(json.dumps({"images": 7}))
    assert forms.exported("width", tmp_path, lambda: pytest.fail("made again"), tmp_path) == {"images": 7}


def test_a_searched_model_is_copied_whole_once(tmp_path: Path):
    model = tmp_path / "run" / "models" / "50%"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (tmp_path / ".searched-50%.partial").mkdir()
    folder = forms.copied(model, tmp_path)
    assert (folder / "config.json").read_text() == "{}"
    (folder / "config.json").write_text("exported")
    assert (forms.copied(model, tmp_path) / "config.json").read_text() == "exported"
    assert (model / "config.json").read_text() == "{}"
