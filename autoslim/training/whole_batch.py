"""`WholeBatch`: the passes of a rank's share of a batch as parts of one pass of the whole batch.

Dropout, stochastic depth and noise on scores are drawn for the whole batch, and each rank takes its rows; batch norms have the moments of
the whole batch. Dropout inside a fused attention is drawn by each rank for itself. Where each rank computes its share in several parts, a
whole batch is one part of all ranks.

Shapes: b rows of this rank, B of the whole batch, C channels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

from autoslim.errors import RequestError
from autoslim.methods.layers.gumbel_noise import GumbelNoise
from autoslim.training.rank_group import RankGroup


def whole_batch(
    model: nn.Module, group: RankGroup, images: int, *, part: int = 0, parts: int = 1
) -> contextlib.AbstractContextManager[Any]:
    """The context of the passes of `model` on a share of `images` images, or on one of its parts; without an effect where an image's
    pass depends on no other's.
    """
    return WholeBatch(group, images, part=part, parts=parts) if depends_on_batch(model) else contextlib.nullcontext()


def depends_on_batch(model: nn.Module) -> bool:
    """Whether the pass of an image in training depends on the others of its batch."""
    return any(_depends_on_batch(module) for module in model.modules())


def not_compiled(why: str, *, gpus: int) -> RequestError:
    """For a model whose images depend on each other, which `why` says, on several ranks."""
    return RequestError(
        f"--compile is given, {gpus} GPUs train a trial, and {why}: what is drawn for the whole batch is not in a compiled graph; allowed: "
        "several GPUs or --compile; leave --compile out, or give a trial one GPU (--resources gpu=1)"
    )


def _depends_on_batch(module: nn.Module) -> bool:
    # timm's stochastic depth is a class of each of its layers' modules, with this attribute.
    drops = (isinstance(module, _DropoutNd) and module.p > 0) or bool(getattr(module, "drop_prob", None))
    noisy = isinstance(module, GumbelNoise) and module.scale > 0
    return drops or noisy or isinstance(module, _BatchNorm)


class WholeBatch(TorchFunctionMode):
    """Every rank has torch's generator in the same state, so that all draw the same numbers for the whole batch."""

    def __init__(self, group: RankGroup, images: int, *, part: int = 0, parts: int = 1) -> None:
        super().__init__()
        self._group = group
        shares = [torch.from_numpy(rows).tensor_split(parts)[part] for rows in group.share.rows_by_rank(images)]
        everyones_B = torch.cat(shares).sort().values
        self._images = len(everyones_B)
        self._rows_b = torch.searchsorted(everyones_B, shares[group.share.rank])

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func in (torch.Tensor.bernoulli_, torch.Tensor.exponential_):
            return args[0].copy_(self._drawn(args[0], lambda like_B: func(like_B, *args[1:], **given)))
        if func is functional.dropout and given["training"] and given["p"] > 0:
            # Dropout of ones is the mask with its scale.
            return args[0] * self._drawn(args[0], lambda like_B: functional.dropout(like_B.fill_(1), given["p"]))
        if func is functional.batch_norm and given["training"]:
            return self._batch_norm(*args, **given)
        return func(*args, **given)

    def _drawn(self, own_b: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor:
        """This rank's rows of what `draw` makes for the whole batch. An image may have several rows, such as its windows."""
        rows, rest = divmod(len(own_b), len(self._rows_b))
        assert rest == 0, "a draw whose first dimension is not the batch"
        with torch.no_grad():
            drawn_B = draw(own_b.new_empty((self._images, rows, *own_b.shape[1:])).flatten(0, 1))
            # Moved once: a copy to a GPU is waited for.
            self._rows_b = self._rows_b.to(own_b.device)
            own: Tensor = drawn_B.view(self._images, rows, *own_b.shape[1:])[self._rows_b]
            return own.flatten(0, 1)

    def _batch_norm(
        self,
        x: Tensor,
        running_mean_C: Tensor | None,
        running_var_C: Tensor | None,
        *,
        weight: Tensor | None,
        bias: Tensor | None,
        training: bool,
        momentum: float,
        eps: float,
    ) -> Tensor:
        others = [dimension for dimension in range(x.ndim) if dimension != 1]
        shape = [-1 if dimension == 1 else 1 for dimension in range(x.ndim)]
        # Of the whole batch, whose images are all of one size.
        count = x.numel() // x.shape[1] * self._images // len(self._rows_b)
        mean_C = _SumOverRanks.apply(x.float().sum(others), self._group) / count
        centred = x.float() - mean_C.view(shape)
        variance_C = _SumOverRanks.apply(centred.square().sum(others), self._group) / count
        if running_mean_C is not None and running_var_C is not None:
            with torch.no_grad():
                running_mean_C.lerp_(mean_C, momentum)
                running_var_C.lerp_(variance_C * (count / (count - 1)), momentum)
        out: Tensor = centred * (variance_C + eps).rsqrt().view(shape)
        if weight is not None and bias is not None:
            out = out * weight.view(shape) + bias.view(shape)
        return out.to(x.dtype)


class _SumOverRanks(torch.autograd.Function):
    """The sum over the ranks. Each rank's loss depends on it, so that its gradient is the sum over the ranks, too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: RankGroup) -> Tensor:
        ctx.group = group
        return group.sum(values.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.group.sum(gradient.contiguous().clone()), None
