"""Values by name as they are typed on a command line: `depth=6,act_layer=relu,img_size=(48,32)`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from autoslim.errors import RequestError


def parse_pairs(text: str) -> dict[str, Any]:
    """Values are Python literals where they can be read as such, else text.

    Raises:
        RequestError: for what is not a list of `name=value`; the message follows the name of the setting and a colon.
    """
    pairs: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in _split(text))):
        name, equals, value = item.partition("=")
        if not equals or not name.isidentifier():
            raise RequestError(f"{item!r} is not of the form name=value")
        try:
            pairs[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            pairs[name] = value
    return pairs


def _split(text: str) -> Iterator[str]:
    """At the commas outside of brackets: `img_size=(48,32)` is one value."""
    depth, start = 0, 0
    for place, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth <= 0:
            yield text[start:place]
            start = place + 1
    yield text[start:]
