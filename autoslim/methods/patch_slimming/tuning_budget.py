"""How many images Algorithm 1 measures errors on, and how many it tunes each candidate on, so that it takes its share of the epochs.

A pass is one image through the two blocks of a candidate, forward and backward: 2 / depth of an epoch's work on it. Forward alone is a
third of that.
"""

from __future__ import annotations

import dataclasses
import math

from autoslim.core.shape import ViTShape
from autoslim.methods.patch_slimming.pyramid import chosen_blocks
from autoslim.methods.trainer import SharedTrainer

EPSILONS = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""Relative errors, about half a decade apart; finer ones keep nearly every patch. The paper's are 0.01 and 0.02, of an error whose
normalisation it does not publish, so that neither can be put on this scale; a budget needs coarser and finer ones, too."""

TRIES = 2
"""Candidates of a block that are tuned for one epsilon. Fewer candidates have more images each."""

CANDIDATE_EPOCHS = 3
"""Epochs of tuning per candidate, as in the paper; fewer where the share of the epochs does not allow them."""

STEP_OF_PAPER = 10 / 196
"""The paper's r' over the patches of its models: 10 of 14 x 14."""

_TUNING = 0.75
"""Share of the passes that tune; the others measure."""

_LEAST_IMAGES = 16
"""Images that errors are measured on even where the share of the epochs pays for fewer."""


def patches_per_step(patches: int) -> int:
    """r', how many patches a candidate has more than the one before: the paper's 10 of 196, in proportion for other sizes of the image."""
    return max(1, round(patches * STEP_OF_PAPER))


def steps_to_all(patches: int) -> int:
    """The most candidates on the way from few to all patches."""
    return math.ceil(patches / patches_per_step(patches))


def most_tunings(shape: ViTShape) -> int:
    """The most candidates that a search tunes."""
    return chosen_blocks(shape) * len(EPSILONS) * TRIES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Passes:
    """Errors are measured on `measured` images, whose tokens are cached, and each candidate is tuned in `tuned` passes over these.

    Where the share of the epochs pays for more than the paper's epochs on them, candidates are tuned on further images, too, and
    `streaming` are the passes of all tunings together; elsewhere it is 0.
    """

    measured: int
    tuned: int
    streaming: float = 0.0

    @classmethod
    def within(cls, share: float, shared_trainer: SharedTrainer, images: int) -> Passes:
        """The passes for `share` of the epochs; the tokens of at most `images` images are cached."""
        shape = shared_trainer.shape
        image_passes = share * shared_trainer.training.epochs * shared_trainer.epoch_images * shape.depth / 2
        # At most: every block tries one count per epsilon, and `steps_to_all` more on the way from few to all patches. What is tuned is
        # measured again.
        tunings, counts = most_tunings(shape), chosen_blocks(shape) * (len(EPSILONS) + steps_to_all(shape.patches))
        measurements = counts + tunings
        measured = min(images, max(_LEAST_IMAGES, int(3 * (1 - _TUNING) * image_passes / measurements)))
        tuned = min(CANDIDATE_EPOCHS * measured, int(_TUNING * image_passes / tunings))
        streaming = 0.0
        if measured == images and tuned == CANDIDATE_EPOCHS * measured:
            # All cached images are measured, which takes little of a long trial's share: the rest tunes. Every count may be measured with
            # the dense block, too.
            streaming = max(0.0, image_passes - (measurements + counts) * measured / 3)
        return cls(measured=measured, tuned=tuned, streaming=streaming)


class TuningBudget:
    """Shares `Passes.streaming` out among the candidates that may still be tuned, evenly: what candidates leave that need no tuning goes to
    the later ones."""

    def __init__(self, passes: Passes, shape: ViTShape, epoch_images: int) -> None:
        self._cached, self._left, self._tunings = passes.tuned, passes.streaming, most_tunings(shape)
        # With all images of the split a candidate has the paper's epochs.
        self._most = epoch_images - passes.measured
        # Beside the passes, the dense model's forward pass, which computes the tokens: `depth` blocks, a third of a pass for each two.
        self._price = CANDIDATE_EPOCHS + shape.depth / 6

    def further_images(self) -> int:
        """How many images beyond the cached ones the next candidate is tuned on."""
        own = self._left / self._tunings - self._cached
        return max(0, min(self._most, int(own / self._price)))

    def spend(self, images: int) -> None:
        """Counts a candidate that was tuned, on so many further images."""
        self._left -= self._cached + images * self._price
        self._tunings -= 1

    def skip(self, tunings: int) -> None:
        """Counts candidates that were not tuned and will not be."""
        self._tunings -= tunings
