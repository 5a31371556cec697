"""`own_credentials`: trials read and write stores with the credentials of their node.

Tune takes the driver's along in the environment that it asks Ray for, which each node writes into its logs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ray.tune.execution import class_cache

_CREDENTIALS = "AWS_"
"""What the names of the variables begin with; Tune has those of no other store."""


@contextlib.contextmanager
def own_credentials() -> Iterator[None]:
    """Within it Tune takes none along; it has no argument for that."""
    before = class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in before if not name.startswith(_CREDENTIALS)}
    try:
        yield
    finally:
        class_cache.ENV_VARS_TO_PROPAGATE = before
