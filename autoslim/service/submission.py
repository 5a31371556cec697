"""Submitting a job: answered within seconds, with its plan where that is at hand, and otherwise before it.

A plan takes from milliseconds to a minute, the start of the planner minutes, and a client that waits for them gives up without knowing
whether there is a job. So a submit waits for the plan for `limits.submit_seconds` only. A job that is queued without one is not started
until its plan has come; if the plan shows that it cannot be done, the job fails with the same message as a submit would have.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar

from autoslim.config import InfeasibleSpecError, JobSpec, SpecError, ValidationIssue
from autoslim.errors import AutoslimError, NotFoundError, QuotaError
from autoslim.service.app_state import AppState
from autoslim.service.dry_run.errors import DryRunError, PlannerStartingError, PlanQueueFullError
from autoslim.service.dry_run.preflight import check
from autoslim.store import Failure, FailureClass, QueuedJob, Quota

_log = logging.getLogger(__name__)
T = TypeVar("T")

# A job that waits for its plan is not started for so many times the time of a plan. After that it is: the service may have been stopped,
# and the driver finds whatever is wrong itself.
_HOLD = 5.0


async def submit_job(
    state: AppState, spec: JobSpec, *, tenant: str, idempotency_key: str | None = None
) -> tuple[QueuedJob, bool]:
    """The job, and whether it is new.

    Raises:
        SpecError: naming every field that is wrong, as far as it is known in time.
        IdempotencyError: when the key was used with another request.
        QuotaError: when the tenant has as much in the queue as it may.
    """
    # The answer to a repeated submit is the job that there is, whatever has happened to limits and plans since.
    known = idempotency_key is not None and await state.run_sync(state.queue.find, tenant, idempotency_key)
    deadline = asyncio.get_running_loop().time() + (0.0 if known else state.settings.limits.submit_seconds)
    facts: Mapping[str, Any] | None = state.dry_runner.process.facts_at_hand
    if facts is None:
        facts = await _until(deadline, state.dry_runner.facts())
    checked = await _check(state, spec, facts, tenant)
    plan = None if known else await _until(deadline, make_plan(state, checked, tenant))
    if plan is not None:
        _refuse_by_plan(state, checked, plan)
    job, created = await state.run_sync(
        state.queue.submit,
        checked.model_dump_json(),
        tenant=tenant,
        name=checked.name,
        priority=checked.priority,
        idempotency_key=idempotency_key,
        work=None if plan is None else _work_of(plan),
        quota=_quota(state),
        unplanned_seconds=_HOLD * state.settings.limits.plan_seconds if plan is None else 0.0,
    )
    if created and plan is None:
        state.background.begin(_follow(state, job.id, spec, tenant))
    return job, created


async def checked_spec(state: AppState, spec: JobSpec, tenant: str) -> JobSpec:
    """The spec with resolved names and paths; the jobs that it reuses are the tenant's.

    Raises:
        SpecError: naming every field that is wrong.
        DryRunError: when the planner, which knows the names of models and spaces, has not started.
    """
    return await _check(state, spec, await state.dry_runner.facts(), tenant)


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


async def _check(state: AppState, spec: JobSpec, facts: Mapping[str, Any] | None, tenant: str) -> JobSpec:
    names = {"models": None, "spaces": None} if facts is None else {name: facts[name] for name in ("models", "spaces")}
    checked = check(spec, catalog=state.catalog, limits=state.settings.limits, **names)
    await state.run_sync(_refuse_foreign, state, checked, tenant)
    return checked


async def _until(deadline: float, answer: Awaitable[T]) -> T | None:
    """None where the planner has no answer in time; `deadline` is on the event loop's clock."""
    try:
        async with asyncio.timeout_at(deadline):
            return await answer
    except TimeoutError:
        return None
    except DryRunError as error:
        _log.warning("a job is submitted before its plan: %s", error)
        return None


async def _follow(state: AppState, job_id: str, spec: JobSpec, tenant: str) -> None:
    """Plans a job that is queued without a plan. `spec` is the one that was sent, before its names were resolved."""
    try:
        checked, plan = await _plan_at_last(state, spec, tenant)
        _refuse_by_plan(state, checked, plan)
        await state.run_sync(state.queue.set_planned, job_id, _work_of(plan), _quota(state))
    except (SpecError, QuotaError) as error:
        if await state.run_sync(state.queue.refuse, job_id, _failure(error)):
            _log.info("job refused by its plan", extra={"tenant": tenant, "job_id": job_id})
    except DryRunError as error:
        _log.error("a job has no plan; its driver checks it", exc_info=error, extra={"job_id": job_id})
        await state.run_sync(state.queue.set_planned, job_id, None)


async def _plan_at_last(state: AppState, spec: JobSpec, tenant: str) -> tuple[JobSpec, dict[str, Any]]:
    while True:
        try:
            checked = await checked_spec(state, spec, tenant)
            return checked, await make_plan(state, checked, tenant)
        except PlanQueueFullError as full:
            await asyncio.sleep(full.retry_after)
        except PlannerStartingError:
            _log.info("a job waits for the planner to start")


def _quota(state: AppState) -> Quota:
    return Quota(jobs=state.settings.limits.queued, work=state.settings.limits.work)


def _work_of(plan: dict[str, Any]) -> float:
    return float(plan["estimate"]["multiply_accumulates"])


def _failure(error: AutoslimError) -> Failure:
    infeasible = isinstance(error, InfeasibleSpecError)
    kind = FailureClass.INFEASIBLE if infeasible else FailureClass.REQUEST
    return Failure(failure_class=kind, message=str(error), next="autoslim plan job.yaml")


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


def _refuse_by_plan(state: AppState, spec: JobSpec, plan: dict[str, Any]) -> None:
    issues = [_infeasible(spec, index, budget) for index, budget in enumerate(plan["budgets"]) if not budget["feasible"]]
    if issues:
        raise InfeasibleSpecError(issues)
    work, most = _work_of(plan), state.settings.limits.work
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
            f"{method['name']} {method['min_params']:,} parameters and {method['min_flops']:,} multiply-accumulates"
            for method in methods
            if method["min_params"] is not None
        )
        problem = f"is {spec.params!r}, which no method in the space meets together with {budget['label']}; the minimum of each: {reached}"
        return ValidationIssue(place=("params",), problem=problem)
    reached = ", ".join(
        f"{method['name']} {method['min_flops']:,} and more" for method in methods if method["min_flops"] is not None
    )
    problem = f"is {budget['label']!r}, {flops:,} multiply-accumulates, which nothing in the space reaches; allowed: {reached}"
    return ValidationIssue(place=("flops", index), problem=problem)
