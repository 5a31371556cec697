"""Speed of each slimmed model beside the dense one, by mode and batch, and the share of the FLOPs' ratio that it is."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import nn

from autoslim.core.shape import ViTShape
from autoslim.errors import ExportError, first_line
from autoslim.export.profiling import runners
from autoslim.export.profiling.interleaved import ratio, time_interleaved
from autoslim.training.device import pick_device
from device_parts.extent import DENSE, Clock, Extent, Finding, dense_model, slimmed_models

Backend = Callable[[nn.Module, ViTShape, torch.device], runners.Runner]
_COMPILING = 30.0
"""Seconds that a model and a batch may take to compile."""


def eager(extent: Extent, clock: Clock, scratch: Path) -> Iterator[Finding]:
    """As the models are, and in ONNX Runtime."""
    yield from _measured("eager", runners.eager, extent, clock, 0)
    yield from _measured("ONNX Runtime", runners.onnxruntime, extent, clock, 0)


def compiled(extent: Extent, clock: Clock, scratch: Path) -> Iterator[Finding]:
    """By torch.compile, and on a GPU as CUDA graphs, too, where single images gain most."""
    if pick_device().type != "cuda":
        yield from _measured("compiled", runners.compiled, extent, clock, _COMPILING, batches=(extent.one,))
        yield Finding(what="CUDA graphs", skipped="no GPU")
        return
    without_graphs = partial(runners.compiled, cuda_graphs=False)
    yield from _measured("CUDA graphs", runners.compiled, extent, Clock(clock.left / 2), _COMPILING, batches=(extent.one,))
    yield from _measured("compiled", without_graphs, extent, clock, _COMPILING, batches=(extent.many,))


def _measured(
    mode: str, backend: Backend, extent: Extent, clock: Clock, compiling: float, *, batches: tuple[int, ...] = ()
) -> Iterator[Finding]:
    dense, device = dense_model(extent), pick_device()
    shape, reference = dense.shape, None
    for name, model, share in slimmed_models(extent, dense):
        sizes = batches or (extent.one, extent.many)
        what = f"{name}, {mode}, batch"
        if clock.left < compiling * len(sizes):
            yield Finding(what=f"{what} {', '.join(map(str, sizes))}", skipped="no time is left")
            continue
        try:
            run = backend(model.eval(), shape, device)
            reference = reference or run
            for size in sizes:
                yield _beside(reference, run, torch.randn(size, 3, *shape.image_size), f"{what} {size}", share, extent)
        # Compilers raise errors of any class.
        except ExportError as error:
            yield Finding(what=mode, skipped=first_line(error))
            return
        except Exception as error:  # noqa: BLE001 - the other models are still measured
            yield Finding(what=f"{what} {', '.join(map(str, sizes))}", skipped=f"{type(error).__name__}: {first_line(error)}")


def _beside(
    reference: runners.Runner, run: runners.Runner, images: torch.Tensor, what: str, share: float, extent: Extent
) -> Finding:
    slow, fast = time_interleaved([partial(reference, images), partial(run, images)], seconds=extent.seconds)
    ms = 1000 * statistics.median(fast)
    numbers = {"ms": ms, "images/s": 1000 * len(images) / ms}
    if not what.startswith(DENSE):
        speedup = ratio(slow, fast)[0]
        numbers |= {"times dense": speedup, "of the FLOPs": share, "of the FLOPs' ratio": speedup * share}
    return Finding(what=what, numbers=numbers)
