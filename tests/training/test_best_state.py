"""The state that is kept: the best on the validation images, straight after pruning or after an epoch of fine-tuning."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from autoslim.core.plan import Plan
from autoslim.core.recipe import Recipe
from autoslim.core.result import Phase
from autoslim.export.artifact import load_config, load_trained
from autoslim.methods.layers.token_counts import image_flops, token_counts
from autoslim.training import TrialContext, measure, run_trial
from autoslim.training.best_state import BestState
from autoslim.training.longer import tune_longer
from autoslim.training.measure import Measurer

THRESHOLD = {"mode": "threshold", "start": "attention", "ends": "drops", "temperature": 4.0}
"""Of life regression: the number of tokens differs from image to image."""


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def linear(value: float) -> nn.Linear:
    layer = nn.Linear(2, 2)
    nn.init.constant_(layer.weight, value)
    return layer


def test_of_equal_states_the_later_one_is_kept_and_a_companion_is_no_part_of_it():
    best, model = BestState(), linear(0.0)
    model.companion = nn.Linear(1, 1)
    for epoch, (value, score) in enumerate([(1.0, 0.5), (2.0, 0.7), (3.0, 0.7), (4.0, 0.6)]):
        nn.init.constant_(model.weight, value)
        best.observe(model, score=score, epoch=epoch)
    resumed = BestState()
    resumed.resume(best.tensors, best.metadata)
    for state in (best, resumed):
        restored = linear(0.0)
        state.restore(restored)
        assert (state.score, state.epoch, restored.weight[0, 0].item()) == (0.7, 2, 3.0)


def test_a_checkpoint_without_a_best_state_begins_with_the_first_that_is_observed():
    best = BestState()
    best.resume({"student.weight": torch.zeros(1)}, {"step": 3})
    assert (best.tensors, best.metadata) == ({}, {})
    best.observe(linear(1.0), score=0.0, epoch=4.0)
    assert best.metadata == {"best": {"score": 0.0, "epoch": 4.0}}


def test_fine_tuning_that_makes_a_model_worse_is_undone_also_after_an_interruption(
    context, make_recipe, drain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Judged by how near the dense model's weights a model's are: every step of training makes it worse."""
    name = "norm.weight"
    dense = context.teacher.state_dict()[name]
    monkeypatch.setattr(
        measure, "accuracy", lambda model, *images, **settings: 1 / (1 + float((model.state_dict()[name] - dense).abs().sum()))
    )
    made = make_recipe("merge", share=0.9, epochs=2.0)
    reports, outcome = drain(run_trial(made, context, tmp_path / "whole"))
    assert [report.phase for report in reports] == [Phase.PRUNE, Phase.FINETUNE, Phase.FINETUNE]
    assert outcome.accuracy == outcome.accuracy_after_pruning == 1.0 > max(report.metrics["accuracy"] for report in reports[1:])
    assert (outcome.kept_epoch, outcome.epochs) == (reports[0].epoch, reports[-1].epoch) == (0.0, 2.0)
    kept = weights(tmp_path / "whole" / "model")
    assert torch.equal(kept[name], dense)

    stopped = run_trial(made, context, tmp_path / "stopped")
    for _ in reports[:-1]:
        next(stopped)
    stopped.close()
    _, resumed = drain(run_trial(made, context, tmp_path / "stopped"))
    assert resumed.replace(seconds=0.0) == outcome.replace(seconds=0.0)
    again = weights(tmp_path / "stopped" / "model")
    assert [one for one in kept if not torch.equal(kept[one], again[one])] == []


@pytest.mark.slow
@pytest.mark.short
def test_longer_fine_tuning_ends_with_its_best_epoch(context, make_recipe, drain, tmp_path: Path):
    drain(run_trial(make_recipe("merge", share=0.9, epochs=1.0, lr=0.02), context, tmp_path / "trial"))
    reports, tuned = drain(tune_longer(tmp_path / "trial" / "model", context, tmp_path / "work", epochs=3.0))
    scores = [report.metrics["accuracy"] for report in reports]
    last = max(number for number, score in enumerate(scores) if score == max(scores))
    assert (tuned.after, tuned.kept_epoch) == (scores[last], reports[last].epoch)
    assert load_config(tmp_path / "work" / "model").kept_epoch == tuned.kept_epoch


class Counting(Measurer):
    """Notes the mean multiply-accumulates of a validation image whenever a model is judged."""

    def __init__(self, recipe: Recipe, context: TrialContext, plan: Plan) -> None:
        super().__init__(recipe, context)
        self.plan, self.seen = plan, []

    def accuracy(self, model: nn.Module) -> float:
        counts = torch.cat([token_counts(model, images_B3HW) for images_B3HW, _ in self._images.epoch(0)])
        self.seen.append(float(image_flops(model, self._shape, self.plan, counts).double().mean()))
        return super().accuracy(model)


def test_epochs_are_judged_at_thresholds_that_keep_to_the_budget_and_leave_the_models_own(
    context, make_recipe, drain, tmp_path: Path
):
    made = make_recipe("life_regression", share=0.5, knobs=THRESHOLD, epochs=0.5).replace(bound="mean")
    drain(run_trial(made, context, tmp_path))
    model, config = load_trained(tmp_path / "model"), load_config(tmp_path / "model")
    # Lives that end later than the budget allows.
    for name, buffer in model.named_buffers():
        if name.endswith("scorer.mean"):
            buffer.add_(0.5)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    measurer = Counting(made, context, config.plan)
    measurer.accuracy(model)
    measurer.accuracy_within_budget(model, config.plan, config.recipe.steps[-1])
    assert measurer.seen[0] > made.budget
    assert measurer.seen[1] <= 1.05 * made.budget
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
