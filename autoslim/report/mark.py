"""The colour and the shape of each method: either is enough to distinguish them."""

from __future__ import annotations

# Unit-sized, about equal in area. The colours are in front.css as .c0 to .c7, after Okabe and Ito.
_SHAPES = (
    "M-1,0A1,1 0 1 0 1,0A1,1 0 1 0 -1,0Z",  # circle
    "M-.88,-.88H.88V.88H-.88Z",  # square
    "M0,-1.2L1.1,.75H-1.1Z",  # triangle
    "M0,-1.25L1.25,0L0,1.25L-1.25,0Z",  # diamond
    "M0,1.2L1.1,-.75H-1.1Z",  # triangle on its tip
    "M-.36,-1.1H.36V-.36H1.1V.36H.36V1.1H-.36V.36H-1.1V-.36H-.36Z",  # plus
    "M0,-1.15L1.1,-.36L.68,.93H-.68L-1.1,-.36Z",  # pentagon
)
STAR = "M0,-1.5L.42,-.5L1.45,-.46L.64,.2L.92,1.2L0,.62L-.92,1.2L-.64,.2L-1.45,-.46L-.42,-.5Z"
_COLOURS = 8


def shape(index: int) -> str:
    """Seven shapes and eight colours: the first 56 methods all differ."""
    return _SHAPES[index % len(_SHAPES)]


def colour(index: int) -> str:
    return f"c{index % _COLOURS}"
