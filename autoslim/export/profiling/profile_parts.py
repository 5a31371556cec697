"""Measures a latency table on this machine.

`python -m autoslim.export.profiling.profile_parts REQUEST.json` runs in a process of its own, so that the caller's threads and caches do
not disturb the measurement. The last line of its output is the table as JSON.

Shapes: B batch, N tokens (prefix included), K tokens that are computed, D width.
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from autoslim.core.job import SPEED_MODES, ModelSpec
from autoslim.core.plan import Plan
from autoslim.core.shape import ViTShape
from autoslim.cost import DENSE, Calibration, CalibrationModel, Grid, LatencyRequest, LatencyTable, predict
from autoslim.errors import RequestError, UnsupportedModelError
from autoslim.export.profiling import block_parts, runners
from autoslim.export.profiling.hardware import hardware, pick_device
from autoslim.export.profiling.interleaved import Clock, clock_of, lower_quartile, ratio, time_interleaved
from autoslim.methods import METHODS
from autoslim.methods.layers.adaptive_trunk import open_thresholds
from autoslim.methods.layers.rectangular_block import class_query_last
from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.models import DenseModel, create_dense

_LONGEST_STACK = 0.04
"""Seconds that one pass through a stack of parts should take at most; parts of larger models are measured with fewer layers."""

_FEWEST_LAYERS = 2
"""At least two copies, so that the weights of one do not stay in the cache all the time."""

_PARTS_SECONDS, _WHOLE_SECONDS = 20.0, 4.0
"""Time for all parts together, and for each pair of whole models."""

_FEWEST_ROUNDS, _MOST_ROUNDS = 5, 40
"""Bounds on the rounds: enough for a quartile on slow devices, and an end on fast ones."""

_SHARES, _LEFT = (0.0, 0.5, 1.0), (0.1, 0.5, 1.0)
"""Shares of the patches that rectangular attention computes, and that a method's own module leaves."""


def measure_table(request: LatencyRequest, known: LatencyTable | None = None, *, threads: int | None = None) -> LatencyTable:
    """The table on the GPU, in bfloat16, where there is one; else on the CPU with `threads` threads, in float32.

    With a `known` table only the request's whole models are measured, and added to its calibrations.

    Raises:
        RequestError: for an unknown mode.
        ExportError: when this machine cannot run the mode.
    """
    if request.mode not in runners.BACKENDS:
        raise RequestError(f"--latency-mode is {request.mode!r}; allowed: {', '.join(SPEED_MODES)}")
    if threads is not None:
        torch.set_num_threads(threads)
    device, table = pick_device(), known
    if table is None:
        dense = _create_dense(request)
        stacks = _Parts(dense.module, dense.shape, request, device)
        with torch.inference_mode():
            table = stacks.measure(_PARTS_SECONDS)
    return table.replace(calibrations=(*table.calibrations, *_calibrate(table, request, device)))


def build(module: nn.Module, shape: ViTShape, model: CalibrationModel, *, class_query: bool) -> nn.Module:
    """The slimmed model that `model` describes; an adaptive one runs at its caps. Its weights are untrained: they do not change latency."""
    for step in model.steps:
        module = METHODS[step.method].build(module, shape, model.plan, step.knobs)
    return open_thresholds(class_query_last(module, shape.prefix_tokens) if class_query else module).eval()


class _Parts:
    """Stacks of parts and the dense model, timed in turns: when the machine slows down, it does so for all of them.

    `_add` queues a measurement. `measure` runs all of them at once and reads the times in the order in which they were queued.
    """

    def __init__(self, module: nn.Module, shape: ViTShape, request: LatencyRequest, device: torch.device) -> None:
        if shape.own_blocks or shape.whole or shape.norms_behind or shape.windowed:
            raise UnsupportedModelError(
                "a latency table is measured on equal blocks, part by part, which this model's are not; allowed: --flops, --params"
            )
        self.shape, self.batch, self.mode, self.device = shape, request.batch, request.mode, device
        self.whole = runners.BACKENDS[request.mode](module.eval(), shape, device)
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.module = module.eval().to(device, self.dtype)
        self.blocks = blocks_of(self.module)
        self.layers = self._layers()
        self.runs: list[Callable[[], None]] = []
        self.divisors: list[int] = []
        # Latency is interpolated between these points. Grids over two token counts have fewer of each, because the points multiply.
        self.tokens, self.few = block_parts.token_axis(shape, 8), block_parts.token_axis(shape, 3)[1:]
        self.widths, self.narrow = block_parts.attention_axis(shape, 4), block_parts.attention_axis(shape, 2)
        self.hidden = block_parts.width_axis(shape.hidden, 6)

    def measure(self, seconds: float) -> LatencyTable:
        """The table of all parts, with the dense model as its only calibration."""
        self._add_whole_and_ends()
        self._add_attention()
        self._add_mlp()
        self._add_token_steps()
        timings = time_interleaved(
            self.runs, seconds=seconds, at_least=_FEWEST_ROUNDS, at_most=_MOST_ROUNDS, clock=_clock(self.device)
        )
        # Milliseconds of one part: its stack's time over the number of copies in it.
        times = iter([1000 * lower_quartile(timing) / divisor for timing, divisor in zip(timings, self.divisors, strict=True)])
        dense = next(times)
        table = self._table(times, rounds=len(timings[0]))
        whole, flops = Plan.dense(self.shape), predict(self.shape, Plan.dense(self.shape)).total
        own = Calibration(recipe=DENSE, flops=flops, parts_ms=table.parts(whole), measured_ms=dense)
        return table.replace(calibrations=(own,))

    def _add_attention(self) -> None:
        """Whole attention over widths and tokens, then rectangular attention over tokens, shares and widths."""
        for heads, width in self.widths:
            self._add_stacks([block_parts.attention(block, heads, width) for block in self._own()], self.tokens)
        for entering in self.few:
            for share in _SHARES:
                index_K = torch.arange(self._computed(entering, share), device=self.device)
                for heads, width in self.narrow:
                    self._add_stacks([block_parts.some_rows(block, heads, width, index_K) for block in self._own()], (entering,))

    def _add_mlp(self) -> None:
        for units in self.hidden:
            self._add_stacks([block_parts.mlp(block, units) for block in self._own()], self.tokens)

    def _add_token_steps(self) -> None:
        """Dropping half of the tokens, then each module of the registered methods over tokens and the share that leaves."""
        for entering in self.few:
            self._add_stacks([block_parts.drop(max(1, entering // 2)).to(self.device)], (entering,))
        for make in block_parts.extra_modules().values():
            for entering in self.few:
                for share in _LEFT:
                    left = self._computed(entering, share, least=1)
                    self._add_stacks([make(self.shape, entering, left).to(self.device, self.dtype).eval()], (entering,))

    def _table(self, times: Iterator[float], *, rounds: int) -> LatencyTable:
        """Reads `times` in the order of the `_add_*` methods; the dense model's time has been read already."""

        def grid(*axes: Sequence[float]) -> Grid:
            count = math.prod(len(axis) for axis in axes)
            return Grid(axes=tuple(tuple(map(float, axis)) for axis in axes), values=tuple(next(times) for _ in range(count)))

        # Keyword arguments are evaluated in this order, in which the parts were queued.
        return LatencyTable(
            shape=self.shape,
            batch=self.batch,
            mode=self.mode,
            device=self.device.type,
            hardware=hardware(),
            threads=torch.get_num_threads(),
            precision=str(self.dtype).removeprefix("torch."),
            torch=torch.__version__,
            rounds=rounds,
            ends_ms=next(times),
            attention=_transposed(grid([heads * width for heads, width in self.widths], self.tokens)).non_decreasing(),
            rows=grid(self.few, _SHARES, [heads * width for heads, width in self.narrow]).non_decreasing(),
            mlp=_transposed(grid(self.hidden, self.tokens)).non_decreasing(),
            drop=grid(self.few).non_decreasing(),
            extras={name: grid(self.few, _LEFT).non_decreasing() for name in block_parts.extra_modules()},
        )

    def _own(self) -> list[nn.Module]:
        """The blocks that a stack copies its parts from."""
        return self.blocks[: self.layers]

    def _computed(self, tokens: int, share: float, least: int = 0) -> int:
        """The prefix and the share `share` of the patches among `tokens` tokens, at least `least` patches and one token."""
        prefix = self.shape.prefix_tokens
        return max(1, prefix + max(least, round((tokens - prefix) * share)))

    def _layers(self) -> int:
        """How many copies a stack has, so that one pass takes at most `_LONGEST_STACK`."""
        x_BND = self._tokens(self.shape.tokens)
        block = self.blocks[0]
        (timings,) = time_interleaved([self._timed(lambda: block(x_BND))], seconds=0.0, at_least=3)
        return max(_FEWEST_LAYERS, min(len(self.blocks), int(_LONGEST_STACK / statistics.median(timings))))

    def _tokens(self, count: int) -> Tensor:
        return torch.randn(self.batch, count, self.shape.dim, device=self.device, dtype=self.dtype)

    def _add_whole_and_ends(self) -> None:
        bare = block_parts.ends(self.module)
        images = torch.randn(self.batch, 3, *self.shape.image_size)
        there = images.to(self.device, self.dtype)
        # The whole model runs among its parts, so that sum and measurement are from the same rounds.
        self.runs += [partial(self.whole, images), self._timed(lambda: bare(there))]
        self.divisors += [1, 1]

    def _add_stacks(self, stack: Sequence[block_parts.Part], tokens: Sequence[int]) -> None:
        for count in tokens:
            x_BND = self._tokens(count)
            self.runs.append(self._timed(lambda x_BND=x_BND: [part(x_BND) for part in stack]))  # type: ignore[misc]
            self.divisors.append(len(stack))

    def _timed(self, run: Callable[[], object]) -> Callable[[], None]:
        def timed() -> None:
            run()
            # A GPU's kernels run on after the call has returned.
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)

        return timed


def _transposed(grid: Grid) -> Grid:
    """The grid with its two axes exchanged: measured width by width, looked up by tokens first."""
    rows, columns = (len(axis) for axis in grid.axes)
    values = tuple(grid.values[row * columns + column] for column in range(columns) for row in range(rows))
    return Grid(axes=(grid.axes[1], grid.axes[0]), values=values)


def _calibrate(table: LatencyTable, request: LatencyRequest, device: torch.device) -> Iterator[Calibration]:
    """Times each slimmed model in turns with the dense one.

    Its latency is the dense model's in the table over the speed-up in these rounds: the machine may be faster or slower by now.
    """
    shape, backend = table.shape, runners.BACKENDS[request.mode]
    images = torch.randn(request.batch, 3, *shape.image_size)
    # The dense model again: only times of the same rounds can be compared.
    dense = backend(_create_dense(request).module, shape, device)
    dense_ms = next(found.measured_ms for found in table.calibrations if found.recipe == DENSE)
    for model in request.candidates:
        slimmed = backend(build(_create_dense(request).module, shape, model, class_query=request.class_query), shape, device)
        runs = [partial(run, images) for run in (dense, slimmed)]
        slow, fast = time_interleaved(runs, seconds=_WHOLE_SECONDS, at_least=_FEWEST_ROUNDS, clock=_clock(device))
        yield Calibration(
            recipe=model.recipe,
            flops=predict(shape, model.plan).total,
            parts_ms=table.parts(model.plan),
            measured_ms=dense_ms / ratio(slow, fast)[0],
        )


def _clock(device: torch.device) -> Clock:
    return clock_of(device.type, torch.get_num_threads())


def _create_dense(request: LatencyRequest) -> DenseModel:
    return create_dense(ModelSpec(name=request.name, weights="scratch", args=dict(request.args)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("request", type=Path, help="a LatencyRequest as JSON")
    parser.add_argument("--known", type=Path, help="a table of the same model, to be calibrated further")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    # Compilers' warnings would hide the report.
    logging.disable(logging.WARNING)
    request = LatencyRequest.from_json(arguments.request.read_text())
    known = None if arguments.known is None else LatencyTable.from_json(arguments.known.read_text())
    sys.stdout.write(measure_table(request, known, threads=arguments.threads).to_json() + "\n")


if __name__ == "__main__":
    main()
