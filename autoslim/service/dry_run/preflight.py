"""Checks a spec against the operator's limits, names and paths, before anything is built or read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from autoslim.config import JobSpec, SpecError
from autoslim.config.issues import ValidationIssue, short_repr, unknown
from autoslim.config.value_types import image_sides
from autoslim.core.job import repeated_model
from autoslim.service.catalog import Catalog
from autoslim.service.dry_run.model_arguments import model_argument_issues
from autoslim.service.settings import RequestLimits

_JOB_ID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_WORD = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
# Bounds of a search space in the request; the built-in spaces are far smaller.
_SPACE_DEPTH = 8
_SPACE_NODES = 2000


def check(
    spec: JobSpec, *, catalog: Catalog, limits: RequestLimits, models: Sequence[str] | None, spaces: Sequence[str] | None
) -> JobSpec:
    """The spec with resolved paths; `models` and `spaces` are all names that there are. While they are not known (None), any word will
    do for a name, and the plan finds one that does not exist.

    Raises:
        SpecError: naming every field that is wrong.
    """
    resolved, issues = catalog.resolve(spec, models)
    issues += [
        *catalog.webhook_issues(spec),
        *_bounds(spec, limits),
        *model_argument_issues(spec.model_args),
        *_space(spec.space, spaces),
        *_reuse(spec),
    ]
    if issues:
        raise SpecError(issues)
    return resolved


def _bounds(spec: JobSpec, limits: RequestLimits) -> Iterator[ValidationIssue]:
    for field, value, most in (
        ("trials", spec.most_trials, limits.trials),
        ("epochs", spec.epochs, limits.epochs),
        ("max_epochs", spec.max_epochs or 0, limits.epochs * limits.trials),
        ("base_epochs", spec.base_epochs, limits.epochs),
        ("batch_size", spec.batch_size, limits.batch_size),
        ("image_size", max(image_sides(spec.image_size or 1)), limits.image_size),
        ("priority", spec.priority, limits.priority),
    ):
        if value > most:
            yield ValidationIssue(place=(field,), problem=f"is {short_repr(value)}; allowed: at most {most:g}")
    repeated = repeated_model(spec.model_specs)
    if repeated is not None:
        name = spec.model[repeated]
        yield ValidationIssue(
            place=("model", repeated), problem=f"is {short_repr(name)}, which is given twice with the same weights"
        )
    if len(spec.flops) > limits.budgets:
        yield ValidationIssue(place=("flops",), problem=f"has {len(spec.flops)} budgets; allowed: at most {limits.budgets}")
    for index, label in enumerate(spec.flops):
        if label in spec.flops[:index]:
            yield ValidationIssue(place=("flops", index), problem=f"is {short_repr(label)}, which is given twice")


def _reuse(spec: JobSpec) -> Iterator[ValidationIssue]:
    """Only ids of jobs: a tenant must not name folders. The owner of the jobs is checked with the queue."""
    for index, source in enumerate(spec.reuse):
        if source != "all" and not _JOB_ID.fullmatch(source):
            yield ValidationIssue(place=("reuse", index), problem=f"is {short_repr(source)}; allowed: the id of a job, or all")


def _space(space: str | dict[str, Any], names: Sequence[str] | None) -> Iterator[ValidationIssue]:
    if isinstance(space, str):
        # A word names no file: a path has a slash or a suffix.
        if names is None and not _WORD.fullmatch(space):
            yield ValidationIssue(
                place=("space",), problem=f"is {short_repr(space)}; allowed: a name from /v1/capabilities, or a mapping"
            )
        elif names is not None and space not in names:
            yield ValidationIssue(place=("space",), problem=unknown(space, names) + ", or a mapping")
    elif not _is_small(space):
        yield ValidationIssue(place=("space",), problem=f"is too large; allowed: {_SPACE_NODES} entries, {_SPACE_DEPTH} deep")


def _is_small(root: Any) -> bool:
    pending, seen = [(root, 1)], 0
    while pending:
        node, depth = pending.pop()
        seen += 1
        if seen > _SPACE_NODES or depth > _SPACE_DEPTH:
            return False
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        pending += [(child, depth + 1) for child in children]
    return True
