"""A CUDA graph of what a model launches, compiled or not: it is launched again as a whole, without Python in between."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from autoslim.export.profiling.runners import WEIGHTS_ON_GPU, Runner

_WARM_UP = 3
"""Passes before the capture, on another stream: they choose kernels and take workspaces, which a capture forbids."""


def captured(model: Callable[[Tensor], Tensor], images_B3HW: Tensor, device: torch.device) -> Runner:
    """Launches the passes of `model`, which is on the GPU, for `images_B3HW` alone.

    Raises:
        RuntimeError, AssertionError: PyTorch's, when there is no GPU, or where a pass does what a graph cannot hold: waits for the GPU,
            takes memory from elsewhere, or compiles.
    """
    there_B3HW = images_B3HW.to(device, WEIGHTS_ON_GPU)
    side, graph = torch.cuda.Stream(device), torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.inference_mode():
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                model(there_B3HW)
        torch.cuda.current_stream(device).wait_stream(side)
        with torch.cuda.graph(graph):
            model(there_B3HW)

    return functools.partial(_replay, graph, (model, there_B3HW))


def _replay(graph: torch.cuda.CUDAGraph, read: tuple[Callable[[Tensor], Tensor], Tensor], images_B3HW: Tensor) -> None:
    """`read` are the model, whose weights the graph reads where they are, and the images: both stay in memory with it."""
    assert images_B3HW.shape == read[1].shape
    graph.replay()
    torch.cuda.synchronize(read[1].device)
