"""`autoslim plan`: which budgets can be reached, and what a search would cost, without training."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path

import torch

from autoslim.core.budget import format_flops
from autoslim.core.constraints import format_params
from autoslim.core.duration import format_duration
from autoslim.core.figures import format_epochs, format_figure
from autoslim.core.files import short_path
from autoslim.core.job import SearchJob
from autoslim.core.plan import Plan
from autoslim.core.run_folder import RunFolder
from autoslim.core.score import DENSE_AGREEMENT
from autoslim.cost import DENSE, LatencyTable, predict_params
from autoslim.data.dataset import SPLITS
from autoslim.data.scratch_folder import scratch_folder
from autoslim.export.profiling import measure_table_in_subprocess
from autoslim.models import DenseModel
from autoslim.progress.display import Display
from autoslim.progress.preparing import Preparing
from autoslim.progress.status import working
from autoslim.search.spending import limit_flags
from autoslim.search.start_feasibility import StartFeasibility
from autoslim.store import Store
from workers.estimate.dry_run import DryRun, dry_run
from workers.estimate.throughput import Throughput, mean_throughput, measure_throughput
from workers.search.base_model import base_names
from workers.search.latency import search_request
from workers.search.prepare import PreparedSearch, flops_of, prepare, with_latency_table
from workers.search.resources import busy_machine, concurrent_trials, trial_resources, trial_threads, with_default_resources
from workers.search.warm_start import WarmStart, find_warm_start


def made_plan(job: SearchJob, display: Display, *, as_json: bool) -> str:
    """The plan as text or as JSON; `display` shows how far it is."""
    with scratch_folder() as cache:
        prepared = prepare(job, cache, tell=display.detail, watch=Preparing(display))
        if job.limits.latency_ms is not None:
            display.show(working("measuring the latency"))
            prepared = with_latency_table(prepared, _measured_here(prepared))
        # Before the steps, which are work of this process.
        busy = busy_machine(job)
        display.show(working("timing training steps"))
        facts, found = plan_facts(prepared)
        return json.dumps(facts) if as_json else _render(prepared, facts, found, busy)


def _measured_here(prepared: PreparedSearch) -> LatencyTable:
    """On this machine, with as many threads as a trial would have."""
    job = prepared.job
    request = search_request(job, prepared.dense, prepared.proposer)
    return measure_table_in_subprocess(request, threads=trial_threads(with_default_resources(job, **_machine())))


def plan_facts(prepared: PreparedSearch) -> tuple[dict[str, object], DryRun]:
    """The cost range of every method, and the estimated cost of the search, from the training speed measured on this machine."""
    job = with_default_resources(prepared.job, **_machine())
    # The search may run on another machine or cluster, so that one where not even one trial fits is no error here.
    slots = job.concurrency or max(1, concurrent_trials(trial_resources(job), **_machine()))
    warm_start, adapted = _warm_start(prepared)
    throughputs = {label: _throughput(prepared, job, dense) for label, dense in prepared.starts.items()}
    work = dry_run(dataclasses.replace(prepared, job=job), throughputs, slots=slots, reused=warm_start.models, adapted=adapted)
    first = next(iter(prepared.proposer.by_model.values()))
    facts = {
        "dense_flops": prepared.dense_flops,
        "budgets": prepared.budgets,
        "goal": _goal_facts(prepared),
        "limits": job.limits.to_dict(),
        "dense_params": predict_params(prepared.dense.shape, Plan.dense(prepared.dense.shape)),
        "dense_ms": None if prepared.proposer.timer is None else prepared.proposer.timer(Plan.dense(prepared.dense.shape)),
        "methods": _method_facts(first),
        "left_out": first.left_out,
        **_start_facts(prepared),
        "prior": prepared.proposer.prior_size.to_dict(),
        "reuse": warm_start.describe(job.dataset.score),
        "trials": job.trials,
        "at_a_time": slots,
        "images_per_second": 1 / mean_throughput(list(throughputs.values())).train,
        "expected": work.estimate.workload.to_dict(),
        "seconds": work.cost.seconds,
        "parts": work.parts,
        "reserved": work.reserved,
        "device": work.cost.device,
        "device_hours": work.cost.device_hours,
        "money": work.cost.money,
        "bytes": work.cost.bytes,
        "images": {split: getattr(prepared.dataset.report, split).images for split in SPLITS},
        "classes": len(prepared.dataset.classes),
        "objective": "labels" if job.dataset.labelled else "features",
        "score": job.dataset.score.name,
        "unreadable": sum(getattr(prepared.dataset.report, split).unreadable for split in SPLITS),
        "taken": prepared.dataset.report.chosen,
        "not_used": prepared.dataset.report.not_used,
        "suspicious": prepared.dataset.report.suspicious,
        "decoded_before": prepared.dataset.kept(prepared.dense.shape.image_size, prepared.dense.preprocessing.crop_pct),
        "adapts_dense_model": prepared.adapts(prepared.dense),
    }
    return facts, work


def _throughput(prepared: PreparedSearch, job: SearchJob, dense: DenseModel) -> Throughput:
    budget = prepared.mean_budget_share * prepared.dense_flops
    return measure_throughput(job, dense, kept=min(1.0, budget / flops_of(dense)), threads=trial_threads(job))


def _method_facts(start: StartFeasibility) -> dict[str, object]:
    return {
        name: {
            "cheapest": None if found.cheapest is None else found.cheapest.flops,
            "costliest": None if found.costliest is None else found.costliest.flops,
            "least_params": found.min_params,
            "least_ms": found.min_latency_ms,
        }
        for name, found in start.feasibility.items()
    }


def _start_facts(prepared: PreparedSearch) -> dict[str, object]:
    """Where there are several starts, each by its label, and why a budget is not met from one; and a teacher that is none of them."""
    proposer, facts = prepared.proposer, dict[str, object]()
    if proposer.starts:
        facts["starts"] = {
            label: {
                "dense_flops": flops_of(dense),
                "dense_params": dense.parameters,
                "adapts": prepared.adapts(dense),
                "methods": _method_facts(proposer.by_model[label]),
                "left_out": proposer.by_model[label].left_out,
                "not_for": {budget: reason for budget, model, reason in proposer.unused_starts if model == label},
            }
            for label, dense in prepared.starts.items()
        }
    if prepared.teacher is not None:
        facts["teacher"] = {"dense_flops": flops_of(prepared.teacher), "adapts": prepared.adapts(prepared.teacher)}
    return facts


def _warm_start(prepared: PreparedSearch) -> tuple[WarmStart, list[str]]:
    """What is reused, and the labels of the starts whose dense model is."""
    job = prepared.job
    if not job.reuse:
        return WarmStart(), []
    bases = base_names(job, prepared.dataset)
    # A dry run creates no store: without one, only folders can be reused.
    with contextlib.ExitStack() as stack:
        store = None if job.storage is None else stack.enter_context(Store(job.storage))
        found = find_warm_start(job, store, prepared.proposer, bases=bases)
    cache = None if found.base is None else RunFolder(Path(found.base)).cache
    return found, [label for label, name in bases.items() if cache is not None and (cache / name).is_dir()]


def _machine() -> dict[str, float]:
    """What a local Ray would find here."""
    return {"cpus": float(os.cpu_count() or 1), "gpus": float(torch.cuda.device_count())}


def _render(prepared: PreparedSearch, facts: dict[str, object], work: DryRun, busy: str) -> str:
    job = prepared.job
    lines = [
        *_model_lines(prepared),
        *(f"Data      {line}" for line in prepared.data_lines),
        *_objective_lines(prepared),
    ]
    which = "first dense model" if prepared.proposer.starts else "dense model"
    for label, flops in prepared.budgets.items():
        lines.append(f"Budget    {label}: {flops:,} multiply-accumulates ({flops / prepared.dense_flops:.1%} of the {which})")
    lines += [f"{'' if place else 'Goal':10}{line}" for place, line in enumerate(prepared.goal_lines)]
    lines += [f"Budget    {label} is not met from {model}: {reason}" for label, model, reason in prepared.proposer.unused_starts]
    reused, limits = facts["reuse"], job.limits
    assert isinstance(reused, list)
    if limits.given:
        shape = prepared.dense.shape
        words = prepared.proposer.builder.constraints(DENSE).describe(shape, Plan.dense(shape))
        where = "" if prepared.proposer.timer is None else f", on {prepared.proposer.timer.place}"
        lines += [f"Limits    {limits.flags}; the dense model takes {' and '.join(words.values())}{where}"]
    lines += ["", *_method_lines(prepared)]
    lines += ["", f"Prior     {prepared.proposer.describe_prior()}"]
    lines += [*(f"Reuse     {line}" for line in reused), *_cost_lines(job, facts, work, busy)]
    return "\n".join(lines)


def _goal_facts(prepared: PreparedSearch) -> dict[str, object] | None:
    goal = prepared.job.goal
    if goal is None:
        return None
    return {
        **goal.to_dict(),
        "label": goal.label,
        "first_share": prepared.first_share(),
        "shares_of_other_models": prepared.shares_of_others(),
    }


def _objective_lines(prepared: PreparedSearch) -> list[str]:
    """Nothing where labels are learnt, which is usual."""
    if prepared.job.dataset.labelled:
        return []
    score = prepared.job.dataset.score
    lines = [f"Score     {score.meaning}; the dense model's own is {score.text(DENSE_AGREEMENT, 0)}"]
    if prepared.probe is not None:
        found = prepared.probe.report
        lines.append(
            f"Probe     {found.train.images:,} train and {found.test.images:,} test images of {len(found.classes)} classes, for k-NN top-1"
        )
    return lines


def _model_lines(prepared: PreparedSearch) -> list[str]:
    """A line a start, and one for a teacher that is none of them."""
    named = [("Model", label or prepared.job.model.name, prepared.starts[label]) for label in prepared.starts]
    if prepared.teacher is not None and prepared.job.teacher is not None:
        named.append(("Teacher", prepared.job.teacher.name, prepared.teacher))
    lines = [_model_line(head, name, dense, _adapting(prepared, dense)) for head, name, dense in named]
    if len(prepared.starts) > 1 and prepared.teacher is None:
        given = prepared.job.teacher
        lines.append(f"Teacher   {'the most accurate of these of the same image size' if given is None else given.name}")
    return lines


def _adapting(prepared: PreparedSearch, dense: DenseModel) -> str:
    """What happens to a dense model before the search."""
    if not prepared.adapts(dense):
        return ""
    if prepared.job.adapt is None and dense.is_unproven:
        return "; its weights name no classes: is adapted to the data first if a linear probe is more accurate"
    return "; is adapted to the data first"


def _model_line(head: str, name: str, dense: DenseModel, adapting: str) -> str:
    shape = dense.shape
    return (
        f"{head:10}{name}  {format_flops(flops_of(dense))} multiply-accumulates at "
        f"{shape.image_size[0]}x{shape.image_size[1]}, {_head(dense)}"
        + (f"; of the weights' file: {dense.weights_part}" if dense.weights_part else "")
        + "".join(f"; {name} is switched off, for a fixed cost" for name in dense.switched_off)
        + adapting
    )


def _head(dense: DenseModel) -> str:
    return f"{dense.shape.classes} classes" if dense.shape.classes else "features without a classifier"


def _method_lines(prepared: PreparedSearch) -> list[str]:
    """A line a method, or chain, of each start: the range of its costs, and the budgets that it reaches."""
    limits, proposer = prepared.job.limits, prepared.proposer
    columns = [name for name, there in (("params", limits.params), ("ms", limits.latency_ms)) if there is not None]
    heads = "".join(f"{'least ' + name:>14}" for name in columns)
    starts = proposer.by_model.values()
    # Wide enough for the longest chain.
    wide = max([18, *(len(start.named(name)) + 2 for start in starts for name in (*start.feasibility, *start.left_out))])
    lines = [f"{'Method':{wide}}{'cheapest':>12}{'costliest':>12}{heads}   reaches"]
    for start in starts:
        for name, found in start.feasibility.items():
            reached = [label for label in prepared.budgets if name in start.chains_for(label)]
            low = None if found.cheapest is None else found.cheapest.flops
            high = None if found.costliest is None else found.costliest.flops
            shown = "".join(f"{format_flops(value) if value is not None else '-':>12}" for value in (low, high))
            least = {
                "params": "-" if found.min_params is None else format_params(found.min_params),
                "ms": "-" if found.min_latency_ms is None else format_figure(found.min_latency_ms),
            }
            shown += "".join(f"{least[column]:>14}" for column in columns)
            lines.append(f"{start.named(name):{wide}}{shown}   {', '.join(reached) or _none_reached(prepared)}")
        lines += [f"{start.named(name):{wide}}cannot slim this model: {reason}" for name, reason in start.left_out.items()]
    return lines


def _none_reached(prepared: PreparedSearch) -> str:
    return "none of the budgets" if prepared.budgets else ""


def _cost_lines(job: SearchJob, facts: dict[str, object], work: DryRun, busy: str) -> list[str]:
    done = work.estimate.workload
    # What the job's pruner is expected to save; for one that stops nothing, or trials too short to be stopped, that is nothing.
    early = (
        f", some {format_epochs(done.epochs)} epochs with early stops" if done.epochs < done.trials * job.training.epochs else ""
    )
    at_most = "at most " if job.plateau is not None else ""
    limits = limit_flags(job)
    told = f"Limits    {limits}, over all attempts; about {format_duration(work.reserved)} of it are kept for handing the models over"
    if limits and not done.trials:
        told += ", which with the dense model leaves nothing for a trial: give more"
    best = "best" if done.refinements == 1 else f"best {done.refinements}"
    end = f"; the {best} of them for some {format_epochs(done.refinement_epochs)} epochs more" if done.refinements else ""
    parts = ", ".join(f"{name} {format_duration(seconds)}" for name, seconds in work.parts.items() if seconds)
    return [
        f"Trials    {at_most}{done.trials} with {job.training.epochs:g} epochs each, {facts['at_a_time']} at a time{early}{end}",
        f"Time      {at_most}about {format_duration(work.cost.seconds)} here ({parts})",
        *([f"{'':10}{busy}"] if busy else []),
        f"Cost      {at_most}about {work.cost.describe(digits=2)} in {job.output_uri or short_path(job.output)}",
        *([told] if limits else []),
    ]
