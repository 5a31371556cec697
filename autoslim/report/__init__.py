"""Pictures of a search."""

from autoslim.report.front_picture import render_front

__all__ = ["render_front"]
