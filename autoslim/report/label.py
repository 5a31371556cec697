"""Text in a picture, placed so that no two labels lie over each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from html import escape

_CHARACTER, _LINE = 6.7, 15.0  # about what 12 px of a sans-serif take


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

    def take(self, x: float, y: float, radius: float) -> None:
        """Asks labels to leave a mark free."""
        self._occupied.append(Box(left=x - radius, top=y - radius, right=x + radius, bottom=y + radius))

    def avoid(self, *boxes: Box) -> None:
        self._occupied.extend(boxes)

    def place(self, text: str, x: float, y: float, *, classes: str, attributes: str = "") -> str:
        """An SVG text next to the point, where it hides least; a thin line leads to it when it is far away."""
        boxes = [self._box(text, x + dx, y + dy, side) for dx, dy, side in _around()]
        # The order of `_around` decides between equals: near before far.
        box = min(boxes, key=self._cost)
        self._occupied.append(box)
        middle = (box.top + box.bottom) / 2
        line = ""
        nearest = min(max(x, box.left), box.right)
        if abs(middle - y) > 2.2 * _LINE or abs(nearest - x) > 2.2 * _LINE:
            line = f'<line class="leader" x1="{x:.1f}" y1="{y:.1f}" x2="{nearest:.1f}" y2="{middle:.1f}"/>'
        label = f'<text class="{classes}" x="{box.left:.1f}" y="{box.bottom - 4:.1f}">{escape(text)}</text>'
        return f"<g {attributes}>{line}{label}</g>" if attributes else line + label

    def _cost(self, box: Box) -> float:
        frame = self._frame
        outside = max(0.0, frame.left - box.left) + max(0.0, box.right - frame.right)
        outside += max(0.0, frame.top - box.top) + max(0.0, box.bottom - frame.bottom)
        return sum(box.overlap(other) for other in self._occupied) + 1000 * outside

    def _box(self, text: str, x: float, y: float, side: float) -> Box:
        width = _CHARACTER * len(text)
        left = x - side * width
        return Box(left=left, top=y - _LINE / 2, right=left + width, bottom=y + _LINE / 2)


def _around() -> list[tuple[float, float, float]]:
    """Offsets and the share of the text to the left of them: above left first, where a front leaves room."""
    places = []
    for distance in (14.0, 26.0, 42.0, 62.0, 86.0, 114.0):
        places += [(-10.0, -distance, 1.0), (-distance, 0.0, 1.0), (distance, 0.0, 0.0), (10.0, distance, 0.0)]
        places += [(0.0, -distance, 0.5), (0.0, distance, 0.5), (10.0, -distance, 0.0), (-10.0, distance, 1.0)]
    return places


def rows_for(spans: Sequence[tuple[float, str]], *, right: float) -> list[tuple[float, int]]:
    """For labels centred at x on a line: their x, moved inside `right`, and the lowest row where they are free of each other."""
    ends: list[float] = []
    placed: dict[int, tuple[float, int]] = {}
    for index, (x, text) in sorted(enumerate(spans), key=lambda item: item[1][0]):
        half = _CHARACTER * len(text) / 2 + 4
        x = max(half, min(x, right - half))
        row = next((row for row, end in enumerate(ends) if end <= x - half), len(ends))
        ends[row : row + 1] = [x + half]
        placed[index] = (x, row)
    return [placed[index] for index in range(len(spans))]
