"""Measures a table of latencies on the machine at hand.

`python -m autoslim.export.profiling.profile_parts REQUEST.json` runs as a process of its own, so that neither the caller's threads nor its
caches are in the way; the last line is JSON.
"""

from __future__ import annotations

import argparse
import logging
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
from autoslim.cost import DENSE, Calibration, Candidate, Grid, LatencyRequest, LatencyTable, predict
from autoslim.errors import RequestError
from autoslim.export.profiling import block_parts, runners
from autoslim.export.profiling.hardware import hardware, pick_device
from autoslim.export.profiling.interleaved import Clock, clock_of, lower_quartile, ratio, time_interleaved
from autoslim.methods import METHODS
from autoslim.methods.layers.adaptive_trunk import full
from autoslim.methods.layers.rectangular_block import class_query_last
from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.models import DenseModel, create_dense

_LONGEST_STACK = 0.04
"""Seconds that one pass through a stack of parts should take at most: larger ones have fewer layers."""

_FEWEST_LAYERS = 2
_PARTS_SECONDS, _WHOLE_SECONDS = 20.0, 4.0
_FEWEST_ROUNDS, _MOST_ROUNDS = 5, 40


def measure_table(request: LatencyRequest, known: LatencyTable | None = None, *, threads: int | None = None) -> LatencyTable:
    """On the GPU where there is one, in bfloat16, else on the CPU with `threads` of it, in float32.

    With a table that is `known` only the request's whole models are measured, and added to its calibrations.

    Raises:
        RequestError: for a mode that there is not.
        ExportError: where a mode cannot be had on this machine.
    """
    if request.mode not in runners.BACKENDS:
        raise RequestError(f"--latency-mode is {request.mode!r}; allowed: {', '.join(SPEED_MODES)}")
    if threads is not None:
        torch.set_num_threads(threads)
    device, table = pick_device(), known
    if table is None:
        dense = _fresh(request)
        stacks = _Parts(dense.module, dense.shape, request, device)
        with torch.inference_mode():
            table = stacks.measure(_PARTS_SECONDS)
    return table.replace(calibrations=(*table.calibrations, *_calibrate(table, request, device)))


def build(module: nn.Module, shape: ViTShape, candidate: Candidate, *, class_query: bool) -> nn.Module:
    """The cut model with untrained weights, which take as long as trained ones; every image as many tokens as its caps allow."""
    for step in candidate.steps:
        module = METHODS[step.method].build(module, shape, candidate.plan, step.knobs)
    return full(class_query_last(module, shape.prefix_tokens) if class_query else module).eval()


class _Parts:
    """Stacks of parts and the dense model, raced against each other: a machine that slows down, does so for all of them."""

    def __init__(self, module: nn.Module, shape: ViTShape, request: LatencyRequest, device: torch.device) -> None:
        self.shape, self.batch, self.mode, self.device = shape, request.batch, request.mode, device
        self.whole = runners.BACKENDS[request.mode](module.eval(), shape, device)
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.module = module.eval().to(device, self.dtype)
        self.blocks = blocks_of(self.module)
        self.layers = self._layers()
        self.runs: list[Callable[[], None]] = []
        self.divisors: list[int] = []

    def measure(self, seconds: float) -> LatencyTable:
        shape = self.shape
        tokens, few = block_parts.token_axis(shape, 8), block_parts.token_axis(shape, 3)[1:]
        # Only methods that leave the widths alone work on models whose queries and keys are normalised.
        widths = (shape.head_width,) if shape.qk_norm else block_parts.width_axis(shape.head_width, 4)
        narrow = widths if shape.qk_norm else block_parts.width_axis(shape.head_width, 2)
        hidden = block_parts.width_axis(shape.hidden, 6)
        shares, left = (0.0, 0.5, 1.0), (0.1, 0.5, 1.0)
        self._add_whole_and_ends()
        for width in widths:
            self._add_stacks([block_parts.attention(block, width) for block in self._own()], tokens)
        for come_in in few:
            for share in shares:
                index_K = torch.arange(self._computed(come_in, share), device=self.device)
                for width in narrow:
                    self._add_stacks([block_parts.some_rows(block, width, index_K) for block in self._own()], (come_in,))
        for units in hidden:
            self._add_stacks([block_parts.mlp(block, units) for block in self._own()], tokens)
        for come_in in few:
            self._add_stacks([block_parts.drop(max(1, come_in // 2)).to(self.device)], (come_in,))
        for make in block_parts.extra_modules().values():
            for come_in in few:
                for share in left:
                    made = self._computed(come_in, share, least=1)
                    self._add_stacks([make(shape, come_in, made).to(self.device, self.dtype).eval()], (come_in,))
        timings = time_interleaved(
            self.runs, seconds=seconds, at_least=_FEWEST_ROUNDS, at_most=_MOST_ROUNDS, clock=_clock(self.device)
        )
        times = iter([1000 * lower_quartile(timing) / divisor for timing, divisor in zip(timings, self.divisors, strict=True)])

        def grid(*axes: Sequence[float]) -> Grid:
            count = 1
            for axis in axes:
                count *= len(axis)
            return Grid(axes=tuple(tuple(map(float, axis)) for axis in axes), values=tuple(next(times) for _ in range(count)))

        dense, ends = next(times), next(times)
        by_heads = [float(shape.heads * width) for width in widths]
        table = LatencyTable(
            shape=shape,
            batch=self.batch,
            mode=self.mode,
            device=self.device.type,
            hardware=hardware(),
            threads=torch.get_num_threads(),
            precision=str(self.dtype).removeprefix("torch."),
            torch=torch.__version__,
            rounds=len(timings[0]),
            ends_ms=ends,
            attention=_turned(grid(by_heads, tokens)).rising(),
            rows=grid(few, shares, [float(shape.heads * width) for width in narrow]).rising(),
            mlp=_turned(grid(hidden, tokens)).rising(),
            drop=grid(few).rising(),
            extras={name: grid(few, left).rising() for name in block_parts.extra_modules()},
        )
        whole, flops = Plan.dense(shape), predict(shape, Plan.dense(shape)).total
        own = Calibration(recipe=DENSE, flops=flops, parts_ms=table.parts(whole), measured_ms=dense)
        return table.replace(calibrations=(own,))

    def _own(self) -> list[nn.Module]:
        return self.blocks[: self.layers]

    def _computed(self, tokens: int, share: float, least: int = 0) -> int:
        """Of so many tokens; at least one, the prefix always."""
        prefix = self.shape.prefix_tokens
        return max(1, prefix + max(least, round((tokens - prefix) * share)))

    def _layers(self) -> int:
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
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)

        return timed


def _turned(grid: Grid) -> Grid:
    """Measured by width, looked up by tokens first."""
    rows, columns = (len(axis) for axis in grid.axes)
    values = tuple(grid.values[row * columns + column] for column in range(columns) for row in range(rows))
    return Grid(axes=(grid.axes[1], grid.axes[0]), values=values)


def _calibrate(table: LatencyTable, request: LatencyRequest, device: torch.device) -> Iterator[Calibration]:
    """Each cut model in turns with the dense one: its time is the dense model's in the table over the speed-up of the same rounds."""
    shape, way = table.shape, runners.BACKENDS[request.mode]
    images = torch.randn(request.batch, 3, *shape.image_size)
    dense = way(_fresh(request).module, shape, device)
    dense_ms = next(found.measured_ms for found in table.calibrations if found.recipe == DENSE)
    for candidate in request.candidates:
        slimmed = way(build(_fresh(request).module, shape, candidate, class_query=request.class_query), shape, device)
        runs = [partial(run, images) for run in (dense, slimmed)]
        slow, fast = time_interleaved(runs, seconds=_WHOLE_SECONDS, at_least=_FEWEST_ROUNDS, clock=_clock(device))
        yield Calibration(
            recipe=candidate.recipe,
            flops=predict(shape, candidate.plan).total,
            parts_ms=table.parts(candidate.plan),
            measured_ms=dense_ms / ratio(slow, fast)[0],
        )


def _clock(device: torch.device) -> Clock:
    return clock_of(device.type, torch.get_num_threads())


def _fresh(request: LatencyRequest) -> DenseModel:
    return create_dense(ModelSpec(name=request.name, weights="scratch", args=dict(request.args)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("request", type=Path, help="a LatencyRequest as JSON")
    parser.add_argument("--known", type=Path, help="a table of the same model, to be calibrated further")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    # What compilers have to say is for their makers.
    logging.disable(logging.WARNING)
    request = LatencyRequest.from_json(arguments.request.read_text())
    known = None if arguments.known is None else LatencyTable.from_json(arguments.known.read_text())
    sys.stdout.write(measure_table(request, known, threads=arguments.threads).to_json() + "\n")


if __name__ == "__main__":
    main()
