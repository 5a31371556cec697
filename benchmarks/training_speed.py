"""autoslim's finetuning loop compared with a plain one: the same model and images, epochs interleaved.

    AUTOSLIM_DATA=... python benchmarks/training_speed.py [--images 2048] [--rounds 5]

The plain loop has augmented and normalised images in memory and does only the teacher's and the student's forward pass, the same loss, the
backward pass and AdamW's step, in the same precision. autoslim's loop also decodes, augments, prefetches, clips gradients, averages the
weights and checks that losses are finite. Both train every method's pruned form at half the FLOPs of vit-cifar10.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from autoslim.core.job import DatasetSpec
from autoslim.core.plan import Plan
from autoslim.core.recipe import TrainingSettings
from autoslim.core.result import Phase
from autoslim.cost import predict
from autoslim.data import prepare_dataset
from autoslim.export.profiling.benchmark import hardware
from autoslim.export.profiling.interleaved import ratio
from autoslim.methods import METHODS, solve
from autoslim.training import TrialContext
from autoslim.training.device import autocast, choose_precision
from autoslim.training.loop import Trainer
from autoslim.training.losses import task_loss
from autoslim.training.phase_schedule import PhaseSchedule

TRAINING = TrainingSettings(distillation=0.9, temperature=2.0)


def ours(model: nn.Module, context: TrialContext, rounds: int) -> Iterator[float]:
    """Images a second, epoch by epoch."""
    loader = context.loader(context.splits.train, TRAINING, seed=0, train=True)
    precision = choose_precision(TRAINING.precision, context.device)

    def objective(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": task_loss(model, context.teacher, images, labels, TRAINING)}

    schedule = PhaseSchedule(phase=Phase.FINETUNE, seed_name="tune", steps=rounds * len(loader))
    trainer = Trainer(
        model,
        objective,
        loader,
        TRAINING,
        schedule,
        seed=0,
        device=context.device,
        precision=precision,
        frozen_models=(context.teacher,),
    )
    for segment in trainer.segments():
        yield segment.metrics["images_per_second"]


def plain(model: nn.Module, context: TrialContext, rounds: int) -> Iterator[float]:
    batches = list(context.loader(context.splits.train, TRAINING, seed=0, train=True).epoch(0, context.device))
    precision = choose_precision(TRAINING.precision, context.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=TRAINING.lr, fused=True)
    for _ in range(rounds):
        model.train()
        began = time.perf_counter()
        for images, labels in batches:
            optimizer.zero_grad(set_to_none=True)
            with autocast(model, context.teacher, device=context.device, precision=precision):
                loss = task_loss(model, context.teacher, images, labels, TRAINING)
            loss.backward()
            optimizer.step()
        if context.device.type == "cuda":
            torch.cuda.synchronize()
        yield sum(len(labels) for _, labels in batches) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    if "AUTOSLIM_DATA" not in os.environ:
        parser.error("AUTOSLIM_DATA must name the folder that holds cifar10/ and vit-cifar10/")
    if arguments.rounds < 2:
        parser.error(f"--rounds {arguments.rounds}: allowed: at least 2, between which there are quartiles")
    torch.set_num_threads(arguments.threads)
    data = Path(os.environ["AUTOSLIM_DATA"])
    print(
        f"{hardware()}, {arguments.threads} threads, {arguments.images} images an epoch, {arguments.rounds} epochs after a first\n"
    )
    print("| model | plain loop, images/s | ours, images/s | ours over plain (quartiles) |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="autoslim-bench-") as scratch:
        spec = DatasetSpec(source=str(data / "cifar10"), train_limit=arguments.images)
        context = TrialContext.open(base=data / "vit-cifar10", dataset=prepare_dataset(spec, Path(scratch), seed=0).path)
        shape, dense = context.dense.shape, Plan.dense(context.dense.shape)
        budget = predict(shape, dense).total // 2
        models = {"dense": context.student()}
        for method in METHODS.values():
            solved = solve(method, shape, dense, {}, budget)
            models[method.name] = method.build(context.student(), shape, solved.plan, solved.knobs)
        for name, model in models.items():
            model.requires_grad_(True)
            pairs = zip(
                plain(copy.deepcopy(model), context, arguments.rounds + 1),
                ours(model, context, arguments.rounds + 1),
                strict=True,
            )
            speeds = list(itertools.islice(pairs, 1, None))
            theirs, own = ([pair[k] for pair in speeds] for k in range(2))
            middle, low, high = ratio(own, theirs)
            print(
                f"| {name} | {sum(theirs) / len(theirs):.0f} | {sum(own) / len(own):.0f} | {middle:.2f} ({low:.2f}-{high:.2f}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
