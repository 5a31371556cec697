"""What a spec asks for, worked out without training: `dry_run`, and `capabilities` for what a spec may name.

Models are built without memory for weights (torch's meta device), and of the data only labels are read. What a plan costs is checked
before it is begun (`bounds`).
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import timm
import torch

from autoslim.config import JobSpec, Placement, read_json
from autoslim.config.issues import Place
from autoslim.core.budget import Budget
from autoslim.core.job import SCRATCH, DatasetSpec, ModelSpec, SearchJob
from autoslim.core.plan import Plan
from autoslim.cost import predict
from autoslim.data.sources import open_source
from autoslim.data.splits import share_counts
from autoslim.data.table import Source
from autoslim.data.wanted import Wanted
from autoslim.errors import AutoslimError, BudgetError, DatasetError, SpaceError
from autoslim.methods import METHODS, Constraints, check_not_trivial
from autoslim.models import DenseModel, check_teacher, create_dense
from autoslim.search import DenseCost, Estimate, Feasibility, Proposer, Space, estimate_work, load_prior, load_space, most_work
from autoslim.search.space.yaml_file import space_names
from autoslim.search.start import resolve_budget, starts_of
from autoslim.search.start_feasibility import StartFeasibility
from autoslim.service.dry_run import bounds
from autoslim.service.dry_run.faults import SpecFault

_FAMILIES = ("vision_transformer", "deit")


def capabilities(_: Any) -> dict[str, Any]:
    """The models, spaces and methods that a spec may name."""
    return {
        "models": sorted(name for family in _FAMILIES for name in timm.list_models(module=family)),
        "spaces": space_names(),
        "methods": [{"name": name, "paper": method.paper} for name, method in METHODS.items()],
    }


def dry_run(request: dict[str, Any]) -> dict[str, Any]:
    """A `PlanResponse` as a dictionary; `request` has the resolved `spec` and the operator's `limits`.

    Raises:
        SpecFault: naming the field that makes the search impossible, or its plan dearer than the operator allows.
        AutoslimError: for whatever else is wrong with the spec.
    """
    spec, limits = read_json(json.dumps(request["spec"])), request["limits"]
    bounds.check_model_folders(spec)
    bounds.check_images(spec, limits["images"])
    images, classes = _data(spec)
    models = _dense_models(spec, classes, limits)
    space = _space(spec)
    for dense in models.starts.values():
        bounds.check_recipes(spec, space, dense.shape, limits["recipes"])
    first = next(iter(models.starts.values()))
    flops = _flops(first)
    proposer = _proposer(spec, space, models.starts)
    _check_limits(spec, proposer)
    budgets = [_budget(index, budget, flops, proposer) for index, budget in enumerate(spec.budgets)]
    return {
        "dense_flops": flops,
        "params": first.parameters,
        "classes": classes,
        "images": images,
        "models": [
            {"name": label, "dense_flops": _flops(dense), "params": dense.parameters, "excluded_methods": found.left_out}
            for (label, dense), found in zip(models.starts.items(), proposer.by_model.values(), strict=True)
            if label
        ],
        "budgets": budgets,
        "goal": None if spec.goal is None else spec.goal.label,
        "excluded_methods": proposer.left_out,
        "score": spec.dataset_spec.score.name,
        "prior": proposer.prior_size.to_dict(),
        "trials": spec.most_trials,
        "epochs": spec.epochs,
        "estimate": _estimate(spec, images["train"], models, [budget["flops"] for budget in budgets] or [flops]),
    }


@dataclasses.dataclass(frozen=True)
class _DenseModels:
    """By label, as in `SearchJob.starts`; `teacher` where it is none of these."""

    starts: dict[str, DenseModel]
    teacher: DenseModel | None


def _dense_models(spec: JobSpec, classes: int, limits: dict[str, Any]) -> _DenseModels:
    """Built without memory for weights, and within the operator's limits."""
    job, places = _job(spec), [place for place, _ in bounds.model_places(spec)]
    starts = {}
    for place, (label, model) in zip(places, job.starts.items(), strict=False):
        starts[label] = _dense(spec, place, model, classes, limits)
    if job.teacher is None or job.teacher in job.models:
        return _DenseModels(starts, None)
    teacher = _dense(spec, ("teacher",), job.teacher, classes, limits)
    _check_teacher(spec, starts, teacher)
    return _DenseModels(starts, teacher)


def _check_teacher(spec: JobSpec, starts: dict[str, DenseModel], teacher: DenseModel) -> None:
    try:
        check_teacher(spec.teacher or "", teacher.shape, {label: dense.shape for label, dense in starts.items()})
    except AutoslimError as error:
        raise SpecFault(("teacher",), str(error)) from None


def _flops(dense: DenseModel) -> int:
    return predict(dense.shape, Plan.dense(dense.shape)).total


def _data(spec: JobSpec) -> tuple[dict[str, int], int]:
    """Images by split, split as `prepare_dataset` does but before unreadable ones are removed, and the number of classes.

    Only counted: drawing the images of each split takes a pass over all labels for every class, and no number depends on which are drawn.
    """
    try:
        source = open_source(spec.dataset_spec.source, seed=spec.seed, wanted=Wanted.of(spec.dataset_spec))
        counts = _counts(spec, source)
    except DatasetError as error:
        raise SpecFault(("data",), str(error)) from None
    if spec.probe is not None:
        try:
            open_source(spec.probe, seed=spec.seed, wanted=Wanted.of(DatasetSpec(source=spec.probe)))
        except DatasetError as error:
            raise SpecFault(("probe",), str(error)) from None
    limit = spec.dataset_spec.train_limit
    train = counts["train"] if limit is None else min(counts["train"], limit)
    return {"train": train, "validation": counts["validation"], "test": counts["test"]}, len(source.classes)


def _counts(spec: JobSpec, source: Source) -> dict[str, int]:
    left_C, counts = np.bincount(source.train.labels, minlength=len(source.classes)), {}
    for split, table in (("test", source.test), ("validation", source.validation)):
        if table is not None:
            counts[split] = len(table.labels)
            continue
        share = spec.dataset_spec.validation_share
        cut_C = share_counts(left_C, share, purpose=split, classes=source.classes)
        left_C, counts[split] = left_C - cut_C, int(cut_C.sum())
    return {"train": int(left_C.sum()), **counts}


def _dense(spec: JobSpec, place: Place, model: ModelSpec, classes: int, limits: dict[str, Any]) -> DenseModel:
    try:
        with torch.device("meta"):
            dense = create_dense(model.replace(weights=SCRATCH), classes=classes)
    except AutoslimError as error:
        size = "image size" in str(error) and spec.image_size is not None
        raise SpecFault(("image_size",) if size else place, str(error)) from None
    if dense.parameters > limits["parameters"]:
        raise SpecFault(place, f"has {dense.parameters:,} parameters; allowed: at most {limits['parameters']:,}")
    bounds.check_attention(place, dense.shape, limits["attention"])
    return dense


def _space(spec: JobSpec) -> Space:
    try:
        return load_space(_job(spec).space)
    except SpaceError as error:
        raise SpecFault(("space",), str(error)) from None


def _job(spec: JobSpec) -> SearchJob:
    return spec.to_job(id="dry-run", placement=Placement(output=os.curdir))


def _proposer(spec: JobSpec, space: Space, starts: dict[str, DenseModel]) -> Proposer:
    job, shapes = _job(spec), {label: dense.shape for label, dense in starts.items()}
    try:
        return Proposer(
            space=space,
            shape=next(iter(shapes.values())),
            starts=starts_of(shapes),
            budgets={},
            training=job.training,
            seed=job.seed,
            sampler=job.sampler,
            class_query=job.class_query,
            bound=job.bound,
            limits=job.limits,
            prior=load_prior(job.prior),
        )
    except SpaceError as error:
        raise SpecFault(("space",), str(error)) from None
    except AutoslimError as error:
        raise SpecFault(("class_query",) if spec.class_query else ("model",), str(error)) from None


def _check_limits(spec: JobSpec, proposer: Proposer) -> None:
    """Refuses a limit on the parameters that every model meets, or none. A latency is unknown here: it is measured where trials run."""
    try:
        for budget in spec.budgets:
            check_not_trivial(budget, Constraints(limits=proposer.limits), proposer.shape)
    except BudgetError as error:
        raise SpecFault(("params",), str(error), infeasible=True) from None
    limit = proposer.limits.params
    least = {
        found.named(name): one.min_params
        for found in proposer.by_model.values()
        for name, one in found.feasibility.items()
        if one.min_params is not None
    }
    if limit is not None and least and min(least.values()) > limit:
        reached = ", ".join(f"{name} {params:,} and more" for name, params in least.items())
        raise SpecFault(
            ("params",), f"is {spec.params!r}, which nothing in the space reaches; allowed: {reached}", infeasible=True
        )


def _budget(index: int, budget: Budget, dense_flops: int, proposer: Proposer) -> dict[str, Any]:
    try:
        flops = resolve_budget(budget, dense_flops, proposer.starts)
    except BudgetError as error:
        raise SpecFault(("flops", index), str(error), infeasible=True) from None
    methods = [
        _method(name, one, found, flops, proposer)
        for found in proposer.by_model.values()
        for name, one in found.feasibility.items()
    ]
    feasible = any(method["feasible"] for method in methods)
    return {"label": budget.label, "flops": flops, "feasible": feasible, "methods": methods}


def _method(name: str, one: Feasibility, found: StartFeasibility, flops: int, proposer: Proposer) -> dict[str, Any]:
    min_flops = None if one.cheapest is None else one.cheapest.flops
    max_flops = None if one.costliest is None else one.costliest.flops
    # The latency is not known here; the search measures it before its first trial.
    feasible = one.reaches(flops, proposer.limits) and (found.is_only or found.start.is_above(flops))
    flops_range = {"min_flops": min_flops, "max_flops": max_flops}
    model = {} if found.is_only else {"model": found.start.label}
    return {"name": name, **model, **flops_range, "min_params": one.min_params, "feasible": feasible}


def _estimate(spec: JobSpec, images: int, models: _DenseModels, budgets: list[int]) -> dict[str, Any]:
    """The fields of a `WorkEstimate`: upper bounds, and no duration, which depends on the workers."""
    job, (first, *others) = _job(spec), [*models.starts.values(), *([] if models.teacher is None else [models.teacher])]
    found: Estimate = estimate_work(
        job,
        most_work(job),
        train_images=images,
        dense_flops=_flops(first),
        budgets=budgets,
        parameters=first.parameters,
        adapts=job.dataset.labelled,
        others=[DenseCost(flops=_flops(dense), parameters=dense.parameters) for dense in others],
    )
    return {
        "training_images": found.training_images,
        "base_training_images": found.base_training_images,
        "multiply_accumulates": found.multiply_accumulates,
        "disk_bytes": found.disk.peak,
    }


OPERATIONS: dict[str, Callable[[Any], dict[str, Any]]] = {"capabilities": capabilities, "dry_run": dry_run}
