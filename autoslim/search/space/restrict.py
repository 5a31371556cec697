"""Restricts a knob to what a space file says: one value, a list of values, or `{low, high, log}`."""

from __future__ import annotations

import difflib
import math
import reprlib
from collections.abc import Iterable
from typing import Any

from autoslim.errors import SpaceError
from autoslim.methods.knob import Knob
from autoslim.search.space.space import is_same_value

_KEYS = ("low", "high", "log")
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 2, 4, 4


def narrow(knob: Knob, value: Any, where: str) -> Knob:
    """The knob restricted to `value`; its default is moved inside. `where` is the file and key that errors name.

    Raises:
        SpaceError: for a value outside the knob's own range, or of another kind.
    """
    if isinstance(value, dict):
        return _narrow_range(knob, value, where)
    if isinstance(value, list):
        return _narrow_list(knob, value, where)
    if knob.kind == "choice":
        chosen = _choice(knob, value, where)
        return knob.replace(choices=(chosen,), default=chosen)
    number = _number(knob, value, where)
    return knob.replace(low=number, high=number, default=number, log=False)


def short_repr(value: Any) -> str:
    """A value for an error message; short even where aliases in a file nest it deeply."""
    return _SHORT.repr(value)


def refuse_unknown(key: Any, allowed: Iterable[str], where: str, what: str) -> None:
    """Raises SpaceError unless `key` is in `allowed`; the closest name is suggested."""
    names = list(allowed)
    if key in names:
        return
    close = difflib.get_close_matches(str(key)[:100], names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    raise SpaceError(f"{where}: there is no {what} {short_repr(key)}{hint} allowed: {', '.join(names) or 'none'}")


def _narrow_range(knob: Knob, value: dict[Any, Any], where: str) -> Knob:
    if knob.kind == "choice":
        raise SpaceError(f"{where}: has no low and high; write one value or a list; allowed: {_allowed(knob)}")
    for key in value:
        refuse_unknown(key, _KEYS, where, "range key")
    if not value:
        raise SpaceError(f"{where}: {{}} says nothing; write {{low: …, high: …}}, or leave the knob out for {_allowed(knob)}")
    # An end that is not given stays the knob's own.
    low = _number(knob, value.get("low", knob.low), f"{where}.low")
    high = _number(knob, value.get("high", knob.high), f"{where}.high")
    log = value.get("log", knob.log and low > 0)
    if low > high:
        raise SpaceError(f"{where}: low {low:g} is above high {high:g}; allowed: {_allowed(knob)}")
    if not isinstance(log, bool):
        raise SpaceError(f"{where}.log is {short_repr(log)}; allowed: true, false")
    if log and (low <= 0 or knob.kind == "layer"):
        raise SpaceError(f"{where}.log: a logarithmic range must start above 0 and cannot be one of blocks; allowed: false")
    return knob.replace(low=low, high=high, log=log, default=min(max(knob.default, low), high))


def _narrow_list(knob: Knob, value: list[Any], where: str) -> Knob:
    if not value:
        raise SpaceError(f"{where}: the list is empty; allowed: {_allowed(knob)}")
    # The solver moves such knobs continuously; between the values of a list there is nothing that it could move to.
    if knob.kind == "layer" or (knob.cost_sign and knob.kind != "choice"):
        raise SpaceError(
            f"{where}: is a list, but the solver needs the values in between; write {{low: …, high: …}} within {_allowed(knob)}"
        )
    read = _choice if knob.kind == "choice" else _number
    chosen = [read(knob, item, where) for item in value]
    twice = [item for index, item in enumerate(chosen) if any(is_same_value(item, other) for other in chosen[:index])]
    if twice:
        raise SpaceError(f"{where}: {twice[0]!r} is listed twice")
    default = knob.default if any(is_same_value(knob.default, item) for item in chosen) else chosen[0]
    return Knob(kind="choice", help=knob.help, default=default, choices=tuple(chosen))


def _choice(knob: Knob, value: Any, where: str) -> Any:
    assert knob.choices is not None
    for choice in knob.choices:
        if is_same_value(choice, value):
            return choice
    close = difflib.get_close_matches(value[:100], map(str, knob.choices), n=1) if isinstance(value, str) else []
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    raise SpaceError(f"{where} is {short_repr(value)}{hint} allowed: {_allowed(knob)}")


def _number(knob: Knob, value: Any, where: str) -> float:
    low, high = knob.widest
    number = _read_number(value)
    whole = knob.kind == "int"
    if number is None or not low <= number <= high or (whole and number != int(number)):
        raise SpaceError(f"{where} is {short_repr(value)}; allowed: {_allowed(knob)}")
    return int(number) if whole else float(number)


def _read_number(value: Any) -> float | None:
    if isinstance(value, str) and len(value) < 40:
        # YAML 1.1 takes `1e-4` for text, unlike `1.0e-4`.
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _allowed(knob: Knob) -> str:
    if knob.kind == "choice":
        assert knob.choices is not None
        return ", ".join("true" if c is True else "false" if c is False else str(c) for c in knob.choices)
    unit = {"layer": " (share of the depth)", "int": " (whole numbers)", "float": ""}[knob.kind]
    low, high = knob.widest
    return f"{low:g} to {high:g}{unit}"
