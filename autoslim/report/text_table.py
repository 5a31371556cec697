"""A table of texts as markup: scrolls sideways where it is wider than the page, also by keyboard, and says what heads each cell."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from html import escape


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """`text` as it is read; `strong` marks the best of a column, `bar` (0 to 1) draws a share beside the text."""

    text: str
    strong: bool = False
    bar: float | None = None


@dataclasses.dataclass(frozen=True)
class Column:
    """`kind` is `text`, `number` (to the right), or `wide` for what may take several lines."""

    name: str
    kind: str = "text"


def numbers(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name, "number") for name in names)


def draw_text_table(name: str, columns: Sequence[Column], rows: Iterable[Sequence[str | Cell]]) -> str:
    """`name` is the caption. The first cell of a row is its head; every text is escaped."""
    heads = "".join(f'<th scope="col" class="{column.kind}">{_head(column.name)}</th>' for column in columns)
    body = "\n".join(_row(columns, row) for row in rows)
    return (
        f'<div class="scroll" role="region" aria-label="{escape(name)}" tabindex="0"><table class="plain">'
        f"<caption><span>{escape(name)}</span></caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def html_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """For a notebook, which has its own style; every text is escaped."""
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _head(name: str) -> str:
    """A unit stays with its number where the head takes several lines."""
    return escape(name).replace(" %", "&nbsp;%")


def _row(columns: Sequence[Column], row: Sequence[str | Cell]) -> str:
    cells = [cell if isinstance(cell, Cell) else Cell(text=cell) for cell in row]
    first, *others = (_content(cell) for cell in cells)
    rest = "".join(f'<td class="{column.kind}">{text}</td>' for column, text in zip(columns[1:], others, strict=True))
    return f'<tr><th scope="row" class="{columns[0].kind}">{first}</th>{rest}</tr>'


def _content(cell: Cell) -> str:
    text = escape(cell.text)
    if cell.strong:
        text = f"<strong>{text}</strong>"
    if cell.bar is None:
        return text
    # Attributes of SVG, because the page's policy forbids styles of single elements.
    width = 100 * min(max(cell.bar, 0.0), 1.0)
    drawn = f'<rect class="whole" width="100" height="8"/><rect class="part" width="{width:.1f}" height="8"/>'
    return f'<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">{drawn}</svg>{text}'
