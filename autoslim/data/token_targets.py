"""The labels of the patches of augmented images, by region-of-interest alignment of their maps (He et al., 2017), as in ReLabel and LV-ViT.

B images of a batch, C classes of the data, K classes of a map with H x W places, G patches in a row or column of the model, P patches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoslim.data.augment import Draws
from autoslim.data.table import Labels
from autoslim.data.token_labels import TokenMaps

_POINTS = 2
"""Points along each axis of a patch at which a map is interpolated; their mean is the patch's."""


def token_targets(
    maps: TokenMaps,
    labels_B: Labels,
    draws: Draws,
    *,
    stored: tuple[int, int],
    grid: tuple[int, int],
    class_count: int,
) -> NDArray[np.float32]:
    """Soft labels (B, 1 + P, C): that of the image, which is one class, and those of the patches in reading order.

    `draws` say where the images are cut out of those that are `stored` in this size, and which are mirrored; what RandAugment then
    rotates, shears and shifts is not followed. `grid` are the model's rows and columns of patches.
    As in LV-ViT, scores are interpolated where a map lacks a class as 0, and their softmax over all classes is the label.
    """
    targets = np.zeros((len(labels_B), 1 + grid[0] * grid[1], class_count), np.float32)
    targets[np.arange(len(labels_B)), 0, labels_B] = 1
    left_B, top_B, right_B, bottom_B = _in_image(draws.boxes_B4.numpy().astype(np.float64), maps.sizes, stored).T
    rows, columns = maps.scores.shape[2:]
    row_BGH = _weights(top_B, bottom_B, patches=grid[0], places=rows)
    column_BGW = _weights(left_B, right_B, patches=grid[1], places=columns)
    for number, target in enumerate(targets):
        # One image at a time: over all classes a batch of maps would not stay in the processor's cache.
        dense_HWC = np.zeros((rows, columns, class_count), np.float32)
        classes_HWK, scores_HWK = (np.moveaxis(part[number], 0, -1) for part in (maps.classes, maps.scores))
        np.put_along_axis(dense_HWC, classes_HWK.astype(np.int64), scores_HWK.astype(np.float32), axis=2)
        aligned_GWC = (row_BGH[number] @ dense_HWC.reshape(rows, -1)).reshape(grid[0], columns, class_count)
        aligned_GGC = column_BGW[number] @ aligned_GWC
        if draws.mirrored_B[number]:
            aligned_GGC = aligned_GGC[:, ::-1]
        target[1:] = _softmax(aligned_GGC.reshape(-1, class_count))
    return targets


def _in_image(boxes_B4: NDArray[np.float64], sizes_B2: NDArray[np.integer[Any]], stored: tuple[int, int]) -> NDArray[np.float64]:
    """Boxes in pixels of the stored image as shares of the whole one, of which only the middle is stored (`decode.fit`)."""
    height_B, width_B = sizes_B2.astype(np.float64).T
    # The image is resized until it just covers the stored size: of one of its sides a part is left over.
    wider_B = (width_B * stored[0]) / (height_B * stored[1])
    width_share_B, height_share_B = np.minimum(1, 1 / wider_B), np.minimum(1, wider_B)
    share_B4 = np.stack([width_share_B, height_share_B] * 2, axis=1)
    within_B4: NDArray[np.float64] = boxes_B4 / np.array([stored[1], stored[0]] * 2)
    return (1 - share_B4) / 2 + share_B4 * within_B4


def _weights(low_B: NDArray[np.float64], high_B: NDArray[np.float64], *, patches: int, places: int) -> NDArray[np.float32]:
    """How much each place along an axis of the map counts for each patch, (B, patches, places): linear interpolation.

    Points outside of the image, into which a shifted crop reaches, have the label at its border.
    """
    middle = (np.arange(patches * _POINTS) + 0.5) / (patches * _POINTS)
    point_BS = low_B[:, None] + middle * (high_B - low_B)[:, None]
    # The middle of the first place is half a place from the border.
    position_BS = np.clip(point_BS * places - 0.5, 0, places - 1)
    weight = np.maximum(0, 1 - np.abs(position_BS[..., None] - np.arange(places)))
    weight_BPM: NDArray[np.float32] = weight.reshape(len(low_B), patches, _POINTS, places).mean(axis=2).astype(np.float32)
    return weight_BPM


def _softmax(scores_PC: NDArray[np.float32]) -> NDArray[np.float32]:
    raised = np.exp(scores_PC - scores_PC.max(axis=1, keepdims=True))
    shares: NDArray[np.float32] = raised / raised.sum(axis=1, keepdims=True)
    return shares
