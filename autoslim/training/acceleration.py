"""How a model's blocks compute while it is trained: compiled, and with their activations computed again instead of kept.

Both hold inside a context alone: a model that is evaluated, copied, pickled, counted or exported is as it was.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from autoslim.core.recipe import TrainingSettings
from autoslim.errors import RequestError
from autoslim.training.device import Precision, fast_products, plain_attention

_GRAPHS = 1024
"""Graphs that torch.compile may make of one class of blocks. Each of a slimmed model may have other widths and tokens; dynamo's own limit
of 8 is for all of them together, and behind it blocks run uncompiled without a word."""
_BACKEND = "inductor"


class Acceleration:
    """How `student` is trained beside `frozen_models`, by its `training`'s settings.

    Raises:
        RequestError: the blocks cannot be compiled.
    """

    def __init__(
        self,
        student: nn.Module,
        frozen_models: tuple[nn.Module, ...],
        training: TrainingSettings,
        *,
        device: torch.device,
        precision: Precision,
    ) -> None:
        self._student, self._saving, self._device, self._precision = student, training.grad_checkpointing, device, precision
        self._compiled: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if training.compile:
            self._compiled = CompiledBlocks(student, *frozen_models, device=device)

    @contextlib.contextmanager
    def segment(self) -> Iterator[None]:
        """The context of the training, which may be entered again."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(fast_products(self._device, self._precision))
            stack.enter_context(self._compiled)
            if self._saving:
                # The backward pass is outside of `autocast`, and has to compute the blocks again with the kernels of the forward pass.
                stack.enter_context(plain_attention(self._student, device=self._device, precision=self._precision))
                stack.enter_context(grad_checkpointing(self._student))
            yield


class CompiledBlocks(contextlib.AbstractContextManager[None]):
    """Inside the context each block of the models computes by a compiled forward.

    Blocks, not models: equal blocks share one graph, and hooks between blocks, by which methods read tokens, are called as ever.

    Raises:
        RequestError: there is nothing to compile, or nothing to compile it with.
    """

    def __init__(self, *models: nn.Module, device: torch.device) -> None:
        _check_compiler(device)
        # Imported here because it takes a second, and only compiling needs it.
        import torch._dynamo

        # Of earlier phases and trials of this process, whose blocks are gone: their graphs would count towards the limit.
        torch._dynamo.reset()
        self._blocks = list(dict.fromkeys(block for model in models for block in _blocks_in(model)))
        if not self._blocks:
            raise RequestError("--compile: the model has no blocks of attention and MLP that could be compiled; leave it out")
        self._compiled: list[Callable[..., Any]] = [torch.compile(block.forward, backend=_BACKEND) for block in self._blocks]
        self._limits = contextlib.ExitStack()

    def __enter__(self) -> None:
        import torch._dynamo.config as dynamo_config

        self._limits.enter_context(dynamo_config.patch(recompile_limit=_GRAPHS, accumulated_recompile_limit=_GRAPHS))
        for block, compiled in zip(self._blocks, self._compiled, strict=True):
            block.forward = compiled

    def __exit__(self, *error: object) -> None:
        for block in self._blocks:
            # The attribute of the block; its class's forward is left.
            del block.forward
        self._limits.close()


@contextlib.contextmanager
def grad_checkpointing(model: Any) -> Iterator[None]:
    """Inside the context a backward pass computes each block's activations again (Chen et al., 2016, arXiv 1604.06174)."""
    model.set_grad_checkpointing(True)
    try:
        yield
    finally:
        model.set_grad_checkpointing(False)


def _blocks_in(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules with attention and an MLP, whatever the model's form."""
    for child in module.children():
        if hasattr(child, "attn") and hasattr(child, "mlp"):
            yield child
        else:
            yield from _blocks_in(child)


def _check_compiler(device: torch.device) -> None:
    if device.type == "cpu" and not any(shutil.which(compiler) for compiler in ("g++", "clang++", "c++")):
        raise RequestError(
            "--compile needs a C++ compiler on this machine, and there is none; install g++, or leave --compile out"
        )
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            raise RequestError(
                f"--compile needs Triton and a GPU of compute capability 7.0 or more; {torch.cuda.get_device_name(device)} has "
                f"{'.'.join(map(str, torch.cuda.get_device_capability(device)))}; leave --compile out, or install triton"
            )
