"""Speed of each slimmed model beside the dense one, by mode and batch, and the share of the FLOPs' ratio that it is."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from autoslim.core.shape import ViTShape
from autoslim.errors import ExportError, first_line
from autoslim.export.profiling import runners
from autoslim.export.profiling.interleaved import ratio, time_interleaved
from autoslim.training.device import pick_device
from device_parts.cuda_graph import captured
from device_parts.extent import DENSE, Clock, Extent, Finding, dense_model, slimmed_models

Backend = Callable[[nn.Module, ViTShape, torch.device], runners.Runner]
Form = tuple[str, nn.Module, float]
"""A model by its name, and its share of the dense model's FLOPs."""


@dataclasses.dataclass
class Column:
    """One mode with the same images for all: each model is timed in turns with the first, the dense one."""

    mode: str
    images_B3HW: Tensor
    seconds: float
    dense: runners.Runner | None = None

    def what(self, name: str) -> str:
        return f"{name}, {self.mode}, batch {len(self.images_B3HW)}"

    def finding(self, form: Form, run: runners.Runner) -> Finding:
        name, _, share = form
        if name == DENSE:
            self.dense = run
        # Where the dense model could not run, the others are timed alone.
        dense = self.dense or run
        slow, fast = time_interleaved([partial(each, self.images_B3HW) for each in (dense, run)], seconds=self.seconds)
        ms = 1000 * statistics.median(fast)
        numbers = {"ms": ms, "images/s": 1000 * len(self.images_B3HW) / ms}
        if dense is not run:
            speedup = ratio(slow, fast)[0]
            numbers |= {"times dense": speedup, "of the FLOPs": share, "of the FLOPs' ratio": speedup * share}
        return Finding(what=self.what(name), numbers=numbers)


def eager(extent: Extent, clock: Clock, scratch: Path) -> Iterator[Finding]:
    """As the models are, and in ONNX Runtime."""
    dense, device = dense_model(extent), pick_device()
    for mode, backend in (("eager", runners.eager), ("ONNX Runtime", runners.onnxruntime)):
        columns = _columns(extent, dense.shape, (mode,), (extent.one, extent.many))
        measure = partial(_as_it_is, backend, dense.shape, device, columns)
        try:
            yield from each_in_time(slimmed_models(extent, dense), columns, clock, measure)
        except ExportError as error:
            yield Finding(what=mode, skipped=first_line(error))


def compiled(extent: Extent, clock: Clock, scratch: Path) -> Iterator[Finding]:
    """By torch.compile, and on a GPU as CUDA graphs of what it has compiled.

    A batch is compiled for by itself, whether or not a model is compiled for another one already. So all models at the batch of one come
    first: there whether each form is faster than the dense model is least certain.
    """
    dense, device = dense_model(extent), pick_device()
    forms = list(slimmed_models(extent, dense))
    on_gpu, took = device.type == "cuda", 0.0
    for size in (extent.one, extent.many):
        columns = _columns(extent, dense.shape, ("compiled", "CUDA graphs") if on_gpu else ("compiled",), (size,))
        measure = partial(_compiled, device, columns[0], columns[1] if on_gpu else None)
        try:
            took = yield from each_in_time(forms, columns, clock, measure, took=took)
        except ExportError as error:
            yield Finding(what="compiled", skipped=first_line(error))
            return
    if not on_gpu:
        yield Finding(what="CUDA graphs", skipped="no GPU")


def _columns(extent: Extent, shape: ViTShape, modes: Iterable[str], sizes: Iterable[int]) -> list[Column]:
    return [Column(mode, torch.randn(size, 3, *shape.image_size), extent.seconds) for mode in modes for size in sizes]


def each_in_time(
    forms: Iterable[Form],
    columns: Sequence[Column],
    clock: Clock,
    measure: Callable[[Form], Iterator[Finding]],
    *,
    took: float = 0.0,
) -> Generator[Finding, None, float]:
    """What `measure` finds, while as many seconds are left as the model before `took`. What it does not find of `columns` says why.

    Returns what the last one took.

    Raises:
        ExportError: `measure`'s, which is every model's.
    """
    for form in forms:
        left, found = clock.left, set[str]()
        if left < took:
            why = f"no time is left: {left:.0f} s, and the model before took {took:.0f} s"
        else:
            why = ""
            try:
                for finding in measure(form):
                    found.add(finding.what)
                    yield finding
            except ExportError:
                raise
            # Compilers raise errors of any class. The other models are still measured.
            except Exception as error:  # noqa: BLE001
                why = f"{type(error).__name__}: {first_line(error)}"
            took = left - clock.left
        for column in columns:
            if (what := column.what(form[0])) not in found:
                yield Finding(what=what, skipped=why)
    return took


def _as_it_is(
    backend: Backend, shape: ViTShape, device: torch.device, columns: Sequence[Column], form: Form
) -> Iterator[Finding]:
    run = backend(form[1].eval(), shape, device)
    for column in columns:
        yield column.finding(form, run)


def _compiled(device: torch.device, plain: Column, graphs: Column | None, form: Form) -> Iterator[Finding]:
    """Compiled, and with `graphs` what that launches as a CUDA graph, which needs no second compilation."""
    model = runners.compiled_model(form[1].eval(), device, cuda_graphs=False)
    yield plain.finding(form, runners.torch_runner(model, device))
    if graphs is not None:
        yield graphs.finding(form, captured(model, graphs.images_B3HW, device))
