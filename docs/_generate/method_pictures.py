"""Draws the pictures of the methods' pages: `python docs/_generate/method_pictures.py` writes docs/assets/methods/*.svg.

The pictures show the idea on an invented image of 4 x 4 patches; no number in them is measured.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "assets" / "methods"
INK, SOFT, LINE = "#20242c", "#5b6472", "#c3c9d4"
GONE = "#eceef2"
KEPT = ("#1f5fa8", "#4f8fd0", "#8fb8e3")
WARM = "#d9722e"
SIDE, GAP, CELL = 4, 3, 17
GRID = SIDE * CELL + (SIDE - 1) * GAP


def text(
    x: float, y: float, words: str, *, size: int = 13, color: str = INK, anchor: str = "middle", weight: str = "normal"
) -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{color}" text-anchor="{anchor}" font-weight="{weight}">{words}</text>'


def box(x: float, y: float, width: float, height: float, fill: str, *, line: str = "none", dash: str = "") -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="2.5" fill="{fill}" stroke="{line}"{dashes}/>'


def arrow(x1: float, y1: float, x2: float, y2: float, *, color: str = SOFT, dash: str = "") -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{color}" stroke-width="1.6" marker-end="url(#head)"{dashes}/>'


def grid(x: float, y: float, kept: set[int], color: str = KEPT[0]) -> str:
    """A 4 x 4 image: patches that are computed are filled."""
    cells = []
    for patch in range(SIDE * SIDE):
        row, column = divmod(patch, SIDE)
        there = patch in kept
        cells.append(
            box(
                x + column * (CELL + GAP),
                y + row * (CELL + GAP),
                CELL,
                CELL,
                color if there else GONE,
                line="none" if there else LINE,
            )
        )
    return "".join(cells)


def page(name: str, width: int, height: int, title: str, *parts: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    head = (
        '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        f'<path d="M0 0 8 4 0 8z" fill="{SOFT}"/></marker>'
    )
    (FOLDER / f"{name}.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'font-family="system-ui, sans-serif"><title>{title}</title><defs>{head}</defs>'
        f'<rect width="{width}" height="{height}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


ALL = set(range(16))


def rows_of_images(first: list[set[int]], second: list[set[int]], labels: tuple[str, str]) -> list[str]:
    """Two images through three stages of blocks."""
    parts = []
    for column, name in enumerate(("all patches", "block 2", "block 3", "block 4")):
        x = 110 + column * 145
        parts.append(text(x + GRID / 2, 24, name, color=SOFT))
        for row, stages in enumerate((first, second)):
            y = 38 + row * 112
            parts.append(grid(x, y, stages[column], KEPT[min(column, 2)] if column else KEPT[0]))
            if column:
                parts.append(arrow(x - 60, y + GRID / 2, x - 10, y + GRID / 2))
    parts += [text(92, 38 + GRID / 2 + 4, labels[0], anchor="end"), text(92, 150 + GRID / 2 + 4, labels[1], anchor="end")]
    return parts


def patch_slimming() -> None:
    stages = [ALL, {0, 1, 2, 4, 5, 6, 7, 9, 10, 11, 14}, {1, 2, 5, 6, 9, 10, 11}, {5, 6, 10}]
    parts = rows_of_images(stages, stages, ("image A", "image B"))
    page("patch_slimming", 690, 244, "Patch Slimming computes the same patches of every image", *parts)


def dps() -> None:
    first = [ALL, {0, 1, 2, 4, 5, 6, 7, 9, 10, 11, 14}, {1, 2, 5, 6, 9, 10, 11}, {5, 6, 10}]
    second = [ALL, {2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14}, {7, 8, 9, 11, 12, 13, 14}, {8, 12, 13}]
    parts = rows_of_images(first, second, ("image A", "image B"))
    for column in (1, 2, 3):
        parts.append(
            f'<circle cx="{110 + column * 145 - 35}" cy="{130}" r="13" fill="{WARM}"/>'
            + text(110 + column * 145 - 35, 135, "S", color="#fff", weight="bold")
        )
    page("dps", 690, 244, "DPS chooses patches for each image with a selector in each block", *parts)


def life_regression() -> None:
    lives = [11.6, 11, 10.2, 9.1, 8.3, 7.6, 6.4, 5.7, 5.0, 4.4, 3.4, 2.6]
    left, top, unit, tall = 150, 40, 42, 15
    parts = [
        text(20, top + 6 * tall + 4, "patches, sorted", anchor="start"),
        text(20, top + 6 * tall + 20, "by predicted life", anchor="start"),
    ]
    for drop, number in ((3, 1), (6, 2), (9, 3)):
        x = left + drop * unit
        parts += [
            f'<line x1="{x}" y1="{top - 12}" x2="{x}" y2="{top + 12 * tall + 4}" stroke="{WARM}" stroke-width="2"/>',
            text(x, top - 18, f"drop {number}", color=WARM),
        ]
    for row, life in enumerate(lives):
        ends = next((drop for drop in (3, 6, 9) if life < drop + 0.5), 12)
        parts += [
            box(left, top + row * tall, ends * unit, tall - 4, KEPT[0] if ends == 12 else KEPT[1] if ends == 9 else KEPT[2]),
            box(left + ends * unit, top + row * tall, (12 - ends) * unit, tall - 4, GONE) if ends < 12 else "",
        ]
    for block in range(12):
        parts.append(text(left + block * unit + unit / 2, top + 12 * tall + 18, str(block), size=11, color=SOFT))
    parts.append(text(left + 6 * unit, top + 12 * tall + 38, "block", color=SOFT))
    page("life_regression", 690, 272, "Life regression drops patches when their predicted life ends", *parts)


def sit() -> None:
    parts = [grid(60, 60, ALL), text(60 + GRID / 2, 44, "16 patches", color=SOFT)]
    parts += [
        box(200, 66, 108, 66, "#f4e5da", line=WARM),
        text(254, 95, "slimming"),
        text(254, 112, "module A(x)"),
        arrow(146, 99, 194, 99),
    ]
    for index in range(6):
        row, column = divmod(index, 3)
        parts.append(box(372 + column * 22, 78 + row * 22, 18, 18, KEPT[index % 3]))
    parts += [
        arrow(314, 99, 362, 99),
        text(402, 60, "6 mixed tokens", color=SOFT),
        arrow(446, 99, 492, 99),
        box(500, 66, 90, 66, "#eef3f9", line=KEPT[1]),
        text(545, 103, "blocks"),
        arrow(596, 99, 640, 99),
    ]
    parts += [
        box(490, 176, 110, 50, "#fff", line=SOFT, dash="4 3"),
        text(545, 197, "reverse"),
        text(545, 213, "module"),
        arrow(545, 136, 545, 170, dash="4 3"),
        arrow(484, 201, 330, 201, dash="4 3"),
        text(406, 192, "16 restored patches", size=12, color=SOFT),
        text(322, 197, "match the teacher's", anchor="end"),
        text(322, 213, "patches, in training only", anchor="end"),
    ]
    page("sit", 690, 252, "SiT mixes patches into fewer tokens and restores them in training", *parts)


def merge() -> None:
    # Groups of an image with a light corner, a dark one and something in the middle: (cells, size) from block to block.
    stages = [
        ("all patches", [[patch] for patch in range(16)]),
        ("block 2", [[0, 1, 4], [2], [3], [5], [6], [7], [8, 12], [9], [10], [11], [13], [14, 15]]),
        ("block 3", [[0, 1, 4], [2, 3, 7], [5], [6], [8, 12, 13], [9], [10], [11, 14, 15]]),
        ("block 4", [[0, 1, 4, 2, 3, 7], [5, 6], [9, 10], [8, 12, 13, 11, 14, 15]]),
    ]
    shades = (*KEPT, WARM, "#eab08a", "#7a8699", "#b5bfce", "#f0c9ad")
    parts = []
    for column, (name, groups) in enumerate(stages):
        x, y = 60 + column * 155, 40
        parts.append(text(x + GRID / 2, 24, name, color=SOFT))
        if column:
            parts.append(arrow(x - 66, y + GRID / 2, x - 12, y + GRID / 2))
        for number, group in enumerate(groups):
            for place, patch in enumerate(group):
                row, line = divmod(patch, SIDE)
                left, top = x + line * (CELL + GAP), y + row * (CELL + GAP)
                # The first patch of a group stays in its place and stands for all of it.
                parts.append(box(left, top, CELL, CELL, shades[number % len(shades)] if len(group) > 1 or column else KEPT[0]))
                if not place and len(group) > 1:
                    parts.append(text(left + CELL / 2, top + CELL - 4, str(len(group)), size=11, color="#fff", weight="bold"))
    parts.append(text(60, 140, "patches of one color are one token; the number is its size", anchor="start", size=12, color=SOFT))
    page("merge", 690, 160, "Merging joins similar patches into fewer tokens that carry their sizes", *parts)


def vit_slim() -> None:
    parts = []
    heads = [4, 5, 3]  # the heads of one block keep equally many dimensions
    hidden = [9, 7, 10]
    for index, (name, x) in enumerate((("dense, with masks", 60), ("ranked", 280), ("pruned", 500))):
        parts.append(text(x + 75, 28, name, color=SOFT))
        if index:
            parts.append(arrow(x - 58, 130, x - 14, 130))
        for block in range(3):
            y = 46 + block * 64
            offset = 0.0
            for _ in range(3):
                for unit in range(6):
                    there = unit < heads[block]
                    if index == 2 and not there:
                        continue
                    color = KEPT[0] if there else GONE
                    parts.append(
                        box(
                            x + offset,
                            y,
                            6,
                            20,
                            (KEPT[1] if index == 0 else color),
                            line=LINE if index == 1 and not there else "none",
                        )
                    )
                    offset += 7
                offset += 8
            offset = 0.0
            for unit in range(12):
                there = unit < hidden[block]
                if index == 2 and not there:
                    continue
                color = WARM if there else GONE
                parts.append(
                    box(
                        x + offset,
                        y + 25,
                        9,
                        20,
                        "#eab08a" if index == 0 else color,
                        line=LINE if index == 1 and not there else "none",
                    )
                )
                offset += 12.4
    for block in range(3):
        parts.append(text(48, 46 + block * 64 + 27, f"block {block}", anchor="end", size=11, color=SOFT))
    page("vit_slim", 690, 244, "ViT-Slim ranks widths by masks and removes the lowest", *parts)


if __name__ == "__main__":
    for draw in (patch_slimming, dps, life_regression, sit, merge, vit_slim):
        draw()
