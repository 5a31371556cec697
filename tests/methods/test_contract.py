"""What every slimming method promises, on every kind of model: the registry is the test matrix."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.tiny import (
    MODELS,
    attach,
    attached,
    config_of,
    images,
    logits,
    loss_of,
    make_dense,
    method_of,
    method_tests,
    prune,
    share_of_dense,
    slim,
    slimmed,
    solved_knobs,
    train,
    variant_knobs,
)
from torch import Tensor, nn

from autoslim.core.plan import Plan
from autoslim.cost import COUNTERS_AGREE_WITHIN, count_flops, count_flops_torch, predict, predict_params
from autoslim.errors import UnsupportedModelError
from autoslim.export.artifact import save
from autoslim.methods import METHODS
from autoslim.methods.base import logits_of
from autoslim.methods.layers.adaptive_trunk import padded
from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.methods.life_regression.regressor import SoftLifeTrunk
from autoslim.models import DenseModel

NAMES = [*METHODS, *(f"{name}:{variant}" for name in METHODS for variant in getattr(method_tests(name), "VARIANTS", {}))]
"""Methods and their variants."""


def handles(method: str, model: str) -> bool:
    """Methods and variants refuse models by name; that is tested where they are."""
    shape = make_dense(model).shape
    try:
        method_of(method).check(shape)
        method_of(method).repair(shape, variant_knobs(method))
    except UnsupportedModelError:
        return False
    return True


CASES = [(method, model) for method in NAMES for model in MODELS if handles(method, model)]
each_case = pytest.mark.parametrize(("method", "model"), CASES)
each_method = pytest.mark.parametrize("method", NAMES)


@each_case
def test_keeping_everything_leaves_the_logits_as_they_were(method: str, model: str):
    dense = make_dense(model)
    knobs = method_of(method).repair(dense.shape, {**variant_knobs(method), **method_tests(method.partition(":")[0]).KEEP_ALL})
    student = attach(method, dense, knobs, share=2.0)
    extras = method_of(method).expect(dense.shape, Plan.dense(dense.shape), knobs).extras
    share = 1 + sum(e.matmuls + e.norms for e in extras) / predict(dense.shape, Plan.dense(dense.shape)).total + 1e-9
    finished = prune(method, student, dense.shape, knobs, share)
    assert finished.plan.blocks == Plan.dense(dense.shape).blocks
    torch.testing.assert_close(logits(finished.model, images()), logits(dense.module, images()), rtol=1e-5, atol=1e-5)


@each_case
def test_prefix_tokens_survive_every_cut_in_their_places(method: str, model: str):
    dense, finished = slimmed(method, model)
    prefix, seen = dense.shape.prefix_tokens, []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        # A block that drops inside takes and gives the counts along with the tokens.
        entered, left = (getattr(side, "x_BND", side) for side in (inputs[0], output))
        seen.append((entered[:, :prefix], left[:, :prefix]))

    hooks = [block.register_forward_hook(note) for block in blocks_of(finished.model)]
    logits(finished.model, images())
    for hook in hooks:
        hook.remove()
    for (_, left), (entered, _) in itertools.pairwise(seen):
        assert entered.shape[1] == prefix
        assert torch.equal(left, entered)


@each_case
def test_flops_measured_are_those_predicted_and_within_the_budget(method: str, model: str):
    dense, finished = slimmed(method, model)
    predicted = predict(dense.shape, finished.plan)
    assert count_flops(finished.model, 32) == predicted.total <= share_of_dense(dense.shape, 0.6)
    matmuls = predicted.matmuls + sum(extra.matmuls for extra in finished.plan.extras)
    with padded(finished.model):
        assert abs(count_flops_torch(finished.model, 32) - matmuls) <= COUNTERS_AGREE_WITHIN * matmuls
    finished.plan.check(dense.shape)


@each_case
def test_parameters_are_those_of_the_plan(method: str, model: str):
    dense, finished = slimmed(method, model)
    assert predict_params(dense.shape, Plan.dense(dense.shape)) == sum(p.numel() for p in dense.module.parameters())
    assert predict_params(dense.shape, finished.plan) == sum(p.numel() for p in finished.model.parameters())


@each_case
def test_priced_modules_are_those_of_the_plan(method: str, model: str):
    """What the latency table measures has the FLOPs and the parameters that the plan prices."""
    dense, finished = slimmed(method, model)
    shape, tokens = dense.shape, dense.shape.tokens
    priced = {int(extra.place.removeprefix("block ")): extra for extra in finished.plan.extras if extra.place != "head"}
    for index, block in enumerate(finished.plan.blocks):
        if index in priced:
            left = min(block.tokens_kv, block.tokens_q)
            module = method_of(method).priced_modules()[priced[index].name](shape, tokens, left)
            x_1ND = torch.randn(1, tokens, shape.dim)
            assert count_flops(module, 32, x_1ND) == priced[index].matmuls + priced[index].norms
            assert sum(p.numel() for p in module.parameters()) == priced[index].params
        tokens = block.tokens_mlp


@each_case
def test_masked_training_form_and_cut_form_agree(method: str, model: str):
    name, _, variant = method.partition(":")
    method_tests(name).check_training_form_is_pruned_form(model, *([variant] if variant else []))


@each_case
def test_gradients_reach_every_trainable_part(method: str, model: str):
    dense = make_dense(model)
    knobs = solved_knobs(method, dense.shape)
    student = attach(method, dense, knobs)
    _assert_all_learn(method, dense, student, knobs)
    finished = prune(method, student, dense.shape, knobs)
    x = images(4)
    logits_of(finished.model.train()(x)).square().sum().backward()
    _assert_gradients(finished.model)


def _assert_all_learn(method: str, dense: DenseModel, student: nn.Module, knobs: dict) -> None:
    if not any(p.requires_grad for p in student.parameters()):
        return
    student.train()
    loss_of(method, dense, student, knobs).backward()
    _assert_gradients(student)
    student.zero_grad()


def _assert_gradients(model: nn.Module) -> None:
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert [name for name, grad in trained.items() if grad is None or not grad.abs().sum() > 0] == []
    assert all(torch.isfinite(grad).all() for grad in trained.values())


@each_case
def test_no_part_that_only_training_needs_is_left(method: str, model: str):
    dense, finished = slimmed(method, model)
    assert not isinstance(finished.model.blocks, SoftLifeTrunk)
    assert [type(m).__name__ for m in finished.model.modules() if "Gate" in type(m).__name__ or "Soft" in type(m).__name__] == []
    assert [name for name in finished.model.state_dict() if "zeta" in name] == []
    fresh = method_of(method).build(copy.deepcopy(dense.module), dense.shape, finished.plan, finished.knobs)
    assert fresh.state_dict().keys() == finished.model.state_dict().keys()


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
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Every case saved here, and loaded and run in one other process."""
    import safetensors.torch

    root = tmp_path_factory.mktemp("saved")
    safetensors.torch.save_file({"images": images()}, root / "images.safetensors")
    folders = {}
    for number, (method, model) in enumerate(CASES):
        dense, finished = slimmed(method, model)
        folders[method, model] = root / str(number)
        save(root / str(number), finished.model, config_of(method, dense, finished))
    command = [sys.executable, "-c", _LOAD_ALL, str(root / "images.safetensors"), *map(str, folders.values())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == len(CASES)
    return folders


@each_case
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


@each_method
def test_two_models_in_one_process_do_not_disturb_each_other(method: str):
    dense = make_dense()
    first = slim(method, dense, share=0.7).model
    before, dense_before = logits(first, images()), logits(dense.module, images())
    second = slim(method, dense, share=0.4, steps=1).model
    alone = logits(copy.deepcopy(second), images())
    assert torch.equal(logits(first, images()), before)
    assert torch.equal(logits(second, images()), alone)
    assert torch.equal(logits(dense.module, images()), dense_before)
    assert not torch.equal(before, alone)


@each_case
def test_same_seed_gives_the_same_model(method: str, model: str):
    one, other = (slim(method, make_dense(model), steps=2) for _ in range(2))
    assert one.plan == other.plan
    assert one.knobs == other.knobs
    left, right = one.model.state_dict(), other.model.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@each_case
def test_pickles_and_copies(method: str, model: str):
    finished = slimmed(method, model)[1]
    expected = logits(finished.model, images())
    assert torch.equal(logits(pickle.loads(pickle.dumps(finished.model)), images()), expected)
    assert torch.equal(logits(copy.deepcopy(finished.model), images()), expected)


@each_method
def test_training_form_pickles_and_copies(method: str):
    dense = make_dense()
    student = attached(method, dense, solved_knobs(method, dense.shape)).eval()
    expected = logits(student, images())
    assert torch.equal(logits(pickle.loads(pickle.dumps(student)), images()), expected)
    assert torch.equal(logits(copy.deepcopy(student), images()), expected)


@each_case
@pytest.mark.parametrize("batch", [1, 3])
def test_compiles_into_one_graph(method: str, model: str, batch: int):
    finished = slimmed(method, model)[1]
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(finished.model), backend="eager", fullgraph=True)
    x = images(batch)
    torch.testing.assert_close(logits(compiled, x), logits(finished.model, x), rtol=1e-4, atol=1e-4)


# The exporters are slow; what differs between kinds of models are prefix and pooling, so that one kind a method is enough each time.
EXPORTS = [pytest.param(m, k, marks=() if k == "distilled" else pytest.mark.slow) for m, k in CASES]
each_export = pytest.mark.parametrize(("method", "model"), EXPORTS)
third_party_warnings = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def _dynamic_batch() -> dict[int, object]:
    return {0: torch.export.Dim("batch", min=1, max=64)}


@each_export
@third_party_warnings
def test_exports_with_a_dynamic_batch(method: str, model: str):
    finished = slimmed(method, model)[1]
    program = torch.export.export(finished.model, (images(3),), dynamic_shapes=(_dynamic_batch(),))
    for batch in (1, 5):
        x = images(batch)
        torch.testing.assert_close(program.module()(x), logits(finished.model, x), rtol=1e-4, atol=1e-4)


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


@each_export
@third_party_warnings
def test_onnx_gives_equal_logits_with_a_dynamic_batch(method: str, model: str, tmp_path: Path):
    onnxruntime = pytest.importorskip("onnxruntime")
    finished = slimmed(method, model)[1]
    path = tmp_path / "model.onnx"
    torch.onnx.export(
        finished.model, (images(3),), path, dynamo=True, dynamic_shapes=(_dynamic_batch(),), input_names=["images"], verbose=False
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        x = images(batch)
        (there,) = session.run(None, {"images": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(there), logits(finished.model, x), rtol=1e-3, atol=1e-4)


@each_case
@pytest.mark.parametrize("form", ["training", "cut"])
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


@each_case
def test_attention_masks_and_intermediates_are_refused(method: str, model: str):
    dense, finished = slimmed(method, model)
    mask = torch.zeros(dense.shape.tokens, dense.shape.tokens)
    with torch.no_grad():
        with pytest.raises(UnsupportedModelError, match="no attention mask"):
            finished.model.forward_features(images(), attn_mask=mask)
        with pytest.raises(UnsupportedModelError, match="no feature map per block"):
            finished.model.forward_intermediates(images())
        with pytest.raises(UnsupportedModelError, match="no feature map per block"):
            finished.model.get_intermediate_layers(images())


def test_the_soft_form_of_life_regression_refuses_an_attention_mask():
    dense = make_dense()
    student = attached("life_regression", dense, solved_knobs("life_regression", dense.shape))
    with pytest.raises(UnsupportedModelError, match="no attention mask"):
        student.forward_features(images(), attn_mask=torch.zeros(dense.shape.tokens, dense.shape.tokens))


@each_method
def test_training_moves_what_it_says_and_nothing_else(method: str):
    dense = make_dense()
    knobs = solved_knobs(method, dense.shape)
    student = attach(method, dense, knobs)
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    train(method, dense, student, knobs)
    for name, parameter in student.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name
