"""What `test_fuzz.py` asks of drawn values, asked of bytes that are changed until they reach more branches: bounded runs of Atheris."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("atheris") is None, reason="atheris is not installed; it has wheels for Linux on x86-64 only"
    ),
]

FUZZERS = Path(__file__).parent / "fuzzers"
RUNS = 20_000
SPEC = {"model": "deit_tiny_patch16_224", "weights": "scratch", "data": "digits", "flops": ["50%", "2.3G"], "max_hours": 1.5}


def specs() -> dict[str, bytes]:
    return {
        "json": json.dumps(SPEC).encode(),
        "yaml": b"model: deit_tiny_patch16_224\nweights: scratch\ndata: digits\nflops: [50%, 2.3G]\nlr: {low: 1e-4, high: 1e-2}\n",
    }


def images() -> dict[str, bytes]:
    image, found = Image.fromarray((np.arange(768) % 256).astype(np.uint8).reshape(16, 16, 3)), {}
    for form in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        image.save(file := io.BytesIO(), form)
        found[form] = file.getvalue()
    return found


def fuzz(
    name: str, seeds: dict[str, bytes], folder: Path, *, runs: int, before: str = "pass"
) -> subprocess.CompletedProcess[str]:
    """`before` is run before the fuzzer. What it finds is written into `folder`, and its inputs into `folder / "corpus"`."""
    corpus = folder / "corpus"
    corpus.mkdir()
    for seed, data in seeds.items():
        (corpus / seed).write_bytes(data)
    code = f"import atheris, runpy, sys\nsys.argv = sys.argv[1:]\n{before}\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    limits = (f"-runs={runs}", "-seed=1", "-max_len=4096", "-timeout=60", "-rss_limit_mb=4096", f"-artifact_prefix={folder}/")
    program = [sys.executable, "-c", code, FUZZERS / f"{name}.py", *limits, corpus]
    return subprocess.run(program, capture_output=True, text=True, errors="replace", timeout=280)


@pytest.mark.parametrize(("name", "seeds"), [("job_spec", specs), ("image", images)], ids=["job_spec", "image"])
def test_whatever_reaches_a_branch_is_taken_or_refused(name: str, seeds: Callable[[], dict[str, bytes]], tmp_path: Path) -> None:
    done = fuzz(name, seeds(), tmp_path, runs=RUNS)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert f"Done {RUNS} runs" in done.stderr
    assert len(list((tmp_path / "corpus").iterdir())) > 2 * len(seeds()), "it has not seen what its inputs reach"


LEAKING_SPEC = "import autoslim.config.reading as reading; reading.validated = lambda model, read: read()"
LEAKING_IMAGE = """
with atheris.instrument_imports(include=["autoslim.data.decode", "PIL"]):
    import autoslim.data.decode as decode
decode._DECODE_ERRORS = ()
"""


@pytest.mark.parametrize(
    ("name", "seeds", "before"),
    [("job_spec", specs, LEAKING_SPEC), ("image", images, LEAKING_IMAGE)],
    ids=["job_spec", "image"],
)
def test_an_error_of_another_kind_is_found(name: str, seeds: Callable[[], dict[str, bytes]], before: str, tmp_path: Path) -> None:
    done = fuzz(name, seeds(), tmp_path, runs=RUNS, before=before)
    assert done.returncode != 0
    assert list(tmp_path.glob("crash-*")), done.stderr[-4000:]
