"""`RankGroup`: what the processes (ranks) that train one model together compute of the whole batch.

Every rank has the same weights and a share of each batch. Each calls the same functions in the same order; what they return is equal on
all of them. N rows, C channels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from autoslim.data.batch_share import BatchShare
from autoslim.errors import RankLostError

_TOLERANCE = 1e-6
"""Relative difference of the weights' sum that rounding may make between ranks."""


class RankGroup:
    """Rank `rank` of `ranks`, over torch's default process group.

    Raises:
        RankLostError: (every function) another rank has ended, or has not answered within the process group's time.
    """

    def __init__(self, rank: int, ranks: int) -> None:
        self.share = BatchShare(rank=rank, ranks=ranks)

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Inside, this rank does something that the others have no part in, while they wait for it in their next step."""
        return contextlib.nullcontext()

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the ranks, in place."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def sum_gradients(self, parameters: Sequence[nn.Parameter], curves: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Replaces the gradients by their sum over the ranks, and returns that of `curves`, scalars by name."""
        names = sorted(curves)
        with torch.no_grad():
            # One message a step. A parameter without a gradient here has none on any rank, and stays without.
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            flat = torch.cat([value.reshape(-1).float() for value in (*gradients, *(curves[name] for name in names))])
            parts = self.sum(flat).split([gradient.numel() for gradient in gradients] + [1] * len(names))  # type: ignore[no-untyped-call]
            for parameter, part in zip(parameters, parts, strict=False):
                if parameter.grad is not None:
                    parameter.grad.copy_(part.view_as(parameter.grad))
        return {name: part.reshape(()) for name, part in zip(names, parts[len(gradients) :], strict=True)}

    def mean(self, own: Tensor, images: int) -> Tensor:
        """The mean over all images, of which `own` is that over this rank's `images`; without a gradient."""
        with torch.no_grad():
            sums = self.sum(torch.cat((own.reshape(-1) * images, own.new_full((1,), images))))
            return (sums[:-1] / sums[-1]).view_as(own)

    def variance(self, x_NC: Tensor) -> Tensor:
        """The variance of each channel over the rows of all ranks, (C,); without a gradient."""
        with torch.no_grad():
            count = x_NC.new_full((1,), len(x_NC))
            sums = self.sum(torch.cat((x_NC.sum(dim=0), count)))
            mean_C = sums[:-1] / sums[-1]
            return self.sum((x_NC - mean_C).square().sum(dim=0)) / sums[-1]

    def check_same(self, parameters: Sequence[nn.Parameter]) -> None:
        """Raises RuntimeError where the ranks' weights have come apart, such as by a loss that is not a mean over images."""
        with torch.no_grad():
            total = torch.stack([parameter.double().abs().sum() for parameter in parameters]).sum()
        most, least = self._reduce(torch.stack((total, -total)), dist.ReduceOp.MAX).tolist()
        if most + least > _TOLERANCE * most:
            raise RuntimeError(
                f"the weights of the {self.share.ranks} ranks differ: their sums are {-least} to {most}. A method's loss has to be a mean "
                "over the images, and every rank has to train the same parameters"
            )

    def _reduce(self, values: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        try:
            dist.all_reduce(values, op=operation)
        except RuntimeError as error:
            raise RankLostError(f"rank {self.share.rank} of {self.share.ranks} has no answer from the others: {error}") from error
        return values
