"""A table of real trials: recipes of the default space on a small model, with the accuracy after every epoch.

    AUTOSLIM_DATA=... python benchmarks/trial_table.py --output runs/trials [--of cifar10_d64] [--trials 400] [--minutes 90]

`--of cifar10_d64` is a ViT of width 64 with 4 blocks (32 px, patch 4) on CIFAR-10, `--of signdigits_d64` one with 6 blocks (40 px, patch
5) on hands that sign digits. It is trained once. Every trial slims it by a recipe that is drawn at random from the space
and solved onto a budget between 30 % and 95 % of the FLOPs, methods in turn. One trial in four is free and keeps the FLOPs it was drawn
with. One in eleven repeats an earlier recipe with another seed, which measures the noise of an accuracy. Finished trials are lines in
--output and not repeated; the table is written at the end, or when the minutes are over. `simulation` is fitted to it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from cached_teacher import SharedLogitsContext

from autoslim.core.files import replacing_file
from autoslim.core.job import DatasetSpec, ModelSpec
from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe, TrainingSettings
from autoslim.core.result import BaseFacts, Outcome, Phase, Target
from autoslim.core.shape import ViTShape
from autoslim.cost import predict
from autoslim.data import PreparedDataset, prepare_dataset
from autoslim.errors import AutoslimError, InfeasibleError, TrialError
from autoslim.methods import METHODS
from autoslim.methods.chain import evaluate_chain, solve_chain
from autoslim.search import load_space
from autoslim.search.space.space import Sample, Space, Uniform
from autoslim.training import BaseRequest, TrialContext, prepare_base, run_trial

DATA = Path(__file__).parent / "data"
IMAGES = 640
"""Training images of a trial."""
SHARES = (0.30, 0.95)
SPACE = "default"

_GOLDEN = 0.6180339887498949
"""Steps of the golden ratio spread the budgets evenly, however many trials there are."""
_FREE_EVERY = 4
_ROUND = 11
_DRAWS = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseStart:
    """The dense model of a table, trained from random weights with `base`; `data` is a folder below AUTOSLIM_DATA, `training` a trial's.

    The dense model is not trained on the share `base_validation_share` of the images, nor are trials on `validation_share`, which are some
    of the same and judge them.
    """

    data: str
    model: ModelSpec
    base: TrainingSettings
    training: TrainingSettings
    base_validation_share: float
    validation_share: float


def _vit(**args: int) -> ModelSpec:
    return ModelSpec(name="vit_tiny_patch16_224", weights="scratch", args=args)


STARTS = {
    "cifar10_d64": DenseStart(
        data="cifar10",
        model=_vit(img_size=32, patch_size=4, embed_dim=64, depth=4, num_heads=4),
        base=TrainingSettings(epochs=12.0, batch_size=128, lr=3e-3, distillation=0.0),
        training=TrainingSettings(epochs=6.0),
        # 2,000 images; trials are judged on the first 1,000 of them.
        base_validation_share=0.04,
        validation_share=0.02,
    ),
    "signdigits_d64": DenseStart(
        data="signdigits100",
        model=_vit(img_size=40, patch_size=5, embed_dim=64, depth=6, num_heads=4),
        # 1,300 images are few, so that the epochs are many.
        base=TrainingSettings(epochs=80.0, batch_size=64, lr=2e-3, distillation=0.0),
        training=TrainingSettings(epochs=4.0),
        base_validation_share=0.2,
        validation_share=0.2,
    ),
}


def table_of(name: str) -> Path:
    """Where the table of the start with this name is committed."""
    return DATA / f"trials_{name}.parquet"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A trial to run. `target` is a share of the dense FLOPs, or `free`; `repeats` is the trial whose recipe it repeats."""

    number: int
    recipe: Recipe
    plan: Plan
    flops: int
    target: str
    repeats: int | None = None


def drawn(number: int, space: Space, shape: ViTShape, training: TrainingSettings) -> Task:
    """The same task in every call, so that an interrupted table can be continued."""
    cycle, place = divmod(number, _ROUND)
    if place == _ROUND - 1:
        source = cycle * _ROUND + cycle % (_ROUND - 1)
        first = drawn(source, space, shape, training)
        return dataclasses.replace(first, number=number, recipe=first.recipe.replace(seed=1), repeats=source)
    turn = cycle * (_ROUND - 1) + place
    names = list(space.methods)
    method = METHODS[names[turn % len(names)]]
    free = (turn // len(names)) % _FREE_EVERY == _FREE_EVERY - 1
    share = SHARES[0] + (SHARES[1] - SHARES[0]) * (_GOLDEN * (turn + 1) % 1)
    for attempt in range(_DRAWS):
        sample = space.sample(Uniform(f"trial table {number} {attempt}"), {method.name: method}, shape)
        task = _solved(number, sample, space, shape, training, None if free else share)
        if task is not None:
            return task
    raise InfeasibleError(f"{method.name}: none of {_DRAWS} draws can be solved onto {share:.0%} of the FLOPs")


def _solved(
    number: int, sample: Sample, space: Space, shape: ViTShape, training: TrainingSettings, share: float | None
) -> Task | None:
    """None for a draw that cannot be solved onto the budget, or leaves the space when it is."""
    dense = Plan.dense(shape)
    try:
        if share is None:
            solved = evaluate_chain(METHODS, shape, dense, sample.steps)
            budget = solved.flops
        else:
            budget = int(share * predict(shape, dense).total)
            solved = solve_chain(METHODS, shape, dense, sample.steps, [budget], ranges=space.methods)
    except AutoslimError:
        return None
    if not space.contains(dataclasses.replace(sample, steps=solved.steps), shape):
        return None
    recipe = Recipe(
        steps=solved.steps,
        budget=budget,
        training=training.replace(**sample.training),
        seed=0,
    )
    target = Target.FREE if share is None else f"{share:.4f}"
    return Task(number=number, recipe=recipe, plan=solved.plan, flops=solved.flops, target=target)


def open_context(data: Path, output: Path, start: DenseStart) -> TrialContext:
    """Trains the dense model once; trials are trained on `IMAGES` of the images."""

    def dataset(share: float, images: int | None) -> PreparedDataset:
        spec = DatasetSpec(source=str(data / start.data), validation_share=share, train_limit=images)
        return prepare_dataset(spec, output / "cache", seed=0)

    whole, small = dataset(start.base_validation_share, None), dataset(start.validation_share, IMAGES)
    request = BaseRequest(model=start.model, weights_digest="", dataset_digest=whole.digest, training=start.base, seed=0)
    base = output / f"base-{request.digest()}"
    for report in prepare_base(base, request, whole):
        print(f"dense model: epoch {report.epoch:g}, accuracy {report.metrics['accuracy']:.1%}", file=sys.stderr, flush=True)
    context = TrialContext.open(base=base, dataset=small.path, shared_folder=output / "shared", shared_training=start.training)
    (output / "base.json").write_text((base / "facts.json").read_text())
    return SharedLogitsContext.over(context, output / "teacher")


def trained(recipe: Recipe, context: TrialContext, folder: Path) -> tuple[list[dict[str, Any]], Outcome | TrialError]:
    """The points of a trial's learning curve, and its outcome or error; its folder is deleted. Times are CPU seconds, which do not
    depend on what else the machine does."""
    began = time.process_time()
    reports = run_trial(recipe, context, folder)
    curve: list[dict[str, Any]] = []
    try:
        while True:
            report = next(reports)
            if report.phase in (Phase.PRUNE, Phase.FINETUNE):
                seconds = time.process_time() - began
                curve.append(
                    {
                        "epoch": report.epoch,
                        "phase": report.phase.value,
                        "accuracy": report.metrics["accuracy"],
                        "seconds": seconds,
                    }
                )
    except StopIteration as end:
        return curve, end.value
    except TrialError as error:
        return curve, error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def perform(task: Task, context: TrialContext, folder: Path) -> dict[str, Any]:
    """One line of the table."""
    began = time.process_time()
    curve, outcome = trained(task.recipe, context, folder)
    row = {
        "number": task.number,
        "repeats": task.repeats,
        "target": task.target,
        "method": task.recipe.method,
        "budget": task.recipe.budget,
        "flops": task.flops,
        "recipe": task.recipe.to_json(),
        "plan": task.plan.to_json(),
        "curve": curve,
    }
    if isinstance(outcome, TrialError):
        return {**row, "state": "failed", "error": f"{type(outcome).__name__}: {outcome}"}
    return {
        **row,
        "state": "complete",
        "accuracy": outcome.accuracy,
        "accuracy_after_pruning": outcome.accuracy_after_pruning,
        "params": outcome.params,
        "epochs": outcome.epochs,
        "seconds": time.process_time() - began,
    }


def rows(output: Path) -> list[dict[str, Any]]:
    """The complete rows: a killed process may have left half a line."""
    path = output / "trials.jsonl"
    found = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def carry_out(
    context: TrialContext, output: Path, training: TrainingSettings, *, trials: int, minutes: float
) -> Iterator[dict[str, Any]]:
    space, shape = load_space(SPACE), context.dense.shape
    done = {row["number"] for row in rows(output)}
    began = time.monotonic()
    for number in range(trials):
        if number in done:
            continue
        if time.monotonic() - began > 60 * minutes:
            return
        row = perform(drawn(number, space, shape, training), context, output / "trials" / str(number))
        with (output / "trials.jsonl").open("a") as file:
            # Starts on a new line, even after half a line of a killed process.
            file.write("\n" + json.dumps(row) + "\n")
        yield row


_POINT = pa.struct([("epoch", pa.float32()), ("phase", pa.string()), ("accuracy", pa.float32()), ("seconds", pa.float32())])
SCHEMA = pa.schema(
    [
        ("number", pa.int32()),
        ("repeats", pa.int32()),
        ("target", pa.string()),
        ("method", pa.string()),
        ("budget", pa.int64()),
        ("flops", pa.int64()),
        ("state", pa.string()),
        ("error", pa.string()),
        ("accuracy", pa.float32()),
        ("accuracy_after_pruning", pa.float32()),
        ("params", pa.int64()),
        ("epochs", pa.float32()),
        ("seconds", pa.float32()),
        ("curve", pa.list_(_POINT)),
        ("recipe", pa.string()),
        ("plan", pa.string()),
    ]
)


def write_table(output: Path, target: Path, shape: ViTShape, start: DenseStart) -> int:
    """Returns the number of trials. The metadata have the model, its shape, and the dense model's facts."""
    facts = BaseFacts.from_json((output / "base.json").read_text())
    about = {
        "model": start.model.to_json(),
        "shape": shape.to_json(),
        "base": facts.to_json(),
        "training": start.training.to_json(),
        "images": str(IMAGES),
    }
    found = sorted({row["number"]: row for row in rows(output)}.values(), key=lambda row: row["number"])
    table = pa.Table.from_pylist(found, schema=SCHEMA.with_metadata({f"autoslim.{k}": v for k, v in about.items()}))
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(target) as partial:
        pq.write_table(table, partial, compression="zstd", compression_level=19)
    return len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--minutes", type=float, default=90.0, help="no trial starts after that")
    parser.add_argument("--of", choices=STARTS, default="cifar10_d64", help="the dense model")
    parser.add_argument("--table", type=Path, help=f"where the table is written (default: {DATA.name}/ beside this file)")
    arguments = parser.parse_args()
    if "AUTOSLIM_DATA" not in os.environ:
        parser.error("AUTOSLIM_DATA must name the folder that holds cifar10/")
    torch.set_num_threads(1)
    output = arguments.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    start = STARTS[arguments.of]
    context = open_context(Path(os.environ["AUTOSLIM_DATA"]).absolute(), output, start)
    for row in carry_out(context, output, start.training, trials=arguments.trials, minutes=arguments.minutes):
        ending = f"{row['accuracy']:.1%} in {row['seconds']:.1f} s" if row["state"] == "complete" else row["error"]
        print(f"trial {row['number']} {row['method']} {row['target']}: {ending}", file=sys.stderr, flush=True)
    target = table_of(arguments.of) if arguments.table is None else arguments.table.absolute()
    count = write_table(output, target, context.dense.shape, start)
    print(f"{count} trials in {target}")


if __name__ == "__main__":
    main()
