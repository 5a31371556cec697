"""The planning process: `python -m autoslim.service.planning.process` reads requests and writes responses, one JSON object per line.

A spec of a tenant is worked on here and not in the service: it may take seconds or fail in a library. Models are built without memory for
weights (torch's meta device), and of the data only labels are read. The process has no address of a database and no key; it may be killed
at any time, and ends when its parent does, in the middle of a plan as well.
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
from autoslim.methods import METHODS
from autoslim.models import DenseModel, create_dense
from autoslim.search import Proposer, load_space
from autoslim.search.feasibility import within
from autoslim.search.space.yaml_file import space_names

_FAMILIES = ("vision_transformer", "deit")
# Forms of a final model in its folder; each of them holds the weights.
_FORMS = 5


class _SpecFault(Exception):
    """A field of the spec, by its path, that makes the plan impossible."""

    def __init__(self, place: tuple[str | int, ...], problem: str) -> None:
        super().__init__(problem)
        self.place = place


def facts(_: Any) -> dict[str, Any]:
    """The models, spaces and methods that a spec may name."""
    return {
        "models": sorted(name for family in _FAMILIES for name in timm.list_models(module=family)),
        "spaces": space_names(),
        "methods": [{"name": name, "paper": method.paper} for name, method in METHODS.items()],
    }


def plan(request: dict[str, Any]) -> dict[str, Any]:
    """A `PlanResponse` as a dictionary; `request` has the resolved `spec` and `parameters`, the maximum of a model."""
    spec = read_json(json.dumps(request["spec"]))
    images, classes = _data(spec)
    dense = _dense(spec, classes)
    parameters = sum(p.numel() for p in dense.module.parameters())
    if parameters > request["parameters"]:
        raise _SpecFault(("model",), f"has {parameters:,} parameters; allowed: at most {request['parameters']:,}")
    flops = predict(dense.shape, Plan.dense(dense.shape)).total
    proposer = _proposer(spec, dense)
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
        "estimate": _estimate(spec, images["train"], parameters, flops, budgets),
    }


def _data(spec: JobSpec) -> tuple[dict[str, int], int]:
    """Images by split, split as `prepare_dataset` does but before unreadable ones are removed, and the number of classes."""
    dataset = spec.to_job(id="plan", placement=Placement(output=os.curdir)).dataset
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
    model = spec.to_job(id="plan", placement=Placement(output=os.curdir)).model
    try:
        with torch.device("meta"):
            return create_dense(model.replace(weights="scratch"), classes=classes)
    except AutoslimError as error:
        place = "image_size" if "image size" in str(error) and spec.image_size is not None else "model"
        raise _SpecFault((place,), str(error)) from None


def _proposer(spec: JobSpec, dense: DenseModel) -> Proposer:
    job = spec.to_job(id="plan", placement=Placement(output=os.curdir))
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


def _budget(index: int, budget: Budget, dense_flops: int, proposer: Proposer) -> dict[str, Any]:
    try:
        flops = budget.resolve(dense_flops)
    except BudgetError as error:
        raise _SpecFault(("flops", index), str(error)) from None
    methods = []
    for name, found in proposer.feasibility.items():
        min_flops = None if found.cheapest is None else found.cheapest.flops
        max_flops = None if found.dearest is None else found.dearest.flops
        # The latency is not known here; the search measures it before its first trial.
        feasible = within(found, flops, proposer.limits)
        flops_range = {"min_flops": min_flops, "max_flops": max_flops}
        methods.append({"name": name, **flops_range, "min_params": found.least_params, "feasible": feasible})
    feasible = any(method["feasible"] for method in methods)
    return {"label": budget.label, "flops": flops, "feasible": feasible, "methods": methods}


def _estimate(spec: JobSpec, images: int, parameters: int, dense_flops: int, budgets: list[dict[str, Any]]) -> dict[str, Any]:
    """Upper bounds, since stopped trials train less; without a duration, which depends on the workers."""
    kept = sum(budget["flops"] for budget in budgets) / len(budgets)
    # Refinement is a share of all epochs, so the trials' own are the rest.
    epochs = spec.epochs * spec.most_trials / (1 - spec.final_share)
    seen = images * min(epochs, spec.max_epochs or epochs)
    # A training step is a forward pass and a backward pass at twice its cost, and a forward pass of the dense teacher.
    training = seen * (3 * kept + dense_flops)
    base_seen = images * spec.base_epochs
    return {
        "training_images": int(seen),
        "base_training_images": int(base_seen),
        "multiply_accumulates": float(training + 3 * base_seen * dense_flops),
        "disk_bytes": 4 * parameters * (spec.most_trials + 2 + 8 * 2 + _FORMS * len(budgets)) + 50 * 2**20,
    }


OPERATIONS: dict[str, Callable[[Any], dict[str, Any]]] = {"facts": facts, "plan": plan}


def respond(line: bytes) -> dict[str, Any]:
    request = json.loads(line)
    try:
        return {"result": OPERATIONS[request["operation"]](request.get("argument"))}
    except _SpecFault as issue:
        return {"fault": {"place": list(issue.place), "problem": str(issue)}}


def serve(requests: BinaryIO, responses: BinaryIO) -> NoReturn:
    """Serves until `requests` ends, which exits the process even in the middle of a plan: nobody is left to kill one that hangs."""
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
