"""The forms that a job asks for are checked before anything is read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from helpers.sample_search import make_job

from autoslim.core.job import DatasetSpec
from autoslim.errors import MissingExtraError
from workers.search.prepare import prepare


def test_a_runtime_that_is_missing_is_named_before_the_images_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    job = make_job(str(tmp_path), forms=("onnx", "openvino"), dataset=DatasetSpec(source=str(tmp_path / "nowhere")))
    with pytest.raises(MissingExtraError, match=r"'autoslim\[openvino\]'"):
        prepare(job, tmp_path / "cache")
