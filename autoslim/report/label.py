"""Text in a picture, placed so that no two labels lie over each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from html import escape

# Pixels that a character takes in width and a line in height, in a sans-serif font of 12 px: estimates, since only the browser knows.
_CHARACTER_WIDTH, _LINE_HEIGHT = 6.7, 15.0
# From the bottom of a line's box up to its baseline, which SVG places text by.
_BASELINE_OFFSET = 4.0
# A label farther than this from its point has a leader line; nearer ones are read as belonging to it.
_LEADER_DISTANCE = 2.2 * _LINE_HEIGHT
# What a pixel outside the frame costs, in square pixels of overlap: a label that is cut off is worse than any overlap.
_OUTSIDE_COST = 1000.0
# Between the texts of two labels in one row.
_ROW_GAP = 8.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Box:
    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)


class Labels:
    """Places labels inside `frame` without overlap, as far as possible."""

    def __init__(self, frame: Box) -> None:
        self._frame = frame
        self._occupied: list[Box] = []

    def reserve_mark(self, x: float, y: float, radius: float) -> None:
        """Keeps later labels off a mark, as far as possible."""
        self._occupied.append(Box(left=x - radius, top=y - radius, right=x + radius, bottom=y + radius))

    def reserve(self, *boxes: Box) -> None:
        """Keeps later labels off these boxes, as far as possible."""
        self._occupied.extend(boxes)

    def place(self, text: str, x: float, y: float, *, classes: str, attributes: str = "") -> str:
        """An SVG text next to the point, where it hides least; a thin line leads to it when it is far away."""
        boxes = [self._box(text, x + dx, y + dy, anchor) for dx, dy, anchor in _candidate_offsets()]
        # The order of the offsets decides between equals: near before far.
        box = min(boxes, key=self._cost)
        self._occupied.append(box)
        middle = (box.top + box.bottom) / 2
        line = ""
        nearest = min(max(x, box.left), box.right)
        if abs(middle - y) > _LEADER_DISTANCE or abs(nearest - x) > _LEADER_DISTANCE:
            line = f'<line class="leader" x1="{x:.1f}" y1="{y:.1f}" x2="{nearest:.1f}" y2="{middle:.1f}"/>'
        label = f'<text class="{classes}" x="{box.left:.1f}" y="{box.bottom - _BASELINE_OFFSET:.1f}">{escape(text)}</text>'
        return f"<g {attributes}>{line}{label}</g>" if attributes else line + label

    def _cost(self, box: Box) -> float:
        """The area that `box` would hide, in square pixels, and a high price for what of it is outside the frame."""
        frame = self._frame
        outside = max(0.0, frame.left - box.left) + max(0.0, box.right - frame.right)
        outside += max(0.0, frame.top - box.top) + max(0.0, box.bottom - frame.bottom)
        return sum(box.overlap(other) for other in self._occupied) + _OUTSIDE_COST * outside

    def _box(self, text: str, x: float, y: float, anchor: float) -> Box:
        """The box of `text` whose point at the share `anchor` of its width, from the left, is (x, y)."""
        width = _CHARACTER_WIDTH * len(text)
        left = x - anchor * width
        return Box(left=left, top=y - _LINE_HEIGHT / 2, right=left + width, bottom=y + _LINE_HEIGHT / 2)


def _candidate_offsets() -> list[tuple[float, float, float]]:
    """(dx, dy, anchor) of every position that is tried: above left first, where a front leaves room; `anchor` as in `Labels._box`."""
    places = []
    for distance in (14.0, 26.0, 42.0, 62.0, 86.0, 114.0):
        places += [(-10.0, -distance, 1.0), (-distance, 0.0, 1.0), (distance, 0.0, 0.0), (10.0, distance, 0.0)]
        places += [(0.0, -distance, 0.5), (0.0, distance, 0.5), (10.0, -distance, 0.0), (-10.0, distance, 1.0)]
    return places


def stack_in_rows(labels: Sequence[tuple[float, str]], *, right: float) -> list[tuple[float, int]]:
    """Places labels (x of the centre, text) above a line: for each its x, moved to between 0 and `right`, and the lowest row in which it
    overlaps no other.
    """
    ends: list[float] = []
    placed: dict[int, tuple[float, int]] = {}
    for index, (x, text) in sorted(enumerate(labels), key=lambda item: item[1][0]):
        half = (_CHARACTER_WIDTH * len(text) + _ROW_GAP) / 2
        x = max(half, min(x, right - half))
        row = next((row for row, end in enumerate(ends) if end <= x - half), len(ends))
        ends[row : row + 1] = [x + half]
        placed[index] = (x, row)
    return [placed[index] for index in range(len(labels))]
