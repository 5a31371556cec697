"""Reads the `chains` of a space file: a list whose items are a method's name or a list of names in their order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoslim.errors import SpaceError
from autoslim.methods.base import Method
from autoslim.methods.chain import chain_label
from autoslim.methods.knob import Ranges
from autoslim.search.space.restrict import refuse_unknown, short_repr
from autoslim.search.space.space import Chain, is_inside

MAX_STEPS = 2
"""The methods either remove widths, which only a first step can, or tokens, of which a second method would find another model."""


def read_chains(data: Any, narrowed: Mapping[str, Ranges], methods: Mapping[str, Method], source: str) -> tuple[Chain, ...]:
    """The chains that `data` lists; `narrowed` are the space's methods.

    Raises:
        SpaceError: for a chain that is listed twice, too long, of methods that the space does not have, or in which a knob cannot have the
            value that the next step needs; and where a method of the space is in no chain.
    """
    where = f"{source}: chains"
    if not isinstance(data, list) or not data:
        raise SpaceError(f"{where} is {short_repr(data)}; allowed: a list of chains, such as [[width, patch_slimming], [width]]")
    chains = [_chain(item, narrowed, where) for item in data]
    for position, chain in enumerate(chains):
        if chain in chains[:position]:
            raise SpaceError(f"{where}: {chain_label(chain)} is listed twice")
        for name in chain[:-1]:
            _check_knobs(name, narrowed[name], methods[name], chain, where)
    unused = [name for name in narrowed if not any(name in chain for chain in chains)]
    if unused:
        raise SpaceError(f"{where}: {unused[0]} is in no chain; add [{unused[0]}] to search it alone, or remove it from methods")
    return tuple(chains)


def _chain(item: Any, narrowed: Mapping[str, Ranges], where: str) -> Chain:
    names = [item] if isinstance(item, str) else item
    if not isinstance(names, list) or not 1 <= len(names) <= MAX_STEPS:
        raise SpaceError(
            f"{where}: {short_repr(item)} is no chain; allowed: a method, or a list of one or two methods in their order"
        )
    for name in names:
        refuse_unknown(name, narrowed, where, "method of this space")
    if len(set(names)) < len(names):
        raise SpaceError(f"{where}: {chain_label(names)} has a method twice; allowed: two different methods")
    return tuple(names)


def _check_knobs(name: str, ranges: Ranges, method: Method, chain: Chain, where: str) -> None:
    for knob, value in method.before_others.items():
        if not is_inside(ranges[knob], value, depth=2):
            raise SpaceError(
                f"{where}: {chain_label(chain)} needs {name}.{knob} {value!r}, which the space leaves out; add it to methods.{name}.{knob}"
            )
