"""Algorithm 1 of Patch Slimming (arXiv 2106.02852): how few patches may a block compute before the next block's output is off by epsilon.

From the last block but one to the first, on cached tokens Z of the dense model: block t gets the original Z_{t-1} and computes its
candidate patches, the next block computes those of its own mask from them, and

    E = |m_{t+1} * (Z^_{t+1} - Z_{t+1})|^2 / |m_{t+1} * Z_{t+1}|^2.

While E is above epsilon, block t is fine-tuned for the candidate and, if that does not help, the next r' best-scored patches are added.
A block keeps what it has learned, for the next candidate and in the slimmed model.

Ours, not the paper's:

- The next block has its dense weights in E; the text does not say. Else what it has learned would count as an error of block t.
- E is relative. The paper's normalisation is unknown, so that its epsilons cannot be compared with ours; the raw |.|^2 is reported, too.
- One search goes through a ladder of epsilons from coarse to fine, each starting from the counts and the blocks of the one before, so
  that it serves every budget.
- A candidate is tuned where that can be enough, that is where E is below `_REACH` epsilon, and at most `TRIES` times an epsilon.
- Tuning fits into a given share of the epochs (`tuning_budget`). It is on the cached images and, where the share pays for more than the
  paper's epochs on these, on further ones of the training split (`token_stream`).
- A block that is off by more than epsilon with what it has learned for fewer patches gets its dense weights back where these are closer.
- With average pooling the last block, which has no next one, is measured by the mean of its patches, untuned.

Shapes: B images, N tokens (prefix included), P patches, K patches that stay, D width, L blocks, E epsilons.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Generator, Iterator

import torch
from torch import Tensor, nn

from autoslim.core import activity
from autoslim.core.result import EpochReport, Phase
from autoslim.core.shape import ViTShape
from autoslim.methods.layers.rectangular_block import block_rows
from autoslim.methods.layers.token_trunk import blocks_of
from autoslim.methods.patch_slimming.impact import Descent, batch_of_maps, order_of, tokens_between_blocks
from autoslim.methods.patch_slimming.pyramid import chosen_blocks, with_last_block
from autoslim.methods.patch_slimming.token_stream import TokenStream, shuffled_batches
from autoslim.methods.patch_slimming.tuning_budget import CANDIDATE_EPOCHS, EPSILONS, TRIES, Passes, patches_per_step
from autoslim.methods.trainer import SharedTrainer, Tensors

_REACH = 2.0
"""A candidate whose error is further above epsilon is left untuned: on a ViT on CIFAR-10 tuning lowers errors by a tenth to a half."""

_LEARNING_RATE = 1e-4
"""Of AdamW for one trained block; the paper does not state its own."""

Rows = tuple[Tensor, Tensor, Tensor]
"""The tokens that a block computes, those that the next one does, and the places of these among the former."""


def ladder(
    shared_trainer: SharedTrainer, images_B3HW: Tensor, *, paths: str, places: str, share: float
) -> Generator[EpochReport, None, Tensors]:
    """Algorithm 1 for each epsilon; yields a report per epsilon.

    `images_B3HW` are the images to measure on, the first ones of the shared trainer's, and `share` is the share of the trial's epochs that
    the search may take. Returns `epsilons` (E,), `counts`, `errors` and `raw_errors` (E, L), and the weights of the blocks that are not the
    dense model's, in half precision, as `restore_blocks` reads them.
    """
    shape = shared_trainer.shape
    passes = Passes.within(share, shared_trainer, len(images_B3HW))
    model = shared_trainer.student().eval().requires_grad_(False)
    images_B3HW = images_B3HW[: passes.measured].to(next(model.parameters()).dtype)
    stream = TokenStream(model, shared_trainer, passes) if passes.streaming else None
    search = _Search(blocks_of(model), tokens_between_blocks(model, images_B3HW), shape, passes, paths, places, stream)
    rungs = []
    weights: Tensors = {}
    least = [1] * shape.depth
    for number, epsilon in enumerate(EPSILONS, 1):
        found = search.run(epsilon, least)
        # A finer epsilon needs at least as many patches, so that the search for it starts from these counts.
        least = [max(count, 1) for count in found.counts]
        rungs.append(found)
        for block in found.changed:
            weights |= {f"{number - 1}.{block}.{name}": v.half() for name, v in search.blocks[block].state_dict().items()}
        metrics = {"epsilon": epsilon, "blocks tuned": float(len(found.tuned))}
        for block in range(shape.depth):
            metrics |= {f"patches {block}": float(found.counts[block]), f"error {block}": found.errors[block]}
            metrics[f"raw error {block}"] = found.raw_errors[block]
        epoch = share * shared_trainer.training.epochs * number / len(EPSILONS)
        yield EpochReport(epoch=round(epoch, 6), phase=Phase.SHARED, metrics=metrics)
    return {
        "epsilons": torch.tensor(EPSILONS),
        "counts": torch.tensor([rung.counts for rung in rungs]),
        "errors": torch.tensor([rung.errors for rung in rungs]),
        "raw_errors": torch.tensor([rung.raw_errors for rung in rungs]),
        **weights,
    }


@torch.no_grad()
def restore_blocks(blocks: list[nn.Module], ladder: Tensors, place: float, counts: list[int], patches: int) -> None:
    """Gives dense blocks the weights that Algorithm 1 has left them with at a place of the ladder, in rungs, in place.

    Between two rungs they are those of the coarser one, tuned for at most as many patches. A block that computes all patches is exact as it
    is. Results of earlier versions hold no weights.
    """
    rung = min(max(int(place), 0), len(ladder["counts"]) - 1)
    for number, (block, count) in enumerate(zip(blocks, counts, strict=True)):
        if count == patches:
            continue
        own = block.state_dict()
        # A block that a rung has not changed is as the rung before has left it.
        for earlier in reversed(range(rung + 1)):
            prefix = f"{earlier}.{number}."
            if f"{prefix}{next(iter(own))}" in ladder:
                block.load_state_dict({name: ladder[f"{prefix}{name}"].to(value.dtype) for name, value in own.items()})
                break


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpsilonResult:
    """Counts and errors per block that one epsilon leads to, the blocks that were tuned, and those whose weights may have changed; a block
    whose count is not chosen has the error 0."""

    counts: list[int]
    errors: list[float]
    raw_errors: list[float]
    tuned: list[int]
    changed: list[int]


class _Search:
    """`blocks` are the model's; tuning replaces them one by one by tuned copies. Without a `stream`, on the cached `tokens` alone."""

    def __init__(
        self,
        blocks: list[nn.Module],
        tokens: list[Tensor],
        shape: ViTShape,
        passes: Passes,
        paths: str,
        places: str,
        stream: TokenStream | None = None,
    ) -> None:
        self.dense, self.blocks = blocks, list(blocks)
        self.tokens, self.shape, self.passes, self.paths, self.places = tokens, shape, passes, paths, places
        self.stream = stream
        self.step = patches_per_step(shape.patches)
        self.batch = batch_of_maps(shape.heads, shape.tokens)

    def run(self, epsilon: float, least: list[int]) -> EpsilonResult:
        """Algorithm 1 from the last block to the first; no block keeps fewer patches than `least`, or than the block behind it."""
        shape, chosen = self.shape, chosen_blocks(self.shape)
        descent = Descent(self.dense, self.tokens, shape, paths=self.paths)
        counts, errors, raw = [0] * shape.depth, [0.0] * shape.depth, [0.0] * shape.depth
        tuned: set[int] = set()
        changed: set[int] = set()
        behind = None
        for number in reversed(range(shape.depth)):
            # With pooling `token` nothing reads the last block's patches, so that it has no count to find.
            if number >= chosen:
                mask_P = descent.inherited
            else:
                with torch.no_grad():
                    patches_BPD = self.tokens[number + 1][:, shape.prefix_tokens :]
                    order = order_of(descent.scores(), patches_BPD, descent.inherited, places=self.places)
                # Candidates: r' patches more at a time, in the order of the scores, until the error is small enough.
                start = max(least[number], int(descent.inherited.sum()))
                tries, carried = TRIES, self.blocks[number]
                # All patches are the last candidate: the dense block's rows are exact then, so that every epsilon is reached.
                for count in [*range(start, shape.patches, self.step), shape.patches]:
                    mask_P = order.mask(count)
                    if count == shape.patches:
                        self.blocks[number] = self.dense[number]
                    errors[number], raw[number] = self._error(number, mask_P, behind)
                    if errors[number] > epsilon and behind is not None:
                        errors[number], raw[number] = self._closer(number, mask_P, behind, (errors[number], raw[number]))
                    if epsilon < errors[number] <= _REACH * epsilon and tries and behind is not None and count < shape.patches:
                        tries -= 1
                        errors[number], raw[number] = self._tune(number, mask_P, behind, (errors[number], raw[number]))
                        tuned.add(number)
                    if errors[number] <= epsilon:
                        break
                counts[number] = count
                # A block that computes all patches is the dense one, and is restored without weights.
                if number in tuned or (self.blocks[number] is not carried and count < shape.patches):
                    changed.add(number)
                if self.stream is not None:
                    self.stream.budget.skip(tries)
            with torch.no_grad():
                descent.keep(mask_P)
            behind = mask_P
        return EpsilonResult(
            counts=with_last_block(shape, counts[:chosen]),
            errors=errors,
            raw_errors=raw,
            tuned=sorted(tuned),
            changed=sorted(changed),
        )

    def _error(self, number: int, mask_P: Tensor, behind_P: Tensor | None) -> tuple[float, float]:
        if behind_P is None:
            return self._error_of_mean(mask_P)
        return self._measure(number, self.blocks[number], self._indices(mask_P, behind_P))

    def _closer(self, number: int, mask_P: Tensor, behind_P: Tensor, own: tuple[float, float]) -> tuple[float, float]:
        """The errors of the dense block for these patches where they are smaller than the block's `own`; it then gets its weights back."""
        if self.blocks[number] is self.dense[number]:
            return own
        # With more patches the dense block's error falls to 0, and that of a block tuned for few of them does not: without this, a fine
        # epsilon would be reached with all patches alone.
        dense = self._measure(number, self.dense[number], self._indices(mask_P, behind_P))
        if dense[0] >= own[0]:
            return own
        self.blocks[number] = self.dense[number]
        return dense

    def _tune(self, number: int, mask_P: Tensor, behind_P: Tensor, before: tuple[float, float]) -> tuple[float, float]:
        """Fine-tunes the block for these patches and returns its errors; where it has got worse, it is left as it was."""
        if not self.passes.tuned:
            return before
        rows = self._indices(mask_P, behind_P)
        block = self._tuned(number, rows)
        after = self._measure(number, block, rows)
        if after[0] >= before[0]:
            return before
        self.blocks[number] = block
        return after

    def _indices(self, mask_P: Tensor, behind_P: Tensor) -> Rows:
        rows_K, rows_next = self._rows(mask_P), self._rows(behind_P)
        return rows_K, rows_next, torch.isin(rows_K, rows_next).nonzero()[:, 0]

    def _rows(self, mask_P: Tensor) -> Tensor:
        prefix = self.shape.prefix_tokens
        return torch.cat((torch.arange(prefix, device=mask_P.device), mask_P.nonzero()[:, 0] + prefix))

    def _error_of_mean(self, mask_P: Tensor) -> tuple[float, float]:
        patches_BPD = self.tokens[-1][:, self.shape.prefix_tokens :]
        whole_BD = patches_BPD.mean(dim=1)
        raw = float((patches_BPD[:, mask_P].mean(dim=1) - whole_BD).square().sum())
        return raw / float(whole_BD.square().sum()), raw

    def _pair(self, number: int, block: nn.Module, x_BND: Tensor, target_BND: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """|difference|^2 and |Z|^2 of the next block's output; the tokens are those that enter the block and that leave the next one."""
        # Each pass of the search comes by here: one rung of the ladder may take an hour without a report.
        activity.mark()
        rows_K, rows_next, within = rows
        # Input and target are the dense model's, as in the paper, and so is the next block: the error is that of this block alone.
        x_BKD = block_rows(block, x_BND, rows_K)
        out_BKD = block_rows(self.dense[number + 1], x_BKD, within, places=rows_K)
        target_BKD = target_BND.index_select(1, rows_next)
        return (out_BKD - target_BKD).square().sum(), target_BKD.square().sum()

    @torch.no_grad()
    def _measure(self, number: int, block: nn.Module, rows: Rows) -> tuple[float, float]:
        off, size = 0.0, 0.0
        for start in range(0, len(self.tokens[0]), self.batch):
            part = slice(start, start + self.batch)
            part_off, part_size = self._pair(number, block, self.tokens[number][part], self.tokens[number + 2][part], rows)
            off, size = off + float(part_off), size + float(part_size)
        return off / size, off

    @torch.enable_grad()
    def _tuned(self, number: int, rows: Rows) -> nn.Module:
        """A copy of the block, fine-tuned for these patches with the next block frozen."""
        # A copy, because tuning may also make it worse, with few images.
        block = copy.deepcopy(self.blocks[number]).requires_grad_(True)
        optimizer = torch.optim.AdamW(block.parameters(), lr=_LEARNING_RATE)
        for x_BND, target_BND in self._batches(number):
            off, size = self._pair(number, block, x_BND, target_BND, rows)
            optimizer.zero_grad()
            (off / size).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return block.requires_grad_(False)

    def _batches(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The tokens that enter the block and those that leave the next one, in batches: of the cached images, then of further ones."""
        # The same order for every candidate: two candidates differ by their patches, and by how many images they have at most.
        generator = torch.Generator().manual_seed(0)
        cached = self.tokens[number], self.tokens[number + 2]
        yield from shuffled_batches(cached, self.passes.tuned, self.batch, generator)
        if self.stream is not None:
            for chunk in self.stream.chunks(number):
                yield from shuffled_batches(chunk, CANDIDATE_EPOCHS * len(chunk[0]), self.batch, generator)
