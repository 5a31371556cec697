"""Whether a classifier with as many outputs as the data has classes was trained for these classes, judged by what it does.

Weights in a file name no classes. A classifier of ten other classes fits ten of the data, and is at chance.

Shapes: B batch, C classes, F features, n images.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn

from autoslim.data import Loader
from autoslim.methods.base import logits_of
from autoslim.training.device import Precision, autocast

_PROBE_IMAGES = 2000
"""Training images that the linear probe is fitted to: some times as many as features, and seconds on a CPU."""

_RIDGE = 0.1
"""Share of the features' mean variance that is added to each, so that few images do not fit the probe to noise."""

_DEVIATIONS = 2.0
"""By how many standard deviations of an accuracy on these images the classifier may be behind the probe."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadCheck:
    """Accuracies on the validation images: the model's own classifier, a linear probe on its features, and the best constant guess."""

    own: float
    probe: float
    chance: float
    images: int

    @property
    def fits(self) -> bool:
        """Whether the classifier is one of these classes: better than chance, and not worse than the probe."""
        return self.own > self.chance + self._noise(self.chance) and self.own >= self.probe - self._noise(self.probe)

    def _noise(self, share: float) -> float:
        return _DEVIATIONS * math.sqrt(share * (1 - share) / self.images)

    def __str__(self) -> str:
        verdict = "is taken as trained for these classes" if self.fits else "was trained for others"
        return (
            f"the weights name no classes: their classifier has {self.own:.1%} on the validation images, a linear probe on the model's "
            f"features {self.probe:.1%}, chance {self.chance:.1%}; it {verdict}"
        )


@torch.no_grad()
def check_head(
    model: nn.Module, train: Loader, validation: Loader, *, chance: float, device: torch.device, precision: Precision
) -> HeadCheck:
    """`train` are training images without augmentation."""
    model.eval()
    with autocast(model, device=device, precision=precision):
        known_nF, labels_n, _ = _features(model, train, device, most=_PROBE_IMAGES)
        told_mF, truth_m, logits_mC = _features(model, validation, device)
    probe = _fitted(known_nF, labels_n, classes=logits_mC.shape[1])
    return HeadCheck(
        own=_share(logits_mC, truth_m), probe=_share(_with_one(told_mF) @ probe, truth_m), chance=chance, images=len(truth_m)
    )


def _features(model: Any, loader: Loader, device: torch.device, *, most: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Features (n, F), labels (n,) and logits (n, C) of up to `most` images."""
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for images_B3HW, labels_B in loader.epoch(0, device):
        tokens = model.forward_features(images_B3HW)
        features_BF = logits_of(model.forward_head(tokens, pre_logits=True))
        logits_BC = logits_of(model.forward_head(tokens))
        parts.append((features_BF.double().cpu(), labels_B.cpu(), logits_BC.float().cpu()))
        if most is not None and sum(len(labels) for _, labels, _ in parts) >= most:
            break
    features, labels, logits = (torch.cat(part) for part in zip(*parts, strict=True))
    return features[:most], labels[:most], logits[:most]


def _fitted(x_nF: Tensor, labels_n: Tensor, *, classes: int) -> Tensor:
    """Ridge regression onto the classes, with an intercept: (F + 1, C)."""
    x_nG = _with_one(x_nF)
    target_nC = nn.functional.one_hot(labels_n.long(), classes).double()
    gram_GG = x_nG.T @ x_nG
    ridge = _RIDGE * float(x_nF.var(dim=0).mean()) * len(x_nF)
    gram_GG += ridge * torch.eye(len(gram_GG), dtype=gram_GG.dtype)
    weights_GC: Tensor = torch.linalg.solve(gram_GG, x_nG.T @ target_nC)
    return weights_GC


def _with_one(x_nF: Tensor) -> Tensor:
    return torch.cat((x_nF, x_nF.new_ones(len(x_nF), 1)), dim=1)


def _share(logits_nC: Tensor, labels_n: Tensor) -> float:
    return float((logits_nC.argmax(dim=1) == labels_n).double().mean())
