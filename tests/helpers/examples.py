"""How many examples a property is tried on: all in `make test-all`, a fifth in `make test`, which has eight minutes."""

from __future__ import annotations

import os

THOROUGH = os.environ.get("AUTOSLIM_TEST_THOROUGH") == "1"


def examples(full: int) -> int:
    return full if THOROUGH else max(3, full // 5)
