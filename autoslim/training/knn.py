"""k-NN top-1 of a model's pooled features with a labelled set: the probe of DINO (arXiv 2104.14294), which trains nothing.

Shapes: N labelled images, Q queries, D width, C classes, K neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoslim.data import Loader
from autoslim.methods.layers.backbone import features
from autoslim.training.device import Precision, autocast

NEIGHBOURS = 20
TEMPERATURE = 0.07
"""Those of DINO's evaluation; the weights of the votes are from Wu et al., arXiv 1805.01978, section 3.4."""

_QUERIES = 512
"""Queries compared at once: their similarities to a million images take 2 GB."""


def knn_top1(model: nn.Module, train: Loader, test: Loader, *, classes: int, device: torch.device, precision: Precision) -> float:
    """The share of the images of `test` whose class is that of their neighbours in `train`."""
    known_ND, label_N = pooled_features(model, train, device=device, precision=precision)
    query_QD, wanted_Q = pooled_features(model, test, device=device, precision=precision)
    found_Q = vote(known_ND, label_N, query_QD, classes=classes)
    return float((found_Q == wanted_Q).double().mean())


@torch.no_grad()
def pooled_features(model: nn.Module, loader: Loader, *, device: torch.device, precision: Precision) -> tuple[Tensor, Tensor]:
    """Features (N, D) of length 1, and labels (N,), of the loader's images."""
    model.eval()
    found, labels = [], []
    with autocast(model, device=device, precision=precision):
        for images_B3HW, labels_B in loader.epoch(0, device):
            pooled_BD = features(model, images_B3HW).pooled.float()
            found.append(functional.normalize(pooled_BD, dim=-1))
            labels.append(labels_B)
    return torch.cat(found), torch.cat(labels)


def vote(known_ND: Tensor, label_N: Tensor, query_QD: Tensor, *, classes: int, neighbours: int = NEIGHBOURS) -> Tensor:
    """The class of each query (Q,): each of its nearest images, by cosine s, votes for its own class with exp(s / T)."""
    votes = []
    for chunk_QD in torch.split(query_QD, _QUERIES):
        cosine_QK, index_QK = (chunk_QD @ known_ND.T).topk(min(neighbours, len(known_ND)), dim=1)
        # The highest is subtracted, which leaves the order of the classes as it is.
        weight_QK = ((cosine_QK - cosine_QK[:, :1]) / TEMPERATURE).exp()
        one_hot_QKC = functional.one_hot(label_N[index_QK], classes).to(weight_QK.dtype)
        votes.append((one_hot_QKC * weight_QK.unsqueeze(-1)).sum(dim=1).argmax(dim=1))
    return torch.cat(votes)
