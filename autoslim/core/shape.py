"""`ViTShape`: a dense vision transformer in the numbers that determine its FLOPs and parameters; `BlockShape`: one of its blocks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Self

from autoslim.core.record import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Price(Record):
    """Multiply-accumulates per image of a part that no plan changes, such as a convolutional stem: matrix products, and norms."""

    matmuls: int
    norms: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionPool(Record):
    """Pooling by learned queries that attend to the tokens that are left.

    `per_token` are the multiply-accumulates for each token that is read: its key, its value, and its products with the queries.
    `fixed` is what does not depend on them: the queries, the projection and the MLP.
    """

    per_token: int
    fixed: Price


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockShape(Record):
    """One block of a dense model.

    `dim` is the width of its tokens, `tokens` how many enter it (prefix included); with `window`, each attends to that many alone, 0
    stands for all. `hidden` are the MLP's units, each in `mlp_matrices` matrices of `dim`: two, or three where the units are gated
    (SwiGLU). `norm` is the kind of all norms, `layer` or `rms`; the flags say which there are besides the two in front of the sub-layers:
    on each head's queries and keys, behind the attention, and behind the activation. `between` is what is computed in front of the
    block, such as a layer that joins neighbouring tokens.

    With `positions` the attention's logits depend on where in the image tokens are; `rotary` says that queries and keys are rotated, or
    changed in another way that mixes the dimensions of a head. `head_params` and `head_matmuls` are the parameters and the
    multiply-accumulates of positions that a head has for itself, `shared_params` and `shared_matmuls` those of all heads together.
    `qkv_bias` says whether queries, keys and values have biases, `key_bias` whether keys do where the others have them.

    A `whole` block can be run on tokens, and none of its parts alone: it may have several `branches` of attention and MLP, each of the
    widths above, or one norm for both (`shared_norm`). With `norms_behind`, norms are applied to what the sub-layers compute instead of
    what they read.
    """

    dim: int
    tokens: int
    heads: int
    head_width: int
    hidden: int
    mlp_matrices: int = 2
    window: int = 0
    norm: str = "layer"
    qk_norm: bool = False
    attention_norm: bool = False
    mlp_norm: bool = False
    qkv_bias: bool = True
    key_bias: bool = True
    mlp_bias: bool = True
    positions: bool = False
    rotary: bool = False
    head_params: int = 0
    head_matmuls: int = 0
    shared_params: int = 0
    shared_matmuls: int = 0
    between: Price = Price(matmuls=0)
    whole: bool = False
    branches: int = 1
    shared_norm: bool = False
    norms_behind: bool = False

    @property
    def attention_width(self) -> int:
        return self.heads * self.head_width

    @property
    def tied_dims(self) -> bool:
        """Whether a norm or a rotation ties the dimensions of a head's queries and keys, so that none can be removed exactly."""
        return self.qk_norm or self.rotary


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTShape(Record):
    """The shape of a dense model, made by `autoslim.models.read_shape`; all counts are per image.

    `image_size` is (height, width) in pixels, `grid` in patches. `patch_inputs` is channels x patch height x patch width, unless `stem`
    is given: the price of an embedding that is more than one projection of the patches. `pool` is timm's `global_pool`, or `map` for
    `attention_pool`; `pool_prefix` says whether it reads prefix tokens, too. `classifiers` is 2 for a distilled DeiT and 0 for a model
    that returns features.

    `dim` to `hidden`, `qk_norm`, `norm` and what follows it are those of every block, as in `BlockShape`. Where blocks differ, `own_blocks`
    describes each, and these fields are the first block's. The flags `pre_norm`, `final_norm` and `pooled_norm` say which norms there
    are outside of the blocks.

    `params` counts the dense model's parameters (0 in shapes stored by older versions). `class_token` says whether the first prefix
    token, if there is one, is a class token; False where all of them are registers.
    """

    image_size: tuple[int, int]
    grid: tuple[int, int]
    patch_inputs: int
    prefix_tokens: int
    depth: int
    dim: int
    heads: int
    head_width: int
    hidden: int
    classes: int
    classifiers: int
    pool: str
    pre_norm: bool
    final_norm: bool
    pooled_norm: bool
    qk_norm: bool
    params: int = 0
    qkv_bias: bool = True
    mlp_bias: bool = True
    key_bias: bool = True
    positions: bool = False
    rotary: bool = False
    head_params: int = 0
    class_token: bool = True
    norm: str = "layer"
    mlp_matrices: int = 2
    attention_norm: bool = False
    mlp_norm: bool = False
    whole: bool = False
    branches: int = 1
    shared_norm: bool = False
    norms_behind: bool = False
    pool_prefix: bool = False
    stem: Price | None = None
    attention_pool: AttentionPool | None = None
    own_blocks: tuple[BlockShape, ...] = ()

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def tokens(self) -> int:
        """Patches plus prefix tokens (class, distillation, registers)."""
        return self.patches + self.prefix_tokens

    @property
    def chance(self) -> float:
        """The accuracy of guessing one of equally frequent classes; 0 without classes, where the score is no accuracy."""
        return 1 / self.classes if self.classes else 0.0

    @property
    def reads_prefix_alone(self) -> bool:
        """Whether nothing reads patches behind the last block. Of a model without a classifier, they are features, too."""
        return self.pool == "token" and self.classifiers > 0

    @functools.cached_property
    def blocks(self) -> tuple[BlockShape, ...]:
        """Every block from the first."""
        if self.own_blocks:
            return self.own_blocks
        shared: dict[str, Any] = {name: getattr(self, name) for name in _shared_fields()}
        return (BlockShape(tokens=self.tokens, **shared),) * self.depth

    @property
    def windowed(self) -> bool:
        """Whether tokens attend to a window of the image alone, so that all of them have to be there."""
        return any(block.window for block in self.blocks)

    @functools.cached_property
    def kinds(self) -> tuple[BlockShape, ...]:
        """The different blocks that there are."""
        return tuple(dict.fromkeys(self.blocks))

    @classmethod
    def of_blocks(cls, blocks: Sequence[BlockShape], **others: Any) -> Self:
        """The shape of a model with these blocks; `others` are the fields that say nothing of blocks."""
        made = cls(depth=len(blocks), **{name: getattr(blocks[0], name) for name in _shared_fields()}, **others)
        # Blocks that differ, and those that are more than the fields of a `ViTShape` can say.
        return made if made.blocks == tuple(blocks) else made.replace(own_blocks=tuple(blocks))


@functools.cache
def _shared_fields() -> tuple[str, ...]:
    """What `ViTShape` and `BlockShape` both have is the same fact, so that a new field needs no other line."""
    own = {field.name for field in dataclasses.fields(BlockShape)}
    return tuple(field.name for field in dataclasses.fields(ViTShape) if field.name in own)
