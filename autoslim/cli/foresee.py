"""`autoslim plan`: what can be reached, and what a search would cost, without training."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from autoslim.budget import format_flops
from autoslim.flops import predict_params
from autoslim.job import SearchJob
from autoslim.latency import DENSE, LatencyTable
from autoslim.limits import format_params
from autoslim.plan import Plan
from autoslim.speed import measure_table_apart
from autoslim.training.device import computing, pick_device, uses_bfloat16
from workers.driver import Prepared, disk_need, prepare, with_table
from workers.latency import search_request
from workers.terminal import duration

_STEPS = 3
_TEACHER = 1 / 3
"""A forward pass of the dense teacher, as a share of a training step (forward, and backward at twice its cost)."""


def show_plan(job: SearchJob, *, as_json: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="autoslim-plan-") as cache:
        prepared = prepare(job, Path(cache))
        if job.limits.latency_ms is not None:
            prepared = with_table(prepared, _measured_here(prepared))
    facts = foresee(prepared)
    sys.stdout.write((json.dumps(facts) if as_json else _render(prepared, facts)) + "\n")


def _measured_here(prepared: Prepared) -> LatencyTable:
    """On this machine, with as many threads as a trial would have."""
    job = prepared.job
    request = search_request(job, prepared.dense, prepared.proposer)
    return measure_table_apart(request, threads=max(1, int(job.resources.cpu)) if job.resources else 1)


def foresee(prepared: Prepared) -> dict[str, object]:
    """Reach by method, seconds and bytes; the speed is measured on this machine with the dense model."""
    job, images = prepared.job, prepared.dataset.report.train.images
    speed = images_per_second(prepared)
    slots = job.concurrency or _slots_here(job)
    ready = prepared.dense.is_ready_for(prepared.dataset.classes)
    base = 0.0 if ready else job.base.epochs * images / speed
    kept = sum(flops for flops in prepared.budgets.values()) / len(prepared.budgets) / prepared.dense_flops
    trial = job.training.epochs * images / speed * (kept + _TEACHER) / (1 + _TEACHER)
    return {
        "dense_flops": prepared.dense_flops,
        "budgets": prepared.budgets,
        "limits": job.limits.to_dict(),
        "dense_params": predict_params(prepared.dense.shape, Plan.dense(prepared.dense.shape)),
        "dense_ms": None if prepared.proposer.timer is None else prepared.proposer.timer(Plan.dense(prepared.dense.shape)),
        "methods": {
            name: {
                "cheapest": None if found.cheapest is None else found.cheapest.flops,
                "dearest": None if found.dearest is None else found.dearest.flops,
                "least_params": found.least_params,
                "least_ms": found.least_ms,
            }
            for name, found in prepared.proposer.reach.items()
        },
        "left_out": prepared.proposer.left_out,
        "trials": job.trials,
        "at_a_time": slots,
        "images_per_second": speed,
        "seconds": base + trial * job.trials / slots,
        "bytes": disk_need(prepared),
        "images": {split: getattr(prepared.dataset.report, split).images for split in ("train", "validation", "test")},
        "classes": len(prepared.dataset.classes),
        "unreadable": sum(getattr(prepared.dataset.report, split).unreadable for split in ("train", "validation", "test")),
        "adapts_dense_model": not ready,
    }


def _slots_here(job: SearchJob) -> int:
    gpus, cpus = torch.cuda.device_count(), os.cpu_count() or 1
    if job.resources is None:
        return gpus or cpus
    return max(1, int(gpus / job.resources.gpu if job.resources.gpu else cpus / max(job.resources.cpu, 1.0)))


def images_per_second(prepared: Prepared) -> float:
    """Training steps of the dense model with its teacher; the gradients are thrown away."""
    device, training = pick_device(), prepared.job.training
    bfloat16 = uses_bfloat16(training.precision, device)
    model: nn.Module = prepared.dense.module.to(device).requires_grad_(True).train()
    height, width = prepared.dense.shape.image_size
    batch = torch.randn(min(training.batch_size, 32), 3, height, width, device=device)
    times = []
    for _ in range(_STEPS):
        began = time.perf_counter()
        with computing(model, device=device, bfloat16=bfloat16):
            with torch.no_grad():
                model(batch)
            output = model(batch)
        (output[0] if isinstance(output, tuple) else output).float().square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    model.zero_grad()
    return len(batch) / min(times)


def _render(prepared: Prepared, facts: dict[str, object]) -> str:
    job, report = prepared.job, prepared.dataset.report
    shape = prepared.dense.shape
    lines = [
        f"Model     {job.model.name}  {format_flops(prepared.dense_flops)} multiply-accumulates at "
        f"{shape.image_size[0]}x{shape.image_size[1]}, {shape.classes} classes"
        + ("; is adapted to the data first" if facts["adapts_dense_model"] else ""),
        f"Data      {report.train.images} train, {report.validation.images} validation ({report.validation.origin}), "
        f"{report.test.images} test ({report.test.origin}); {facts['unreadable']} unreadable",
    ]
    for label, flops in prepared.budgets.items():
        lines.append(f"Budget    {label}: {flops:,} multiply-accumulates ({flops / prepared.dense_flops:.1%} of the dense model)")
    limits = job.limits
    if limits.given:
        words = prepared.proposer.ceiling(DENSE).words(shape, Plan.dense(shape))
        where = "" if prepared.proposer.timer is None else f", on {prepared.proposer.timer.place}"
        lines += [f"Limits    {limits.flags}; the dense model takes {' and '.join(words.values())}{where}"]
    columns = [name for name, there in (("params", limits.params), ("ms", limits.latency_ms)) if there is not None]
    heads = "".join(f"{'least ' + name:>14}" for name in columns)
    lines += ["", f"{'Method':18}{'cheapest':>12}{'dearest':>12}{heads}   reaches"]
    for name, found in prepared.proposer.reach.items():
        low = None if found.cheapest is None else found.cheapest.flops
        high = None if found.dearest is None else found.dearest.flops
        reached = [label for label, able in prepared.proposer.able.items() if label in prepared.budgets and name in able]
        shown = "".join(f"{format_flops(value) if value is not None else '-':>12}" for value in (low, high))
        least = {
            "params": "-" if found.least_params is None else format_params(found.least_params),
            "ms": "-" if found.least_ms is None else f"{found.least_ms:.3g}",
        }
        shown += "".join(f"{least[column]:>14}" for column in columns)
        lines.append(f"{name:18}{shown}   {', '.join(reached) or 'none of the budgets'}")
    for name, reason in prepared.proposer.left_out.items():
        lines.append(f"{name:18}cannot slim this model: {reason}")
    seconds, size = float(str(facts["seconds"])), int(str(facts["bytes"]))
    lines += [
        "",
        f"Trials    {job.trials} of {job.training.epochs:g} epochs, {facts['at_a_time']} at a time",
        f"Time      about {duration(seconds)} (the dense model trains at {float(str(facts['images_per_second'])):.0f} images/s here)",
        f"Disk      up to {size / 1e9:.2f} GB in {job.output}, besides the images",
    ]
    return "\n".join(lines)
