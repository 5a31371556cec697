"""Draws docs/assets/front.svg from a finished `make demo`: `python docs/_generate/front_picture.py runs/demo`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
from method_pictures import INK, LINE, SOFT, text

TARGET = Path(__file__).parents[1] / "assets" / "front.svg"
WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 190, 20, 52
COLORS = {
    "patch_slimming": "#1f5fa8",
    "dps": "#d9722e",
    "life_regression": "#2f8f5b",
    "sit": "#8a56ac",
    "merge": "#7a8699",
    "vit_slim": "#b8860b",
    "width": "#00798c",
    "life_regression_merging": "#83c9a0",
    "patch_slimming_merging": "#7fabdc",
    "sit_seeded": "#c7a5dd",
}
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def chosen(trials: list[dict[str, Any]], budget: float) -> dict[str, Any]:
    """The most accurate complete trial within the budget, at equal accuracy the cheaper one."""
    within = [trial for trial in trials if trial["state"] == "complete" and trial["flops"] <= budget]
    return min(within, key=lambda trial: (-trial["accuracy"], trial["flops"]))


def draw(trials: list[dict[str, Any]]) -> str:
    seen = [trial for trial in trials if trial["accuracy"] is not None]
    dense = max(trial["flops"] / trial["flops_share"] for trial in seen if trial["flops_share"])
    budgets = sorted({int(trial["target"].rstrip("%")) for trial in trials if str(trial["target"]).endswith("%")})
    low = min(trial["accuracy"] for trial in seen) - 0.02

    def x(share: float) -> float:
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(accuracy: float) -> float:
        return TOP + (1 - (accuracy - low) / (1 - low)) * (HEIGHT - TOP - BOTTOM)

    floor = HEIGHT - BOTTOM
    parts = [f'<line x1="{LEFT}" y1="{floor}" x2="{x(1):g}" y2="{floor}" stroke="{SOFT}"/>']
    for share in SHARES:
        parts.append(text(x(share), floor + 18, f"{share:.0%}", size=12, color=SOFT))
    parts.append(text(x(0.5), floor + 40, "FLOPs, share of the dense model", size=13))
    for accuracy in (0.85, 0.9, 0.95, 1.0):
        parts.append(
            f'<line x1="{LEFT}" y1="{y(accuracy):g}" x2="{x(1):g}" y2="{y(accuracy):g}" stroke="{LINE}" stroke-width=".6"/>'
        )
        parts.append(text(LEFT - 8, y(accuracy) + 4, f"{accuracy:.0%}", size=12, color=SOFT, anchor="end"))
    parts.append(
        f'<text transform="translate(16 {(TOP + floor) / 2:g}) rotate(-90)" font-size="13" fill="{INK}" text-anchor="middle">'
        "validation accuracy</text>"
    )
    for budget in budgets:
        line = f'stroke="{SOFT}" stroke-dasharray="4 4"'
        parts.append(f'<line x1="{x(budget / 100):g}" y1="{TOP}" x2="{x(budget / 100):g}" y2="{floor}" {line}/>')
        parts.append(text(x(budget / 100), TOP - 6, f"{budget}%", size=12, color=SOFT))
    front = sorted((trial for trial in seen if trial["pareto"]), key=lambda trial: trial["flops"])
    path = " ".join(f"{x(trial['flops'] / dense):g},{y(trial['accuracy']):g}" for trial in front)
    parts.append(f'<polyline points="{path}" fill="none" stroke="{INK}" stroke-width="1.4"/>')
    for winner in {trial["number"]: trial for trial in (chosen(trials, budget / 100 * dense) for budget in budgets)}.values():
        at = f'cx="{x(winner["flops"] / dense):g}" cy="{y(winner["accuracy"]):g}"'
        parts.append(f'<circle {at} r="10" fill="none" stroke="{INK}" stroke-width="1.6"/>')
    for trial in seen:
        color, complete = COLORS[trial["method"]], trial["state"] == "complete"
        at = f'cx="{x(trial["flops"] / dense):g}" cy="{y(trial["accuracy"]):g}"'
        parts.append(f'<circle {at} r="5" fill="{color if complete else "#fff"}" stroke="{color}" stroke-width="1.8"/>')
    there = {method: color for method, color in COLORS.items() if any(trial["method"] == method for trial in seen)}
    for row, (method, color) in enumerate(there.items()):
        parts.append(f'<circle cx="{x(1) + 26:g}" cy="{TOP + 18 + row * 24}" r="5" fill="{color}"/>')
        parts.append(text(x(1) + 40, TOP + 22 + row * 24, method, anchor="start"))
    for row, (words, ring) in enumerate((("pruned trial", False), ("chosen", True))):
        below = TOP + 18 + 24 * len(there) + 12 + row * 26
        at = f'cx="{x(1) + 26:g}" cy="{below}"'
        parts.append(f'<circle {at} r="{9 if ring else 5}" fill="none" stroke="{INK if ring else SOFT}" stroke-width="1.6"/>')
        parts.append(text(x(1) + 40, below + 4, words, anchor="start"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'font-family="system-ui, sans-serif"><title>Validation accuracy over FLOPs of every trial</title>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


if __name__ == "__main__":
    TARGET.write_text(draw(pyarrow.parquet.read_table(Path(sys.argv[1]) / "trials.parquet").to_pylist()))
