"""How fast a slimmed model really is, beside the dense one, on the machine at hand."""

from autoslim.speed.measure import hardware, measure_apart

__all__ = ["hardware", "measure_apart"]
