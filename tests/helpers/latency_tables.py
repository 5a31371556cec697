"""Latency tables whose times follow a formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from helpers.tiny import make_dense

from autoslim.cost import Grid, LatencyTable

SHAPE = make_dense("deit").shape


def grid_of(function: Callable[..., float], *axes: tuple[float, ...]) -> Grid:
    empty = Grid(axes=axes, values=(0.0,) * len(Grid(axes=axes, values=(0.0,) * _size(axes)).points))
    return empty.replace(values=tuple(function(*point) for point in empty.points))


def _size(axes: tuple[tuple[float, ...], ...]) -> int:
    size = 1
    for axis in axes:
        size *= len(axis)
    return size


def make_table(**changes: Any) -> LatencyTable:
    """Attention takes a thousandth of tokens x width, MLP half of that, and every part 0.01 ms."""
    tokens, widths = (1.0, 5.0, 9.0, 17.0), (3.0, 24.0, 48.0)
    table = LatencyTable(
        shape=SHAPE,
        batch=1,
        mode="eager",
        device="cpu",
        hardware="a processor",
        threads=1,
        precision="float32",
        torch="2",
        rounds=10,
        ends_ms=0.5,
        attention=grid_of(lambda n, w: 0.01 + n * w / 1000, tokens, widths),
        rows=grid_of(lambda n, share, w: 0.02 + n * (0.5 + share / 2) * w / 1000, tokens[1:], (0.0, 0.5, 1.0), widths),
        mlp=grid_of(lambda n, f: 0.01 + n * f / 2000, tokens, (1.0, 96.0, 192.0)),
        drop=grid_of(lambda n: 0.002 * n, tokens[1:]),
        extras={"life regressor": grid_of(lambda n, left: 0.1 + n / 1000, tokens[1:], (0.1, 0.5, 1.0))},
    )
    return table.replace(**changes)
