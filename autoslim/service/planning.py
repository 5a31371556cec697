"""Checks and plans of specs against the operator's rules: for plans, for submits, and for jobs that are planned after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from autoslim.config import InfeasibleSpecError, JobSpec, SpecError, ValidationIssue
from autoslim.core.recipe import title_of
from autoslim.errors import NotFoundError
from autoslim.service.app_state import AppState
from autoslim.service.dry_run.preflight import check
from autoslim.store import Quota


async def checked_spec(state: AppState, spec: JobSpec, tenant: str) -> JobSpec:
    """The spec with resolved names and paths; the jobs that it reuses are the tenant's.

    Raises:
        SpecError: naming every field that is wrong.
        DryRunError: when the planner, which knows the names of models and spaces, has not started.
    """
    return await check_spec(state, spec, await state.dry_runner.capabilities(), tenant)


async def make_plan(state: AppState, spec: JobSpec, tenant: str) -> dict[str, Any]:
    """The plan of a checked spec.

    Raises:
        SpecError: naming the field that makes the search impossible, and none of the operator's paths.
        DryRunError: when there is no plan in time.
    """
    try:
        return await state.dry_runner.dry_run(spec, tenant=tenant)
    except SpecError as error:
        issues = [dataclasses.replace(issue, problem=state.public_text.of(issue.problem)) for issue in error.issues]
        raise type(error)(issues) from error


async def check_spec(state: AppState, spec: JobSpec, capabilities: Mapping[str, Any] | None, tenant: str) -> JobSpec:
    """As `checked_spec`; `capabilities` are the planner's, or None while they are not known: then any name of a model or space passes."""
    known = capabilities or {}
    names = {name: known.get(name) for name in ("models", "spaces")}
    checked = check(spec, catalog=state.catalog, limits=state.settings.limits, **names)
    await state.run_sync(_refuse_foreign, state, checked, tenant)
    return checked


def quota_of(state: AppState) -> Quota:
    """Of every tenant."""
    return Quota(jobs=state.settings.limits.queued, work=state.settings.limits.work)


def work_of(plan: dict[str, Any]) -> float:
    """Multiply-accumulates that the search computes at most."""
    return float(plan["estimate"]["multiply_accumulates"])


def _refuse_foreign(state: AppState, spec: JobSpec, tenant: str) -> None:
    """An unknown job and another tenant's give the same issue."""
    issues = []
    for index, source in enumerate(spec.reuse):
        if source != "all":
            try:
                state.queue.get(source, tenant)
            except NotFoundError:
                issues.append(ValidationIssue(place=("reuse", index), problem=f"is {source!r}; allowed: a job of yours, or all"))
    if issues:
        raise SpecError(issues)


def refuse_by_plan(state: AppState, spec: JobSpec, plan: dict[str, Any]) -> None:
    """Raises SpecError where the plan shows that the spec cannot be done, or is more work than a tenant may ask for."""
    issues = [_infeasible(spec, index, budget) for index, budget in enumerate(plan["budgets"]) if not budget["feasible"]]
    if issues:
        raise InfeasibleSpecError(issues)
    work, most = work_of(plan), state.settings.limits.work
    if work > most:
        problem = (
            f"is {spec.most_trials}, with which the search computes up to {work:.2g} multiply-accumulates (FLOPs x images x epochs x "
            f"trials); allowed: at most {most:.2g} (limits.work); ask for fewer trials, epochs or images, or a smaller model"
        )
        raise SpecError([ValidationIssue(place=("trials",), problem=problem)])


def _infeasible(spec: JobSpec, index: int, budget: dict[str, object]) -> ValidationIssue:
    methods, flops = budget["methods"], budget["flops"]
    assert isinstance(methods, list)
    assert isinstance(flops, int)
    if any(method["min_flops"] is not None and method["min_flops"] <= flops for method in methods):
        # Some method reaches the FLOPs and, or the plan would have been refused, some method the parameters.
        reached = ", ".join(
            f"{_named(method)} {method['min_params']:,} parameters and {method['min_flops']:,} multiply-accumulates"
            for method in methods
            if method["min_params"] is not None
        )
        problem = f"is {spec.params!r}, which no method in the space meets together with {budget['label']}; the minimum of each: {reached}"
        return ValidationIssue(place=("params",), problem=problem)
    reached = ", ".join(
        f"{_named(method)} {method['min_flops']:,} and more" for method in methods if method["min_flops"] is not None
    )
    problem = f"is {budget['label']!r}, {flops:,} multiply-accumulates, which nothing in the space reaches; allowed: {reached}"
    return ValidationIssue(place=("flops", index), problem=problem)


def _named(method: Mapping[str, Any]) -> str:
    """With its dense model where the search has several."""
    return title_of(str(method["name"]), method.get("model"))
