"""What a spec could reach, worked out in a process of its own: `python -m autoslim.service.planning.process` answers lines of JSON.

Models are built without memory for weights (torch's meta device), and of the data only labels are read. The process has no address
of a database and no key; it may be killed at any time, and ends with whoever started it, in the middle of a plan too.
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
from autoslim.search.feasibility import within
from autoslim.search.space.yaml_file import space_names

_FAMILIES = ("vision_transformer", "deit")


class _Fault(Exception):
    """A field that is wrong, or with `infeasible` a limit that nothing in the space can meet."""

    def __init__(self, place: tuple[str | int, ...], problem: str, *, infeasible: bool = False) -> None:
        super().__init__(problem)
        self.place, self.infeasible = place, infeasible


def facts(_: Any) -> dict[str, Any]:
    """What there is to ask for."""
    return {
        "models": sorted(name for family in _FAMILIES for name in timm.list_models(module=family)),
        "spaces": space_names(),
        "methods": [{"name": name, "paper": method.paper} for name, method in METHODS.items()],
    }


def plan(request: dict[str, Any]) -> dict[str, Any]:
    """`request` has `spec`, checked and resolved, and `parameters`, the most that a model may have."""
    spec = read_json(json.dumps(request["spec"]))
    images, classes = _data(spec)
    dense = _dense(spec, classes)
    parameters = sum(p.numel() for p in dense.module.parameters())
    if parameters > request["parameters"]:
        raise _Fault(("model",), f"has {parameters:,} parameters; allowed: at most {request['parameters']:,}")
    flops = predict(dense.shape, Plan.dense(dense.shape)).total
    proposer = _proposer(spec, dense)
    _check_limits(spec, proposer)
    budgets = [_budget(index, budget, flops, proposer) for index, budget in enumerate(spec.budgets)]
    return {
        "dense_flops": flops,
        "parameters": parameters,
        "classes": classes,
        "images": images,
        "budgets": budgets,
        "left_out": proposer.left_out,
        "trials": spec.most_trials,
        "epochs": spec.epochs,
        "estimate": _estimate(spec, images["train"], parameters, flops, [budget["flops"] for budget in budgets]),
    }


def _data(spec: JobSpec) -> tuple[dict[str, int], int]:
    """Images by split before unreadable ones are left out, and classes; as `prepare_dataset` cuts them."""
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
        raise _Fault(("data",), str(error)) from None
    train = len(left) if dataset.train_limit is None else min(len(left), dataset.train_limit)
    return {"train": train, "validation": counts["validation"], "test": counts["test"]}, len(source.classes)


def _dense(spec: JobSpec, classes: int) -> DenseModel:
    try:
        with torch.device("meta"):
            return create_dense(spec.model_spec.replace(weights="scratch"), classes=classes)
    except AutoslimError as error:
        place = "image_size" if "image size" in str(error) and spec.image_size is not None else "model"
        raise _Fault((place,), str(error)) from None


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
        raise _Fault(("space",), str(error)) from None
    except AutoslimError as error:
        raise _Fault(("class_query",) if spec.class_query else ("model",), str(error)) from None


def _check_limits(spec: JobSpec, proposer: Proposer) -> None:
    """Refuses a limit on the parameters that every model meets, or none. A latency is unknown here: it is measured where trials run."""
    try:
        for budget in spec.budgets:
            check_not_trivial(budget, Constraints(limits=proposer.limits), proposer.shape)
    except BudgetError as error:
        raise _Fault(("params",), str(error), infeasible=True) from None
    limit = proposer.limits.params
    least = {name: found.least_params for name, found in proposer.feasibility.items() if found.least_params is not None}
    if limit is not None and least and min(least.values()) > limit:
        reached = ", ".join(f"{name} {params:,} and more" for name, params in least.items())
        raise _Fault(("params",), f"is {spec.params!r}, which nothing in the space reaches; allowed: {reached}", infeasible=True)


def _budget(index: int, budget: Budget, dense_flops: int, proposer: Proposer) -> dict[str, Any]:
    try:
        flops = budget.resolve(dense_flops)
    except BudgetError as error:
        raise _Fault(("flops", index), str(error), infeasible=True) from None
    methods = []
    for name, found in proposer.feasibility.items():
        least = None if found.cheapest is None else found.cheapest.flops
        most = None if found.dearest is None else found.dearest.flops
        # How long a model takes is not known here; the search measures it before its first trial.
        reaches = within(found, flops, proposer.limits)
        methods.append({"name": name, "least": least, "most": most, "least_params": found.least_params, "reaches": reaches})
    reachable = any(method["reaches"] for method in methods)
    return {"label": budget.label, "flops": flops, "reachable": reachable, "methods": methods}


def _estimate(spec: JobSpec, images: int, parameters: int, dense_flops: int, budgets: list[int]) -> dict[str, Any]:
    """The fields of an EstimateView. An upper bound, and no time: the machine that runs the job is not this one."""
    job = spec.to_job(id="plan", placement=Placement(output=os.curdir))
    found: Estimate = estimate_work(
        job, most_work(job), train_images=images, dense_flops=dense_flops, budgets=budgets, parameters=parameters
    )
    return {
        "images_trained": found.images_trained,
        "images_adapting": found.images_adapting,
        "multiply_accumulates": found.multiply_accumulates,
        "bytes": found.disk.peak,
    }


OPERATIONS: dict[str, Callable[[Any], dict[str, Any]]] = {"facts": facts, "plan": plan}


def answer(line: bytes) -> dict[str, Any]:
    request = json.loads(line)
    try:
        return {"result": OPERATIONS[request["operation"]](request.get("argument"))}
    except _Fault as issue:
        return {"fault": {"place": list(issue.place), "problem": str(issue), "infeasible": issue.infeasible}}


def serve(requests: BinaryIO, answers: BinaryIO) -> NoReturn:
    """Never returns: the process ends when `requests` do, whatever it is at work on. Nobody is left then to stop a plan that hangs."""
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, lines), daemon=True).start()
    while True:
        answers.write(json.dumps(answer(lines.get())).encode() + b"\n")
        answers.flush()


def _read(requests: BinaryIO, lines: queue.SimpleQueue[bytes]) -> None:
    for line in requests:
        lines.put(line)
    os._exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The service ends it.
    torch.set_num_threads(1)
    # Answers go out by a descriptor of their own: a library that prints must not be taken for one.
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        serve(sys.stdin.buffer, answers)
