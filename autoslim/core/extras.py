"""Optional dependencies: the base install loads, counts and slims; extras of the package add the search, the service, its client, its
tools of the Model Context Protocol, data sets of the Hugging Face hub and OpenVINO.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

from autoslim.errors import MissingExtraError

PackageExtra = Literal["search", "service", "client", "hub", "mcp", "openvino"]

_OURS = ("autoslim", "workers", "search_spaces")


@contextlib.contextmanager
def needs_extra(extra: PackageExtra, purpose: str) -> Iterator[None]:
    """Says which extra is missing where a package of it cannot be imported; as a decorator, of a whole function.

    Args:
        extra: The extra that has every package the block imports.
        purpose: What needs it, for the message, as "autoslim search".

    Raises:
        MissingExtraError: with the command that installs the extra.
    """
    try:
        yield
    except MissingExtraError as error:
        # The outermost block knows what the user asked for, and its extra contains those of the parts it is made of.
        raise MissingExtraError(extra, purpose, package=error.package) from error
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in _OURS:
            raise
        raise MissingExtraError(extra, purpose, package=package) from error
