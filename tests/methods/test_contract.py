"""What every slimming method promises (`helpers.method_contract`), on every kind of model: the registry is the test matrix."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.marks import CI_ONLY, DISTINCT, ONE_OF_A_KIND
from helpers.method_contract import OF_A_METHOD, OF_A_MODEL, dynamic_batch, exports_with_a_dynamic_batch
from helpers.tiny import (
    KINDS,
    attached,
    config_of,
    images,
    logits,
    make_dense,
    method_of,
    method_tests,
    slimmed,
    solved_knobs,
    variant_knobs,
)

from autoslim.errors import UnsupportedModelError
from autoslim.export.artifact import save
from autoslim.methods import METHODS
from autoslim.methods.base import logits_of

NAMES = [*METHODS, *(f"{name}:{variant}" for name in METHODS for variant in getattr(method_tests(name), "VARIANTS", {}))]
"""Methods and their variants."""

SHAPES = {model: make_dense(model).shape for model in KINDS}
"""Read once: every method and variant is asked for every one of them."""


def handles(method: str, model: str) -> bool:
    """Methods and variants refuse models by name; that is tested where they are."""
    shape = SHAPES[model]
    try:
        method_of(method).check(shape)
        method_of(method).repair(shape, variant_knobs(method))
    except UnsupportedModelError:
        return False
    return True


CASES = [(method, model) for method in NAMES for model in KINDS if handles(method, model)]
# Methods on one kind with two prefix tokens, and for CI their variants and one kind with none: what the others add is tested by everything
# that is slow.
FAST = [(m, k) for m, k in CASES if m in DISTINCT and k == "distilled"]
IN_CI = [(m, k) for m, k in CASES if k == ("average without class token" if m in DISTINCT else "distilled")]
each_case = pytest.mark.parametrize(
    ("method", "model"),
    [pytest.param(*case, marks=() if case in FAST else CI_ONLY if case in IN_CI else pytest.mark.slow) for case in CASES],
)
# Compilers and exporters are slow; what differs between kinds of models are prefix and pooling: one kind a method is enough each time.
# Variants, too, are exported where everything slow is tested.
EXPORTS = [pytest.param(m, k, marks=CI_ONLY if k == "distilled" and m in ONE_OF_A_KIND else pytest.mark.slow) for m, k in CASES]
each_export = pytest.mark.parametrize(("method", "model"), EXPORTS)
each_method = pytest.mark.parametrize(
    "method", [*DISTINCT, *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES if name not in DISTINCT)]
)


@pytest.mark.parametrize("promise", OF_A_MODEL, ids=lambda promise: promise.__name__)
@each_case
def test_every_method_keeps_what_is_promised_of_a_model(promise: Callable[[str, str], None], method: str, model: str):
    promise(method, model)


@pytest.mark.parametrize("promise", OF_A_METHOD, ids=lambda promise: promise.__name__)
@each_method
def test_every_method_keeps_what_is_promised_of_a_method(promise: Callable[[str], None], method: str):
    promise(method)


_LOAD_ALL = """
import json, sys
from pathlib import Path
import safetensors.torch
import torch
from autoslim.export.artifact import load

folders = [Path(line) for line in sys.argv[2:]]
x = safetensors.torch.load_file(sys.argv[1])["images"]
for folder in folders:
    with torch.no_grad():
        safetensors.torch.save_file({"logits": load(folder)(x)}, folder / "logits.safetensors")
assert not [name for name in ("ray", "optuna", "mlflow") if name in sys.modules]
print(json.dumps(len(folders)))
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[tuple[str, str], Path]:
    """Every case that is tested, saved here, and loaded and run in one other process."""
    import safetensors.torch

    asked = {
        (item.callspec.params["method"], item.callspec.params["model"])
        for item in request.session.items
        if "saved" in item.fixturenames and item.path == request.path
    }

    root = tmp_path_factory.mktemp("saved")
    safetensors.torch.save_file({"images": images()}, root / "images.safetensors")
    folders = {}
    for number, (method, model) in enumerate(sorted(asked)):
        dense, finished = slimmed(method, model)
        folders[method, model] = root / str(number)
        save(root / str(number), finished.model, config_of(method, dense, finished))
    command = [sys.executable, "-c", _LOAD_ALL, str(root / "images.safetensors"), *map(str, folders.values())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == len(asked)
    return folders


# Another process, which imports everything.
@pytest.mark.parametrize(
    ("method", "model"),
    [pytest.param(m, k, marks=CI_ONLY if (m, k) in FAST and m in ONE_OF_A_KIND else pytest.mark.slow) for m, k in CASES],
)
def test_saved_model_gives_equal_logits_in_a_fresh_process(method: str, model: str, saved: dict[tuple[str, str], Path]):
    import safetensors.torch

    there = safetensors.torch.load_file(saved[method, model] / "logits.safetensors")["logits"]
    torch.testing.assert_close(there, logits(slimmed(method, model)[1].model, images()), rtol=1e-6, atol=1e-6)


@each_case
@pytest.mark.parametrize("batch", [1, 3])
def test_runs_in_every_precision_and_mode(method: str, model: str, batch: int):
    finished = slimmed(method, model)[1]
    expected = logits(finished.model, images(3))[:batch]
    double = copy.deepcopy(finished.model).to(torch.float64)
    torch.testing.assert_close(logits(double, images(batch, dtype=torch.float64)).float()[0], expected[0], rtol=1e-3, atol=1e-3)
    for dtype in (torch.bfloat16, torch.float16):
        half = logits(copy.deepcopy(finished.model).to(dtype), images(batch, dtype=dtype))
        assert half.dtype == dtype
        assert torch.isfinite(half).all()
    for mode in (True, False):
        assert logits(copy.deepcopy(finished.model).train(mode), images(batch)).shape == (batch, 10)
    torch.testing.assert_close(logits(finished.model, images(3))[:1], logits(finished.model, images(3)[:1]), rtol=1e-4, atol=1e-4)


@each_case
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_runs_on_a_gpu(method: str, model: str):
    finished = slimmed(method, model)[1]
    moved = copy.deepcopy(finished.model).to("cuda", torch.float64)
    there = logits(moved, images(dtype=torch.float64).to("cuda")).cpu()
    here = logits(copy.deepcopy(finished.model).double(), images(dtype=torch.float64))
    torch.testing.assert_close(there, here, rtol=1e-8, atol=1e-8)


@each_export
@pytest.mark.parametrize("batch", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_compiles_into_one_graph(method: str, model: str, batch: int):
    finished = slimmed(method, model)[1]
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(finished.model), backend="eager", fullgraph=True)
    x = images(batch)
    torch.testing.assert_close(logits(compiled, x), logits(finished.model, x), rtol=1e-4, atol=1e-4)


third_party_warnings = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


# The export to ONNX begins with this one.
@each_export
@pytest.mark.slow
@third_party_warnings
def test_exports_with_a_dynamic_batch(method: str, model: str):
    exports_with_a_dynamic_batch(method, model)


@each_method
@pytest.mark.slow
@third_party_warnings
def test_compiled_code_gives_equal_logits(method: str):
    finished = slimmed(method, "distilled")[1]
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(finished.model))
    for batch in (1, 3):
        x = images(batch)
        torch.testing.assert_close(logits(compiled, x), logits(finished.model, x), rtol=1e-4, atol=1e-4)


# An export takes seconds; CI has those of `tests/export`.
@pytest.mark.slow
@pytest.mark.parametrize(("method", "model"), CASES)
@third_party_warnings
def test_onnx_gives_equal_logits_with_a_dynamic_batch(method: str, model: str, tmp_path: Path):
    onnxruntime = pytest.importorskip("onnxruntime")
    finished = slimmed(method, model)[1]
    path = tmp_path / "model.onnx"
    torch.onnx.export(
        finished.model, (images(3),), path, dynamo=True, dynamic_shapes=(dynamic_batch(),), input_names=["images"], verbose=False
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        x = images(batch)
        (there,) = session.run(None, {"images": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(there), logits(finished.model, x), rtol=1e-3, atol=1e-4)


@each_case
@pytest.mark.parametrize("form", ["training", "pruned"])
def test_gradient_checkpointing_changes_nothing(method: str, model: str, form: str):
    dense, finished = slimmed(method, model)
    knobs = solved_knobs(method, dense.shape)
    plain = attached(method, dense, knobs) if form == "training" else copy.deepcopy(finished.model)
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing(True)
    results = []
    for student in (plain, saving):
        student.train()
        out = logits_of(student(images()))
        if not out.requires_grad:
            pytest.skip("before pruning nothing is trained through the logits")
        out.square().sum().backward()
        results.append((out.detach(), {name: p.grad for name, p in student.named_parameters() if p.requires_grad}))
    (logits_plain, grads_plain), (logits_saving, grads_saving) = results
    assert torch.equal(logits_plain, logits_saving)
    assert grads_plain.keys() == grads_saving.keys() != set()
    for name, grad in grads_plain.items():
        torch.testing.assert_close(grads_saving[name], grad, rtol=1e-6, atol=1e-7)


def test_the_soft_form_of_life_regression_refuses_an_attention_mask():
    dense = make_dense()
    student = attached("life_regression", dense, solved_knobs("life_regression", dense.shape))
    with pytest.raises(UnsupportedModelError, match="no attention mask"):
        student.forward_features(images(), attn_mask=torch.zeros(dense.shape.tokens, dense.shape.tokens))
