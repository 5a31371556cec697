"""Nothing in a step of training waits for the device: no value is read, and no shape depends on one.

On a CPU each step is watched for the operators by which values are read; those that reach no operator are looked for in the sources, and
copies to and from a GPU on one that is pretended.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.marks import CI_ONLY, DISTINCT, every_method
from helpers.pretended_gpu import move, on_gpu, pretended_gpu
from helpers.tiny import attached, make_dense, slim, solved_knobs
from timm.utils import ModelEmaV3
from torch.utils._python_dispatch import TorchDispatchMode

from autoslim.core.recipe import AUGMENTATIONS, Knobs, Recipe, TrainingSettings
from autoslim.data.augment import Augmentation
from autoslim.methods import METHODS, losses
from autoslim.methods.trainer import Tensors
from autoslim.training import TrialContext, batch, batch_parts, feature_loss, mixing, run_trial
from autoslim.training import losses as task_losses
from autoslim.training.batch_update import BatchUpdate
from autoslim.training.divergence import DivergenceWatch
from autoslim.training.loop import Trainer
from autoslim.training.rank_group import RankGroup
from autoslim.training.whole_batch import WholeBatch

READING = {
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
    "repeat_interleave",
}
"""Operators that read values, or whose results have as many elements as the values say."""
UNSEEN = re.compile(r"\.(item|tolist|cpu|numpy|synchronize)\(|torch\.tensor\(|torch\.from_numpy\(")
"""On a CPU they are no operators; new tensors of Python's numbers are copied to a GPU, which is waited for."""
STEP = ((Trainer, "_mix"), (BatchUpdate, "__call__"), (DivergenceWatch, "observe"), (ModelEmaV3, "update"))
"""What a step of the loop calls."""
OF_THE_LOOP = [BatchUpdate, mixing, Trainer._mix, Trainer._set_learning_rate, DivergenceWatch.observe]
OF_RANKS = [RankGroup.sum_gradients, RankGroup.mean, RankGroup.variance, WholeBatch._drawn, WholeBatch._batch_norm]
OF_LOSSES = [batch, batch_parts, feature_loss, task_losses, losses]
OF_METHODS = [function for method in METHODS.values() for function in (type(method).loss, type(method).finetune_loss)]


class Reads(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = name in ("index", "index_put_") and any(index is not None and index.dtype == torch.bool for index in args[1])
        if name in READING or masks:
            self.found.add(name)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def watched(monkeypatch: pytest.MonkeyPatch, context: Callable[[], contextlib.AbstractContextManager[Any]]) -> Iterator[None]:
    """Every step of every trainer is inside `context`."""
    with monkeypatch.context() as patch:
        for owner, name in STEP:
            patch.setattr(owner, name, _inside(getattr(owner, name), context))
        yield


def _inside(function: Callable[..., Any], context: Callable[[], contextlib.AbstractContextManager[Any]]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with context():
            return function(*args, **kwargs)

    return run


@pytest.mark.parametrize("method", every_method())
def test_no_step_reads_a_value(
    method: str, context: TrialContext, make_recipe: Callable[..., Recipe], drain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    reads = Reads()
    with watched(monkeypatch, lambda: reads):
        drain(run_trial(make_recipe(method, epochs=0.7, mixup=0.2), context, tmp_path))
    assert reads.found == set()


def test_a_step_that_reads_a_value_is_found():
    with Reads() as reads:
        assert torch.ones(2).sum() > 0
        torch.ones(2)[torch.tensor([True, False])]
    assert reads.found == {"_local_scalar_dense", "index"}


def test_no_source_of_a_step_copies_to_or_from_the_device():
    for part in [*OF_THE_LOOP, *OF_RANKS, *OF_LOSSES, *OF_METHODS]:
        assert UNSEEN.findall(inspect.getsource(part)) == [], part


def losses_on_a_gpu(method: str, knobs: Knobs, *, trains: bool) -> tuple[set[str], Tensors]:
    """The operators that copy between memory and GPU in the loss of a form of the model, and the loss."""
    dense = make_dense()
    if trains:
        own, loss = solved_knobs(method, dense.shape, knobs=knobs), METHODS[method].loss
        student = attached(method, dense, own)
    else:
        finished = slim(method, dense, knobs=knobs)
        student, own, loss = finished.model, finished.knobs, METHODS[method].finetune_loss
        if finished.companion is not None:
            student.companion = finished.companion
    teacher = copy.deepcopy(dense.module).eval()
    with pretended_gpu() as copies:
        given = batch.LazyDistillationBatch(
            move(student.train()),
            move(teacher),
            on_gpu(torch.empty(4, 3, *dense.shape.image_size)),
            on_gpu(torch.empty(4, dtype=torch.long)),
            TrainingSettings(),
            progress=0.25,
        )
        return copies.found, loss(own, given)


@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("method", every_method())
def test_no_loss_copies_between_memory_and_a_gpu(method: str, trains: bool):
    found, computed = losses_on_a_gpu(method, {}, trains=trains)
    assert found == set()
    assert {value.device.type for value in computed.values()} == {"cuda"}


OPTIONS: list[tuple[str, Knobs]] = [
    ("merge", {"embedding": "learned", "criteria": "several", "consistency": 1.0}),
    ("dps", {"counts": "pyramid", "learn_from": "task", "noise": 0.5, "gradual": 0.5}),
    ("life_regression", {"noise": 0.5, "gradual": 0.5, "diversity": 0.2}),
    ("patch_slimming", {"counts": "pyramid", "gradual": 0.5}),
    ("sit", {"slots": "image", "sizes": "patches"}),
]


@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize(("method", "knobs"), [pytest.param(*option, marks=CI_ONLY) for option in OPTIONS])
def test_no_options_loss_copies_between_memory_and_a_gpu(method: str, knobs: Knobs, trains: bool):
    assert losses_on_a_gpu(method, knobs, trains=trains)[0] == set()


def test_no_loss_of_features_copies_between_memory_and_a_gpu():
    dense, student = make_dense(), slim("merge", make_dense()).model
    with pretended_gpu() as copies:
        images_B3HW = on_gpu(torch.empty(4, 3, *dense.shape.image_size))
        feature_loss.feature_loss(move(student), move(dense.module), images_B3HW)
    assert copies.found == set()


@pytest.mark.parametrize("side", [32, 80])
@pytest.mark.parametrize(
    "augmentation", [pytest.param(name, marks=CI_ONLY if name == "strong" else ()) for name in AUGMENTATIONS]
)
def test_a_batch_is_made_on_a_gpu_without_a_copy(augmentation: str, side: int):
    stored, size = (side + 8, side + 8), (side, side)
    augment = Augmentation(augmentation, stored=stored, size=size, flip=True, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    draws = augment.draw(np.random.default_rng(0), 64, np.arange(64))
    with pretended_gpu() as copies:
        batch_B3hw = augment(on_gpu(torch.empty(64, *stored, 3, dtype=torch.uint8)), draws.moved(on_gpu))
    assert copies.found == set()
    assert batch_B3hw.device.type == "cuda"


def test_a_copy_to_a_gpu_and_a_value_that_is_read_are_found():
    with pretended_gpu() as copies:
        number = on_gpu(torch.empty(())) + torch.zeros(())
        assert copies.found == set()
        torch.zeros(3).to(number.device)
        assert copies.found == {"_to_copy"}
        with pytest.raises(RuntimeError):
            on_gpu(torch.empty(3)) + torch.zeros(3)
        with pytest.raises(Exception, match="_local_scalar_dense"):
            bool(number)


def steps_that_may_not_wait() -> contextlib.AbstractContextManager[None]:
    @contextlib.contextmanager
    def strict() -> Iterator[None]:
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return strict()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("precision", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("method", DISTINCT)
def test_no_step_waits_for_a_gpu(
    method: str, precision: str, base: Path, digits, make_recipe: Callable[..., Recipe], drain, tmp_path: Path, monkeypatch
):
    context = TrialContext.open(base=base, dataset=digits.path, device=torch.device("cuda"))
    with watched(monkeypatch, steps_that_may_not_wait):
        drain(run_trial(make_recipe(method, epochs=0.7, mixup=0.2, precision=precision, grad_accum_steps=2), context, tmp_path))
