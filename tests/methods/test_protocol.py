"""`Method` documents each of its members, and says truly which are obligatory."""

from __future__ import annotations

import re

from autoslim.methods import Method

ROWS = dict(re.findall(r"^    `(\w+)` +(\S+)", Method.__doc__ or "", flags=re.MULTILINE))


def test_the_table_has_a_row_for_every_member():
    members = {name for name in {*vars(Method), *Method.__annotations__} if not name.startswith("_")}
    assert ROWS.keys() == members


def test_obligatory_are_the_abstract_members_and_the_class_attributes():
    obligatory = {name for name, default in ROWS.items() if default == "obligatory"}
    without_default = {name for name in Method.__annotations__ if name not in vars(Method)}
    assert obligatory == {*Method.__abstractmethods__, *without_default}
