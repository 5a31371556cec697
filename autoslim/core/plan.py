"""`Plan`: what each block of a slimmed transformer computes. Every method's result is one.

FLOPs, parameters, latency, the budget check, loading and pictures follow from the plan, before anything is trained.
"""

from __future__ import annotations

import dataclasses

from autoslim.core.record import Record
from autoslim.core.shape import BlockShape, ViTShape
from autoslim.errors import RequestError


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockPlan(Record):
    """Tokens (prefix included) and widths of one block; 0 `heads` or 0 `hidden` units mean that the sub-layer is removed.

    `tokens_kv` enter norm1, the keys and the values; `tokens_q` the queries and the projection; `tokens_mlp` norm2 and the MLP.
    """

    tokens_kv: int
    tokens_q: int
    tokens_mlp: int
    heads: int
    head_width: int
    hidden: int

    @classmethod
    def dense(cls, shape: BlockShape) -> BlockPlan:
        """What this block of the dense model computes."""
        return cls(
            tokens_kv=shape.tokens,
            tokens_q=shape.tokens,
            tokens_mlp=shape.tokens,
            heads=shape.heads,
            head_width=shape.head_width,
            hidden=shape.hidden,
        )

    @property
    def attention_width(self) -> int:
        return self.heads * self.head_width


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extra(Record):
    """A module that the dense model does not have, such as a life regressor, with its price per image.

    `matmuls` and `norms` are multiply-accumulates, counted as in `cost.flops`; `params` are parameters. `place` is `stem`, `block N` (in
    front of or inside block N, counted from 0) or `head`. `name` identifies the module in a latency table.
    """

    name: str
    place: str
    matmuls: int
    norms: int
    params: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(Record):
    """All blocks from the first, and the modules that a method adds."""

    blocks: tuple[BlockPlan, ...]
    extras: tuple[Extra, ...] = ()

    @classmethod
    def dense(cls, shape: ViTShape, *, class_query: bool = False) -> Plan:
        """The dense model's plan; with `class_query` its last block computes the prefix tokens alone.

        Raises:
            RequestError: for `class_query` where the head reads patches, or the last block can only be run whole.
        """
        blocks = tuple(BlockPlan.dense(block) for block in shape.blocks)
        if not class_query:
            return cls(blocks=blocks)
        if shape.pool == "token" and not shape.reads_prefix_alone:
            raise RequestError("computing only the class query needs a classifier; this model's patches are features, too")
        if shape.pool != "token":
            raise RequestError(f"computing only the class query needs pooling 'token'; this model's is {shape.pool!r}")
        if shape.blocks[-1].whole or shape.blocks[-1].norms_behind:
            raise RequestError("computing only the class query needs blocks whose parts can be run alone; this model's cannot")
        last = blocks[-1].replace(tokens_q=shape.prefix_tokens, tokens_mlp=shape.prefix_tokens)
        return cls(blocks=(*blocks[:-1], last))

    @property
    def tokens_out(self) -> int:
        """Tokens that reach the final norm."""
        return self.blocks[-1].tokens_mlp

    def narrowed(self, shape: ViTShape) -> tuple[int, ...]:
        """The indices of the blocks that have fewer heads, head dimensions or hidden units than the dense model's."""
        return tuple(
            index
            for index, (own, block) in enumerate(zip(shape.blocks, self.blocks, strict=True))
            if (block.heads, block.head_width, block.hidden) != (own.heads, own.head_width, own.hidden)
        )

    def with_tokens(self, tokens: tuple[int, ...]) -> Plan:
        """The same widths with `tokens[i]` tokens in every part of block i, except parts that compute fewer already."""
        assert len(tokens) == len(self.blocks)
        return self.replace(
            blocks=tuple(
                block.replace(tokens_kv=n, tokens_q=min(n, block.tokens_q), tokens_mlp=min(n, block.tokens_mlp))
                for block, n in zip(self.blocks, tokens, strict=True)
            )
        )

    def check(self, shape: ViTShape) -> None:
        """Raises RequestError when the plan does not fit the shape: it exceeds the dense model, or removed tokens reappear."""
        if len(self.blocks) != shape.depth:
            raise RequestError(f"plan has {len(self.blocks)} blocks, the model {shape.depth}")
        tokens = entering = shape.tokens
        for index, (own, block) in enumerate(zip(shape.blocks, self.blocks, strict=True)):
            # A layer between the blocks may join tokens, so that fewer enter than have left the block before.
            if own.tokens != entering:
                tokens = entering = own.tokens
            if not shape.prefix_tokens <= block.tokens_mlp <= block.tokens_q <= block.tokens_kv <= tokens:
                raise RequestError(
                    f"block {index}: tokens {block.tokens_kv}/{block.tokens_q}/{block.tokens_mlp} (kv/q/mlp) must not grow, "
                    f"stay within the {tokens} that reach the block and keep the {shape.prefix_tokens} prefix tokens"
                )
            if block.heads > own.heads or block.head_width > own.head_width or block.hidden > own.hidden:
                raise RequestError(
                    f"block {index}: {block.heads} heads of width {block.head_width} and {block.hidden} hidden units exceed "
                    f"the dense {own.heads} x {own.head_width} and {own.hidden}"
                )
            tokens = block.tokens_mlp
