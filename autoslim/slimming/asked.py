"""What a user asks of one model without a search: methods and knobs by their names, as the steps of a `SlimJob`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from autoslim.core.budget import Budget
from autoslim.core.job import SearchJob
from autoslim.core.recipe import Knobs, Step
from autoslim.errors import RequestError
from autoslim.methods import METHODS
from autoslim.slimming.request import SlimJob

Name = Callable[[str], str]
"""How a user writes a setting: `--method` on the command line, `method` in Python."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """A knob as it was given. `owner` is its method, empty where none was named; `written` begins the sentence of an error."""

    owner: str
    knob: str
    value: Any
    written: str


def check_methods(methods: Sequence[str], *, name: Name) -> None:
    """Raises RequestError for no method, an unknown one, and one that is given twice."""
    allowed = ", ".join(METHODS)
    if not methods:
        raise RequestError(f"{name('method')} is needed; allowed: {allowed}")
    for method in methods:
        if method not in METHODS:
            raise RequestError(f"{name('method')} is {method!r}; allowed: {allowed}")
        if methods.count(method) > 1:
            raise RequestError(f"{name('method')} {method} is given {methods.count(method)} times; allowed: each method once")


def knobs_by_method(asked: Iterable[Asked], methods: Sequence[str]) -> dict[str, Knobs]:
    """A knob without an owner is for the only method that has it.

    Raises:
        RequestError: for a knob that none, or more than one, of the methods has.
    """
    found: dict[str, Knobs] = {name: {} for name in methods}
    for one in asked:
        having = [method for method in methods if one.knob in METHODS[method].ranges and one.owner in ("", method)]
        if not having:
            known = "; ".join(f"{method}: {', '.join(METHODS[method].ranges)}" for method in methods)
            raise RequestError(f"{one.written}; allowed: {known}")
        if len(having) > 1:
            either = " or ".join(f"{method}.{one.knob}" for method in having)
            raise RequestError(f"{one.written}, which more than one method has; write {either}")
        found[having[0]][one.knob] = one.value
    return found


def slim_job_of(
    searched: SearchJob, *, knobs: Mapping[str, Knobs], first: str | None, distillation: float | None, name: Name
) -> SlimJob:
    """The request with the settings of a search, and the knobs by method, in the order of the steps.

    Raises:
        RequestError: names the setting, its value and what is allowed.
    """
    if searched.goal is not None:
        raise RequestError(
            f"{name('flops')} is needed instead of {searched.goal.flag}, which a search looks for: autoslim search {searched.goal.flag}"
        )
    if distillation is not None and not 0 <= distillation <= 1:
        raise RequestError(f"{name('distillation')} is {distillation}; allowed: 0 to 1")
    if distillation is not None and not searched.dataset.labelled:
        raise RequestError(f"{name('distillation')} is {distillation}, which needs labels; allowed with objective 'labels' only")
    if first is not None and len(knobs) < 2:
        raise RequestError(
            f"{name('first')} is {first!r}, but there is only one {name('method')}; "
            f"{name('first')} sets the FLOPs after the first of several"
        )
    return SlimJob(
        model=searched.model,
        teacher=searched.teacher,
        dataset=searched.dataset,
        probe=searched.probe,
        budget=searched.budgets[0],
        limits=searched.limits,
        steps=tuple(Step(method=method, knobs=own) for method, own in knobs.items()),
        first=None if first is None else _first(first, name),
        training=searched.training if distillation is None else searched.training.replace(distillation=distillation),
        base=searched.base,
        adapt=searched.adapt,
        seed=searched.seed,
        class_query=searched.class_query,
        bound=searched.bound,
        speed=searched.speed,
        forms=searched.forms,
        max_form_drop=searched.max_form_drop,
    )


def _first(text: str, name: Name) -> Budget:
    try:
        return Budget.parse(text)
    except RequestError as error:
        raise RequestError(f"{name('first')}: {error}") from error
