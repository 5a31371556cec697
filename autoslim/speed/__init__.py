"""How fast a slimmed model really is, beside the dense one, on the machine at hand."""

from autoslim.speed.apart import kept_table, measure_table_apart
from autoslim.speed.check import check_apart
from autoslim.speed.hardware import hardware
from autoslim.speed.measure import measure_apart

__all__ = ["check_apart", "hardware", "kept_table", "measure_apart", "measure_table_apart"]
