"""One trial: each step of its recipe is attached, trained and pruned, then the slimmed model is fine-tuned, measured and saved.

What is saved is the model as it was at the best validation score since the last pruning.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe, Step
from autoslim.core.result import EpochReport, Outcome, Phase
from autoslim.core.shape import ViTShape
from autoslim.methods import METHODS
from autoslim.methods.base import Method, StepContext
from autoslim.methods.layers.rectangular_block import class_query_last
from autoslim.methods.trainer import Tensors
from autoslim.training.best_state import BestState
from autoslim.training.checkpoint import delete_checkpoint, load_checkpoint, save_checkpoint
from autoslim.training.context import TrialContext
from autoslim.training.device import choose_precision
from autoslim.training.finished_model import save_finished_model
from autoslim.training.loop import Trainer
from autoslim.training.measure import Measurer
from autoslim.training.model_checks import constraints_of
from autoslim.training.phase import Loss, TrainingPhase, make_trainer
from autoslim.training.phase_schedule import PhaseSchedule
from autoslim.training.phase_steps import phase_shares, rests_before, split_steps
from autoslim.training.shared_results import SharedRequest, compute_once
from autoslim.training.shared_trainer import TrialSharedTrainer
from autoslim.training.step_limits import StepLimits

_PHASE_EPOCHS = 1000
"""Distance between the first epochs of two train phases in the loader's numbering: more than any phase has, so that none sees the
augmentations of another."""

_BEFORE = 0.5
"""A checkpoint names its phase by the recipe's step; the rest in front of step n is at n - 0.5."""

_RESTS_FROM = 100
"""Rests are numbered from here in the loader's epochs, behind the train phases of any recipe."""

Checkpoint = tuple[dict[str, Tensor], dict[str, Any]]
"""A checkpoint: tensors by name, and metadata as JSON values, such as the phase and its step."""

Reports = Generator[EpochReport, None, Outcome]


def run_trial(recipe: Recipe, context: TrialContext, folder: Path, *, budget_label: str = "") -> Reports:
    """Runs `recipe` and saves the model in `folder`/model; resumes from a checkpoint in `folder`.

    Yields:
        A report after every epoch and after pruning.

    Raises:
        DivergedError: when the loss or a weight is not finite.
        InfeasibleError: when the recipe does not fit into the memory or onto its budget.
        PreemptedError: when the process has to end (`context.preempted`), with a checkpoint of the last step.
        TrialError: when the finished model's costs are not those of its plan.
    """
    return _Trial(recipe, context, folder, budget_label).run()


class _Trial:
    def __init__(self, recipe: Recipe, context: TrialContext, folder: Path, budget_label: str) -> None:
        self.recipe, self.context, self.folder, self.budget_label = recipe, context, folder, budget_label
        self.training = recipe.training
        self.shape: ViTShape = context.dense.shape
        self.measurer = Measurer(recipe, context)
        self.train_images = context.loader(context.splits.train, self.training, seed=recipe.seed, train=True)
        self.limits = StepLimits(recipe=recipe, shape=self.shape, constraints=constraints_of(recipe, context.latency))
        self.plan, self.model = Plan.dense(self.shape, class_query=recipe.class_query), context.student()
        self.shared_epochs = 0.0
        self.finished_steps: list[Step] = []
        self.companion: nn.Module | None = None
        self.optimizer_steps = 0
        self.accuracy_after_pruning = 0.0
        self.best = BestState()
        self.grad_accum_steps = 1
        self.began, self.earlier_seconds = time.monotonic(), 0.0

    def run(self) -> Reports:
        reports = self._run()
        while True:
            try:
                report = next(reports)
            except StopIteration as end:
                outcome: Outcome = end.value
                return outcome
            yield report.replace(seconds=self._seconds())

    def _run(self) -> Reports:
        # Every trial that uses shared training trains less by as much, so that all trials of a job cost the same.
        self.shared_epochs = sum(self._shared_epochs(step) for step in self.recipe.steps)
        shares = phase_shares(self.recipe)
        # Every phase needs at least one step.
        total = max(len(shares) + 1, round((self.training.epochs - self.shared_epochs) * len(self.train_images)))
        phase_steps = split_steps(total, shares)
        left = iter(phase_steps)
        saved = load_checkpoint(self._checkpoint, mirror=self.context.mirror)
        if saved is not None:
            # The time of a trial includes its earlier runs.
            self.earlier_seconds = float(saved[1]["seconds"])
            self.grad_accum_steps = int(saved[1].get("grad_accum_steps", 1))
        for position, step in enumerate(self.recipe.steps):
            rest_steps = next(left) if rests_before(self.recipe, position) else 0
            train_steps = next(left)
            # Phases before the checkpoint's are not repeated: the checkpoint has their plan and knobs.
            if rest_steps and (saved is None or saved[1]["position"] <= position - _BEFORE):
                yield from self._rest(position, rest_steps, saved)
                # The checkpoint belongs to one phase; the following ones start from the model that this one leaves.
                saved = None
            if saved is None or saved[1]["position"] <= position:
                yield from self._slim(position, step, train_steps, saved)
                saved = None
        if saved is not None:
            self._restore_pruned(saved)
        yield from self._finetune(total - sum(phase_steps), saved)
        return self._finish()

    def _rest(self, position: int, steps: int, saved: Checkpoint | None) -> Generator[EpochReport]:
        """Fine-tunes the model that earlier steps have pruned, before step `position` is attached."""
        if saved is not None:
            self._restore_pruned(saved)
        first_epoch = _PHASE_EPOCHS * (_RESTS_FROM + position)
        schedule = PhaseSchedule(
            phase=Phase.TRAIN, seed_name=f"rest {position}", steps=steps, first_epoch=first_epoch, average=False
        )
        trainer = self._trainer(self.model, schedule)
        yield from self._train(trainer, position - _BEFORE, saved)
        self.model = trainer.student

    def _slim(self, position: int, step: Step, steps: int, saved: Checkpoint | None) -> Generator[EpochReport]:
        """Slims the model by one step of the recipe, after `steps` training steps of the method's parts."""
        if saved is not None:
            self._restore_pruned(saved)
        step = self.limits.solved(position, step, self.plan)
        method = METHODS[step.method]
        step_context = StepContext(
            shape=self.shape,
            plan=self.plan,
            knobs=step.knobs,
            budget=self.limits.flops(position, step, self.plan),
            bound=self.recipe.bound,
            constraints=self.limits.beside_flops(position, step, self.plan),
            shared=(yield from self._shared_result(method, step)),
            dense=self.context.teacher if position and not rests_before(self.recipe, position) else None,
        )
        # What `attach` draws depends on the recipe's seed alone, not on what this process ran before.
        torch.manual_seed(self.recipe.seed)
        student = method.attach(self.model, step_context, self.context.calibration(self.training, seed=self.recipe.seed))
        student.to(self.context.device)
        # A method with nothing to train prunes at once.
        if steps and any(parameter.requires_grad for parameter in student.parameters()):
            schedule = PhaseSchedule(
                phase=Phase.TRAIN,
                seed_name=f"train {position}",
                steps=steps,
                first_epoch=_PHASE_EPOCHS * (position + 1),
                learning_rates=method.learning_rates(student, step.knobs),
                lr_decay=method.lr_decay(step.knobs),
                average=False,
            )
            trainer = self._trainer(student, schedule, functools.partial(method.loss, step.knobs))
            yield from self._train(trainer, position, saved)
        with torch.no_grad():
            finished = method.prune(student, step_context)
        self.model, self.plan = finished.model.to(self.context.device), finished.plan
        self.finished_steps.append(Step(method=step.method, knobs=finished.knobs))
        # Only the last step's: the fine-tuning has its loss.
        self.companion = finished.companion
        if self.recipe.class_query and position == len(self.recipe.steps) - 1:
            self.model = class_query_last(self.model, self.shape.prefix_tokens)
        if position < len(self.recipe.steps) - 1:
            return
        # The model is fine-tuned at nearly its final thresholds. Before they are set they may be infinite, and the moving average of an
        # infinite number is not a number.
        self.measurer.calibrate(self.model.eval(), self.plan, self.finished_steps[-1])
        # After the last pruning alone: only this accuracy can be compared between trials.
        self.accuracy_after_pruning = self.measurer.accuracy(self.model)
        self.best.observe(self.model, score=self.accuracy_after_pruning, epoch=self._epochs())
        yield EpochReport(epoch=self._epochs(), phase=Phase.PRUNE, metrics={"accuracy": self.accuracy_after_pruning})

    def _shared_epochs(self, step: Step) -> float:
        """Epochs of the step's shared training, rounded to whole optimizer steps as that training is."""
        settings = METHODS[step.method].shared_settings(self.shape, step.knobs)
        share = 0.0 if settings is None else METHODS[step.method].shared_share(settings)
        length = len(self.train_images)
        return max(1, round(share * self.training.epochs * length)) / length if share else 0.0

    def _shared_result(self, method: Method, step: Step) -> Generator[EpochReport, None, Tensors | None]:
        """The result that trials of this method share, computed here unless another trial has done so; None if there is none."""
        settings = method.shared_settings(self.shape, step.knobs)
        if settings is None:
            return None
        training = self.context.shared_training or self.training
        request = SharedRequest(
            method=method.name,
            settings=settings,
            base_digest=self.context.base_digest,
            dataset_digest=self.context.dataset_digest,
            training=training.to_dict(),
            seed=self.recipe.seed,
        )
        # The checkpoint is named by the request's digest: any trial that takes the work over finds it.
        root = self.context.shared_folder or self.folder / "shared"
        shared_trainer = TrialSharedTrainer(
            self.context, training, seed=self.recipe.seed, checkpoint=root / f"{request.digest()}.checkpoint"
        )
        work = method.prepare(shared_trainer, settings)
        shared = yield from compute_once(root, request, work, mirror=self.context.mirror)
        return {name: tensor.to(self.context.device) for name, tensor in shared.items()}

    def _finetune(self, steps: int, saved: Checkpoint | None) -> Generator[EpochReport]:
        last = self.finished_steps[-1]
        method = METHODS[last.method]
        if self.companion is not None:
            # A submodule (`COMPANION`): it is trained, averaged and saved in checkpoints with the model.
            self.model.companion = self.companion
        schedule = PhaseSchedule(
            phase=Phase.FINETUNE,
            # The phase's former name: trials of earlier versions resume to the bit.
            seed_name="tune",
            steps=steps,
            rate=method.finetune_rate(last.knobs),
            learning_rates=method.finetune_rates(self.model, last.knobs),
            lr_decay=method.lr_decay(last.knobs),
        )
        trainer = self._trainer(self.model, schedule, functools.partial(method.finetune_loss, last.knobs))
        for report in self._train(trainer, len(self.recipe.steps), saved):
            model = self._evaluated(trainer)
            score = self.measurer.accuracy_within_budget(model, self.plan, last)
            self.best.observe(model, score=score, epoch=report.epoch)
            yield report.replace(metrics={**report.metrics, "accuracy": score})
        self.model = self._evaluated(trainer)
        if self.companion is not None:
            del self.model.companion
        self.best.restore(self.model)

    @staticmethod
    def _evaluated(trainer: Trainer) -> nn.Module:
        return trainer.student if trainer.average is None else trainer.average.module

    def _trainer(self, student: nn.Module, schedule: PhaseSchedule, loss: Loss | None = None) -> Trainer:
        """Minimises `loss`, or the recipe's own."""
        phase = TrainingPhase(student=student, loss=loss, training=self.training, schedule=schedule, seed=self.recipe.seed)
        return make_trainer(self.context, phase)

    def _train(self, trainer: Trainer, position: float, saved: Checkpoint | None) -> Generator[EpochReport]:
        """Runs a phase. An epoch is reported after its checkpoint is written, so that a trial that is killed again and again advances."""
        before = self.optimizer_steps
        if saved is not None:
            trainer.restore(saved[0], step=saved[1]["step"])
            self.optimizer_steps = before + saved[1]["step"]
            # The earlier run may have been killed before this report arrived, and the pruner must not miss one. A checkpoint in the middle
            # of an epoch has none; the epoch before it was reported.
            if saved[1]["metrics"]:
                yield EpochReport(epoch=self._epochs(), phase=trainer.schedule.phase, metrics=saved[1]["metrics"])
        trainer.save = lambda: self._save(position, trainer.state(), step=trainer.step, before=before, metrics={})
        for segment in trainer.segments():
            self.optimizer_steps = before + segment.steps
            self.grad_accum_steps = max(self.grad_accum_steps, trainer.update.pieces)
            self._save(position, segment.state(), step=segment.steps, before=before, metrics=segment.metrics)
            yield EpochReport(epoch=self._epochs(), phase=trainer.schedule.phase, metrics=segment.metrics)
        self.optimizer_steps = before + trainer.schedule.steps

    def _epochs(self) -> float:
        return round(self.shared_epochs + self.optimizer_steps / len(self.train_images), 6)

    # The checkpoint holds the position of the phase, its step, the plan and knobs of every recipe step pruned before it, and the best state
    # since the last pruning.

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    def _save(self, position: float, tensors: dict[str, Tensor], *, step: int, before: int, metrics: dict[str, float]) -> None:
        metadata = {
            "position": position,
            "step": step,
            "before": before,
            "metrics": metrics,
            "plan": self.plan.to_dict(),
            "steps": [finished.to_dict() for finished in self.finished_steps],
            "accuracy_after_pruning": self.accuracy_after_pruning,
            "trainable": [name for name, p in self.model.named_parameters() if p.requires_grad],
            "grad_accum_steps": self.grad_accum_steps,
            "seconds": self._seconds(),
            **self.best.metadata,
        }
        save_checkpoint(self._checkpoint, tensors | self.best.tensors, metadata, mirror=self.context.mirror)

    def _restore_pruned(self, saved: Checkpoint) -> None:
        """Builds the structure that the steps before the checkpoint's phase left; its trainer restores the weights."""
        metadata = saved[1]
        self.plan = Plan.from_dict(metadata["plan"])
        self.finished_steps = [Step.from_dict(step) for step in metadata["steps"]]
        for step in self.finished_steps:
            self.model = METHODS[step.method].build(self.model, self.shape, self.plan, step.knobs)
        if len(self.finished_steps) == len(self.recipe.steps):
            if self.recipe.class_query:
                self.model = class_query_last(self.model, self.shape.prefix_tokens)
            last = self.finished_steps[-1]
            self.companion = METHODS[last.method].companion(self.shape, self.plan, last.knobs)
            if self.companion is not None:
                self.model.companion = self.companion
        self.model.to(self.context.device)
        # Which parameters are trained is no part of the weights, so that the checkpoint lists them.
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in metadata["trainable"])
        self.optimizer_steps, self.accuracy_after_pruning = metadata["before"], metadata["accuracy_after_pruning"]
        self.best.resume(*saved)

    def _seconds(self) -> float:
        return self.earlier_seconds + time.monotonic() - self.began

    def _finish(self) -> Outcome:
        """Measures and saves the best model."""
        model = self.model.requires_grad_(False).eval()
        measured = self.measurer.calibrate_and_measure(model, self.plan, self.finished_steps[-1])
        recipe = self.recipe.replace(steps=tuple(self.finished_steps))
        config = save_finished_model(
            self.folder / "model",
            model,
            self.context,
            recipe=recipe,
            plan=self.plan,
            constraints=self.limits.constraints,
            measured=measured,
            budget_label=self.budget_label,
            kept_epoch=self.best.epoch,
        )
        self.context.mirror.offload(self.folder / "model")
        # Last, because a trial that is killed before its model is saved still needs the checkpoint.
        delete_checkpoint(self._checkpoint, mirror=self.context.mirror)
        return Outcome(
            recipe=recipe,
            accuracy=measured.accuracy,
            accuracy_after_pruning=self.accuracy_after_pruning,
            flops=config.flops.held,
            flops_predicted=config.flops.predicted,
            flops_mean=measured.flops_mean,
            flops_max=measured.flops_max,
            params=config.params,
            latency_ms=None if self.context.latency is None else self.context.latency(self.plan, recipe.method),
            epochs=self._epochs(),
            kept_epoch=self.best.epoch,
            precision=choose_precision(self.training.precision, self.context.device).value,
            grad_accum_steps=self.grad_accum_steps,
            seconds=self._seconds(),
        )
