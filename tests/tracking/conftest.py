import sys
from pathlib import Path

# `sample_search` lies one folder up, for the tests of three folders.
sys.path.append(str(Path(__file__).parents[1]))
