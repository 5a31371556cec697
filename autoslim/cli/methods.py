"""`autoslim methods`."""

from __future__ import annotations

import json
import sys

from autoslim.cli.table import columns
from autoslim.errors import RequestError
from autoslim.methods import METHODS
from autoslim.methods.base import Method
from autoslim.methods.knob import Knob


def show_methods(name: str | None, *, as_json: bool) -> None:
    if name is not None and name not in METHODS:
        raise RequestError(f"METHOD is {name!r}; allowed: {', '.join(METHODS)}")
    chosen = [METHODS[name]] if name is not None else list(METHODS.values())
    if as_json:
        sys.stdout.write(json.dumps([_described(method) for method in chosen]) + "\n")
        return
    if name is None:
        rows: list[tuple[str, ...]] = [
            ("method", "paper", "knobs"),
            *((method.name, method.paper, str(len(_set_by_hand(method)))) for method in chosen),
        ]
        lines = [*columns(rows, header=True), "", "autoslim methods METHOD lists the knobs of one"]
    else:
        rows = [("knob", "default", "allowed", "what it is")]
        rows += [(knob, _text(each.default), _allowed(each), each.help) for knob, each in _set_by_hand(chosen[0]).items()]
        lines = [f"{name}: {chosen[0].paper}", "", *columns(rows, header=True)]
    sys.stdout.write("\n".join(lines) + "\n")


def _described(method: Method) -> dict[str, object]:
    knobs = {name: knob.to_dict() for name, knob in _set_by_hand(method).items()}
    return {"name": method.name, "paper": method.paper, "knobs": knobs}


def _set_by_hand(method: Method) -> dict[str, Knob]:
    """Without those that only the solver sets."""
    return {name: knob for name, knob in method.ranges.items() if knob.searched}


def _allowed(knob: Knob) -> str:
    if knob.kind == "choice":
        return ", ".join(map(_text, knob.choices or ()))
    low, high = knob.widest
    return f"{low:g} to {high:g}" + (" of the depth" if knob.kind == "layer" else "")


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
