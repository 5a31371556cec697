"""Nothing in a step of training waits for the device: no value is read, and no shape depends on one.

On a CPU each step is watched for the operators by which values are read; those that reach no operator are looked for in the sources.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.marks import every_method
from torch.utils._python_dispatch import TorchDispatchMode

from autoslim.core.recipe import Recipe
from autoslim.methods import METHODS, losses
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
        for owner, name in ((BatchUpdate, "__call__"), (Trainer, "_mix"), (DivergenceWatch, "observe")):
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
@pytest.mark.parametrize("method", METHODS)
def test_no_step_waits_for_a_gpu(
    method: str, precision: str, base: Path, digits, make_recipe: Callable[..., Recipe], drain, tmp_path: Path, monkeypatch
):
    context = TrialContext.open(base=base, dataset=digits.path, device=torch.device("cuda"))
    with watched(monkeypatch, steps_that_may_not_wait):
        drain(run_trial(make_recipe(method, epochs=0.7, mixup=0.2, precision=precision, grad_accum_steps=2), context, tmp_path))
