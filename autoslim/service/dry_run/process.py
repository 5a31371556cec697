"""The dry-run process: `python -m autoslim.service.dry_run.process` reads requests and writes responses, one JSON object per line.

A spec of a tenant is worked on here and not in the service: it may take seconds or fail in a library. Models are built without memory for
weights (torch's meta device), and of the data only labels are read. The process has no address of a database and no key; it may be killed
at any time, and ends when its parent does, in the middle of a dry run as well.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, BinaryIO, NoReturn

import timm
import torch

from autoslim.config import JobSpec, Placement, read_json
from autoslim.core.budget import Budget
from autoslim.core.plan import Plan
from autoslim.cost import predict
from autoslim.data.sources import open_source
from autoslim.data.splits import cut_share
from autoslim.errors import AutoslimError, BudgetError, DatasetError, SpaceError
from autoslim.methods import METHODS, Constraints, check_not_trivial
from autoslim.models import DenseModel, create_dense
from autoslim.search import Estimate, Proposer, estimate_work, load_space, most_work
from autoslim.search.space.yaml_file import space_names

_FAMILIES = ("vision_transformer", "deit")


class _SpecFault(Exception):
    """A field of the spec, by its path, that is wrong; with `infeasible` a limit that nothing in the space can meet."""

    def __init__(self, place: tuple[str | int, ...], problem: str, *, infeasible: bool = False) -> None:
        super().__init__(problem)
        self.place, self.infeasible = place, infeasible


def facts(_: Any) -> dict[str, Any]:
    """The models, spaces and methods that a spec may name."""
    return {
        "models": sorted(name for family in _FAMILIES for name in timm.list_models(module=family)),
        "spaces": space_names(),
        "methods": [{"name": name, "paper": method.paper} for name, method in METHODS.items()],
    }


def dry_run(request: dict[str, Any]) -> dict[str, Any]:
    """A `PlanResponse` as a dictionary; `request` has the resolved `spec` and `parameters`, the maximum of a model."""
    spec = read_json(json.dumps(request["spec"]))
    images, classes = _data(spec)
    dense = _dense(spec, classes)
    parameters = sum(p.numel() for p in dense.module.parameters())
    if parameters > request["parameters"]:
        raise _SpecFault(("model",), f"has {parameters:,} parameters; allowed: at most {request['parameters']:,}")
    flops = predict(dense.shape, Plan.dense(dense.shape)).total
    proposer = _proposer(spec, dense)
    _check_limits(spec, proposer)
    budgets = [_budget(index, budget, flops, proposer) for index, budget in enumerate(spec.budgets)]
    return {
        "dense_flops": flops,
        "params": parameters,
        "classes": classes,
        "images": images,
        "budgets": budgets,
        "excluded_methods": proposer.left_out,
        "trials": spec.most_trials,
        "epochs": spec.epochs,
        "estimate": _estimate(spec, images["train"], parameters, flops, [budget["flops"] for budget in budgets]),
    }


def _data(spec: JobSpec) -> tuple[dict[str, int], int]:
    """Images by split, split as `prepare_dataset` does but before unreadable ones are removed, and the number of classes."""
    dataset = spec.dataset_spec
    try:
        source = open_source(dataset.source, seed=spec.seed)
        left = source.train.labels
        counts = {}
        for split, table in (("test", source.test), ("validation", source.validation)):
            if table is not None:
                counts[split] = len(table.labels)
                continue
            kept, cut = cut_share(left, dataset.validation_share, seed=spec.seed, purpose=split, classes=source.classes)
            left, counts[split] = left[kept], len(cut)
    except DatasetError as error:
        raise _SpecFault(("data",), str(error)) from None
    train = len(left) if dataset.train_limit is None else min(len(left), dataset.train_limit)
    return {"train": train, "validation": counts["validation"], "test": counts["test"]}, len(source.classes)


def _dense(spec: JobSpec, classes: int) -> DenseModel:
    try:
        with torch.device("meta"):
            return create_dense(spec.model_spec.replace(weights="scratch"), classes=classes)
    except AutoslimError as error:
        place = "image_size" if "image size" in str(error) and spec.image_size is not None else "model"
        raise _SpecFault((place,), str(error)) from None


def _proposer(spec: JobSpec, dense: DenseModel) -> Proposer:
    job = spec.to_job(id="dry-run", placement=Placement(output=os.curdir))
    try:
        return Proposer(
            space=load_space(job.space),
            shape=dense.shape,
            budgets={},
            training=job.training,
            seed=job.seed,
            sampler=job.sampler,
            class_query=job.class_query,
            bound=job.bound,
            limits=job.limits,
        )
    except SpaceError as error:
        raise _SpecFault(("space",), str(error)) from None
    except AutoslimError as error:
        raise _SpecFault(("class_query",) if spec.class_query else ("model",), str(error)) from None


def _check_limits(spec: JobSpec, proposer: Proposer) -> None:
    """Refuses a limit on the parameters that every model meets, or none. A latency is unknown here: it is measured where trials run."""
    try:
        for budget in spec.budgets:
            check_not_trivial(budget, Constraints(limits=proposer.limits), proposer.shape)
    except BudgetError as error:
        raise _SpecFault(("params",), str(error), infeasible=True) from None
    limit = proposer.limits.params
    least = {name: found.min_params for name, found in proposer.feasibility.items() if found.min_params is not None}
    if limit is not None and least and min(least.values()) > limit:
        reached = ", ".join(f"{name} {params:,} and more" for name, params in least.items())
        raise _SpecFault(
            ("params",), f"is {spec.params!r}, which nothing in the space reaches; allowed: {reached}", infeasible=True
        )


def _budget(index: int, budget: Budget, dense_flops: int, proposer: Proposer) -> dict[str, Any]:
    try:
        flops = budget.resolve(dense_flops)
    except BudgetError as error:
        raise _SpecFault(("flops", index), str(error), infeasible=True) from None
    methods = []
    for name, found in proposer.feasibility.items():
        min_flops = None if found.cheapest is None else found.cheapest.flops
        max_flops = None if found.costliest is None else found.costliest.flops
        # The latency is not known here; the search measures it before its first trial.
        feasible = found.reaches(flops, proposer.limits)
        flops_range = {"min_flops": min_flops, "max_flops": max_flops}
        methods.append({"name": name, **flops_range, "min_params": found.min_params, "feasible": feasible})
    feasible = any(method["feasible"] for method in methods)
    return {"label": budget.label, "flops": flops, "feasible": feasible, "methods": methods}


def _estimate(spec: JobSpec, images: int, parameters: int, dense_flops: int, budgets: list[int]) -> dict[str, Any]:
    """The fields of a `WorkEstimate`: upper bounds, and no duration, which depends on the workers."""
    job = spec.to_job(id="dry-run", placement=Placement(output=os.curdir))
    found: Estimate = estimate_work(
        job, most_work(job), train_images=images, dense_flops=dense_flops, budgets=budgets, parameters=parameters
    )
    return {
        "training_images": found.training_images,
        "base_training_images": found.base_training_images,
        "multiply_accumulates": found.multiply_accumulates,
        "disk_bytes": found.disk.peak,
    }


OPERATIONS: dict[str, Callable[[Any], dict[str, Any]]] = {"facts": facts, "dry_run": dry_run}


def respond(line: bytes) -> dict[str, Any]:
    request = json.loads(line)
    try:
        return {"result": OPERATIONS[request["operation"]](request.get("argument"))}
    except _SpecFault as issue:
        return {"fault": {"place": list(issue.place), "problem": str(issue), "infeasible": issue.infeasible}}


def serve(requests: BinaryIO, responses: BinaryIO) -> NoReturn:
    """Serves until `requests` ends, which exits the process even in the middle of a dry run: nobody is left to kill one that hangs."""
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, lines), daemon=True).start()
    while True:
        responses.write(json.dumps(respond(lines.get())).encode() + b"\n")
        responses.flush()


def _read(requests: BinaryIO, lines: queue.SimpleQueue[bytes]) -> None:
    for line in requests:
        lines.put(line)
    os._exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The service stops this process.
    torch.set_num_threads(1)
    # Responses have their own descriptor and stdout goes to stderr: what a library prints must not be read as a response.
    with os.fdopen(os.dup(1), "wb") as responses:
        os.dup2(2, 1)
        serve(sys.stdin.buffer, responses)
