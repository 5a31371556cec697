"""`benchmarks/` is no package: its files import each other as the command does that is started there."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
