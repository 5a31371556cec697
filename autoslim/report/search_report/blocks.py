"""What each block of the delivered models computes, beside the dense model's: tokens, attention width, hidden units."""

from __future__ import annotations

from autoslim.core.plan import BlockPlan
from autoslim.core.shape import BlockShape
from autoslim.export.artifact import SlimConfig
from autoslim.report.search_report.content import SearchContent
from autoslim.report.search_report.markup import heading, paragraph, refer
from autoslim.report.text_table import Cell, Column, draw_text_table, numbers

_COLUMNS = (
    Column("Block", "number"),
    Column("Tokens: keys and values"),
    *numbers("Queries", "MLP"),
    Column("Heads x width"),
    Column("Hidden units"),
)


def draw_blocks(content: SearchContent) -> str:
    if not content.models:
        return paragraph("No model was delivered.")
    parts = []
    for model in content.models:
        config = model.config
        parts.append(heading(f"{model.label}: trial {model.trial}, {config.recipe.title}"))
        if (same := content.same_as(model)) is not None:
            parts.append(refer(same))
            continue
        rows = [
            _row(place, own, block)
            for place, (own, block) in enumerate(zip(config.shape.blocks, config.plan.blocks, strict=True))
        ]
        parts.append(paragraph(_dense(config)))
        parts.append(
            draw_text_table(f"Blocks of the model for {model.label}; bars are shares of the dense model", _COLUMNS, rows)
        )
    return "\n".join(parts)


def _row(place: int, own: BlockShape, block: BlockPlan) -> list[str | Cell]:
    return [
        str(place),
        Cell(text=str(block.tokens_kv), bar=block.tokens_kv / own.tokens),
        str(block.tokens_q),
        str(block.tokens_mlp),
        Cell(text=f"{block.heads} x {block.head_width}", bar=block.attention_width / own.attention_width),
        Cell(text=str(block.hidden), bar=block.hidden / own.hidden),
    ]


def _dense(config: SlimConfig) -> str:
    shape = config.shape
    first = shape.blocks[0]
    text = (
        f"The dense model's first block has {first.tokens} tokens, {first.heads} heads of width {first.head_width} and {first.hidden} "
        f"hidden units; {shape.depth} blocks in all."
    )
    if config.flops.varies:
        text += " An image keeps as many tokens as it needs: the tokens here are the most that it can have."
    extras = [f"{extra.name} ({extra.place})" for extra in config.plan.extras]
    return text + (f" The method adds {', '.join(extras)}." if extras else "")
