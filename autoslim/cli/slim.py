"""`autoslim slim`: one model by given methods and knobs, in this process; neither Ray nor Optuna nor MLflow is imported."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from autoslim.cli import flags
from autoslim.cli.parsing import CliInput, new_job
from autoslim.cli.table import columns
from autoslim.config import Commands
from autoslim.config.pairs import parse_pairs
from autoslim.core.budget import Budget, format_flops
from autoslim.core.recipe import Knobs, Step, TrainingSettings
from autoslim.core.result import EpochReport
from autoslim.errors import RequestError
from workers.search.signals import GracefulShutdown

if TYPE_CHECKING:
    from autoslim.slimming.request import PreparedSlim, SlimJob
    from autoslim.slimming.run import Slimmed

T = TypeVar("T")

Methods = Annotated[
    list[str] | None, typer.Option("--method", help="Slimming method. Repeat the flag to apply several in order.")
]
KnobValues = Annotated[
    list[str] | None,
    typer.Option(
        "--knob",
        help="Knob as name=value or method.name=value. May be repeated. Knobs that decide the FLOPs are adjusted to the budget.",
    ),
]
First = Annotated[
    str | None,
    typer.Option(help="FLOPs after the first of several methods, such as 75% or 3.4G. Default: an even split in log FLOPs."),
]
Distillation = Annotated[
    float | None,
    typer.Option(help=f"Weight of the dense teacher's soft labels, 0 to 1. Default: {TrainingSettings().distillation}."),
]

_DEFAULT_OUTPUT = Path("runs/slim")


@flags.with_flags(flags.job_flags(Commands.SLIM))
def slim(
    context: typer.Context,
    method: Methods = None,
    model: flags.OneModel = None,
    weights: flags.OneFileOfWeights = None,
    flops: flags.FlopsBudget = None,
    knob: KnobValues = None,
    first: First = None,
    distillation: Distillation = None,
    output: flags.OutputFolder = _DEFAULT_OUTPUT,
    json: flags.Json = False,
) -> None:
    """Slim a model by one method, or by several in a row, without a search. Repeat the command to continue an interrupted run.

    Example: autoslim slim --method vit_slim --model deit_small_patch16_224 --data ./flowers --flops 2.3G --output runs/flowers-slim
    """
    job = slim_job(CliInput.of(context), methods=method or [], knobs=knob or [], first=first, distillation=distillation)
    try:
        with GracefulShutdown():
            slimmed = _run(job, output.absolute())
    except KeyboardInterrupt:
        sys.stderr.write("stopped; finished epochs are kept. Repeat the command to continue\n")
        raise typer.Exit(130) from None
    sys.stdout.write((slimmed.to_json(indent=1) if json else _render(slimmed)) + "\n")


def slim_job(
    cli_input: CliInput, *, methods: list[str], knobs: list[str], first: str | None, distillation: float | None
) -> SlimJob:
    """Raises RequestError naming the flag, its value and what is allowed."""
    from autoslim.methods import METHODS
    from autoslim.slimming.request import SlimJob

    allowed = ", ".join(METHODS)
    if not methods:
        raise RequestError(f"--method is needed; allowed: {allowed}")
    for name in methods:
        if name not in METHODS:
            raise RequestError(f"--method is {name!r}; allowed: {allowed}")
        if methods.count(name) > 1:
            raise RequestError(f"--method {name} is given {methods.count(name)} times; allowed: each method once")
    if distillation is not None and not 0 <= distillation <= 1:
        raise RequestError(f"--distillation is {distillation}; allowed: 0 to 1")
    if first is not None and len(methods) < 2:
        raise RequestError(
            f"--first is {first!r}, but there is only one --method; --first sets the FLOPs after the first of several"
        )
    searched = new_job(cli_input, None, Path())
    by_method = parse_knobs(knobs, methods)
    return SlimJob(
        model=searched.model,
        teacher=searched.teacher,
        dataset=searched.dataset,
        budget=searched.budgets[0],
        limits=searched.limits,
        steps=tuple(Step(method=name, knobs=by_method[name]) for name in methods),
        first=None if first is None else _first(first),
        training=searched.training if distillation is None else searched.training.replace(distillation=distillation),
        base=searched.base,
        adapt=searched.adapt,
        seed=searched.seed,
        class_query=searched.class_query,
        bound=searched.bound,
        speed=searched.speed,
    )


def _first(text: str) -> Budget:
    try:
        return Budget.parse(text)
    except RequestError as error:
        raise RequestError(f"--first: {error}") from error


def parse_knobs(texts: list[str], methods: list[str]) -> dict[str, Knobs]:
    """Knobs by method: `name=value` is for the only method that has the knob, `method.name=value` for the named one.

    Raises:
        RequestError: for a knob that none, or more than one, of the methods has.
    """
    from autoslim.methods import METHODS

    found: dict[str, Knobs] = {name: {} for name in methods}
    for text in texts:
        owner, dot, rest = text.partition("=")[0].strip().rpartition(".")
        for name, value in _pairs(rest + text[len(text.partition("=")[0]) :]).items():
            having = [method for method in methods if name in METHODS[method].ranges and (not dot or method == owner)]
            if not having:
                known = "; ".join(f"{method}: {', '.join(METHODS[method].ranges)}" for method in methods)
                raise RequestError(f"--knob is {text!r}; allowed: {known}")
            if len(having) > 1:
                either = " or ".join(f"{method}.{name}" for method in having)
                raise RequestError(f"--knob is {text!r}, which more than one method has; write {either}")
            # YAML, as in a search space, writes booleans in lower case.
            found[having[0]][name] = {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value
    return found


def _pairs(text: str) -> Knobs:
    try:
        return parse_pairs(text)
    except RequestError as error:
        raise RequestError(f"--knob: {error}") from error


def _run(job: SlimJob, folder: Path) -> Slimmed:
    from autoslim.slimming.run import Slimming

    with Slimming(folder, job) as slimming:
        if slimming.finished is not None:
            _print(f"{folder} holds the model of this request already")
            return slimming.finished
        prepared = slimming.prepare(tell=_print)
        _print_request(prepared)
        facts = _run_to_end(slimming.adapt(), "dense model", job.base.epochs)
        if facts.head_check:
            _print(f"dense model: {facts.head_check}")
        _print(f"dense model: accuracy {facts.dense_accuracy:.1%} on the validation images (chance {facts.chance:.1%})")
        teacher = _run_to_end(slimming.adapt_teacher(), "teacher", job.base.epochs)
        if teacher is not None:
            _print(f"teacher: accuracy {teacher.dense_accuracy:.1%} on the validation images")
        outcome = _run_to_end(slimming.train(), prepared.recipe.method, job.training.epochs)
        _print(f"{prepared.recipe.method} ends: accuracy {outcome.accuracy:.1%} at {format_flops(outcome.flops or 0)}")
        _print(f"evaluating it and the dense model on {prepared.dataset.report.test.images} test images")
        return slimming.finalize_models(facts, outcome)


def _print_request(prepared: PreparedSlim) -> None:
    job, recipe = prepared.job, prepared.recipe
    for line in prepared.dataset.report.lines():
        _print(f"data: {line}")
    for asked, solved in zip(job.steps, recipe.steps, strict=True):
        _print(f"{solved.method}: {', '.join(f'{name} {_brief(value)}' for name, value in solved.knobs.items())}")
        for name in asked.knobs:
            if name not in solved.knobs:
                _print(f"{solved.method}: {name} has no effect with these knobs and is ignored")
    budget, dense = format_flops(recipe.budget), format_flops(prepared.dense_flops)
    _print(f"budget {budget}, {recipe.budget / prepared.dense_flops:.1%} of the dense model's {dense}")
    for name, usage in prepared.filled.items():
        _print(f"{name}: {usage}{' (binding)' if name == prepared.binding else ''}")
    if prepared.adapts:
        _print(f"dense model: {job.model.name} for {len(prepared.dataset.classes)} classes, {job.base.epochs:g} epochs")


def _run_to_end(reports: Generator[EpochReport, None, T], name: str, epochs: float) -> T:
    """Prints a line for each report; the result of the generator."""
    from autoslim.core.duration import format_duration
    from autoslim.report.epoch_line import epoch_line

    began, first = time.monotonic(), 0.0
    for number in itertools.count():
        try:
            report = next(reports)
        except StopIteration as end:
            result: T = end.value
            return result
        rest = ""
        if number == 0:
            # A resumed run starts at this epoch; the time it took before is unknown.
            began, first = time.monotonic(), report.epoch
        elif first < report.epoch < epochs:
            left = (time.monotonic() - began) / (report.epoch - first) * (epochs - report.epoch)
            rest = f" | about {format_duration(left)} left"
        _print(f"{name}: {epoch_line(report, epochs)}{rest}")
    raise AssertionError("the reports end by themselves")


def _brief(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _print(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def _render(slimmed: Slimmed) -> str:
    rows = [("model", "FLOPs", "of budget", "of dense", "params", "validation", "test")]
    rows.append(
        (
            "dense",
            format_flops(slimmed.dense_flops),
            "",
            "",
            f"{slimmed.dense_params / 1e6:.3g} M",
            f"{slimmed.dense_validation_accuracy:.2%}",
            f"{slimmed.dense_test_accuracy:.2%}",
        )
    )
    rows.append(
        (
            slimmed.method,
            format_flops(slimmed.flops or 0),
            f"{slimmed.budget_share:.2%}",
            f"{(slimmed.flops or 0) / slimmed.dense_flops:.1%}",
            f"{(slimmed.params or 0) / 1e6:.3g} M",
            f"{slimmed.accuracy:.2%}",
            f"{slimmed.test_accuracy:.2%}",
        )
    )
    lines = ["", *columns(rows), ""]
    if slimmed.latency is not None:
        lines.append(f"Latency    {slimmed.latency.describe()}")
    lines += [f"Files      {slimmed.folder} ({', '.join(slimmed.files)})"]
    if slimmed.dense_folder is not None:
        lines.append(f"Dense      {slimmed.dense_folder}, to be slimmed again as --model")
    lines.append(f"Load       {sys.executable} -c 'import autoslim; print(autoslim.load(\"{slimmed.folder}\"))'")
    return "\n".join(lines)
