"""How fast a slimmed model really is, beside the dense one, on the machine at hand."""

from autoslim.export.profiling.benchmark import measure_apart
from autoslim.export.profiling.check import check_apart
from autoslim.export.profiling.hardware import hardware
from autoslim.export.profiling.in_subprocess import kept_table, measure_table_apart

__all__ = ["check_apart", "hardware", "kept_table", "measure_apart", "measure_table_apart"]
