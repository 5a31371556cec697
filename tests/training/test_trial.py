"""One trial in four phases: what it reports, that it goes on where it stopped, and what it hands over."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers.marks import DISTINCT, every_method
from helpers.tiny import images, logits

from autoslim.core.plan import Extra, Plan
from autoslim.core.recipe import Recipe
from autoslim.core.result import EpochReport, Phase, TrialResult
from autoslim.cost import Flops, count_flops, predict
from autoslim.errors import DivergedError, TrialError
from autoslim.export.artifact import load, load_config
from autoslim.methods import METHODS
from autoslim.training import TrialContext, measure, run_trial
from autoslim.training.loop import Trainer
from autoslim.training.model_checks import check_flops
from autoslim.training.phase_steps import split_steps

COMPOSED = ("vit_slim", "life_regression")
RECIPES = {**{name: (name,) for name in METHODS}, "both": COMPOSED}
each_recipe = pytest.mark.parametrize("recipe", every_method(RECIPES))

MakeRecipe = Callable[..., Recipe]


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model" / "model.safetensors")


def assert_same_model(one: Path, other: Path) -> None:
    left, right = weights_in(one), weights_in(other)
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []
    assert load_config(one / "model") == load_config(other / "model")


@pytest.fixture(scope="module")
def trials() -> dict[str, tuple[Recipe, list[EpochReport], TrialResult, Path]]:
    """Recipes and what their trials gave, by name: a trial that several tests look at runs once."""
    return {}


@pytest.fixture
def whole_trial(trials, recipe: str, context: TrialContext, make_recipe: MakeRecipe, drain, tmp_path: Path):
    if recipe not in trials:
        made = make_recipe(*RECIPES[recipe], share=0.5, epochs=3.0)
        reports, outcome = drain(run_trial(made, context, tmp_path, budget_label="50%"))
        trials[recipe] = made, reports, outcome, tmp_path
    return trials[recipe]


@each_recipe
def test_phases_come_in_order_and_take_the_epochs_of_the_recipe(recipe: str, whole_trial):
    made, reports, outcome, folder = whole_trial
    phases = [report.phase for report in reports]
    expected = [phase for phase in phases if phase != Phase.FINETUNE]
    assert phases == expected + [Phase.FINETUNE] * (len(phases) - len(expected))
    assert phases.count(Phase.PRUNE) == 1
    prune = phases.index(Phase.PRUNE)
    assert set(phases[:prune]) <= {Phase.TRAIN, Phase.SHARED}
    # `merge` neither trains nor measures anything before the cut, and `sit` and `sit_seeded` train all parts with the pruned model.
    assert (prune == 0) == (recipe in ("merge", "sit", "sit_seeded"))
    epochs = [report.epoch for report in reports]
    assert epochs == sorted(epochs)
    assert epochs[-1] == pytest.approx(outcome.epochs)
    # Shared work and what follows it are whole steps each.
    assert outcome.epochs == pytest.approx(made.training.epochs, abs=0.1)
    assert all("accuracy" in report.metrics for report in reports if report.phase not in (Phase.TRAIN, Phase.SHARED))
    # Algorithm 1 of Patch Slimming has errors of reconstruction, and no loss.
    assert all("loss" in report.metrics for report in reports if report.phase in (Phase.TRAIN, Phase.FINETUNE))
    judged = {report.epoch: report.metrics["accuracy"] for report in reports[prune:]}
    assert outcome.accuracy == max(judged.values()) == judged[outcome.kept_epoch]
    assert load_config(folder / "model").kept_epoch == outcome.kept_epoch
    assert not (folder / "checkpoint").exists()


@each_recipe
def test_what_is_handed_over_meets_the_budget_and_loads(recipe: str, whole_trial):
    made, _, outcome, folder = whole_trial
    model, config = load(folder / "model"), load_config(folder / "model")
    assert count_flops(model, 32) == outcome.flops == outcome.flops_predicted == config.flops.fvcore <= made.budget
    assert config.flops.predicted == predict(config.shape, config.plan).total
    assert outcome.flops >= 0.85 * made.budget
    assert outcome.params == sum(p.numel() for p in model.parameters()) == config.params
    assert config.recipe == outcome.recipe
    assert config.flops.budget_label == "50%"
    assert [step.method for step in config.recipe.steps] == list(RECIPES[recipe])
    assert torch.isfinite(logits(model, images())).all()
    assert 0 <= outcome.accuracy <= 1


@pytest.mark.parametrize("share", [0.25, 0.2])
def test_a_very_narrow_model_agrees_with_torchs_counter(
    share: float, context: TrialContext, make_recipe: MakeRecipe, drain, tmp_path: Path
):
    """The regressor's norm is more than 0.6 % of what is left, and torch's counter does not see it."""
    made = make_recipe(*COMPOSED, share=share, first=1.3 * share, epochs=0.1)
    _, outcome = drain(run_trial(made, context, tmp_path))
    assert outcome.flops <= made.budget


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [pytest.param(name, marks=pytest.mark.short if name == "both" else ()) for name in RECIPES])
def test_a_trial_goes_on_after_any_report_to_the_same_model(
    recipe: str, open_context: Callable[[], TrialContext], make_recipe: MakeRecipe, drain, tmp_path: Path
):
    # Phases that do not end with an epoch: the last segment of each is a short one.
    made = make_recipe(*RECIPES[recipe], epochs=2.6)
    context = open_context()
    reports, outcome = drain(run_trial(made, context, tmp_path / "undisturbed"))
    for stop in range(1, len(reports) + 1):
        folder = tmp_path / f"stopped after {stop}"
        run = run_trial(made, context, folder)
        for _ in range(stop):
            next(run)
        run.close()
        rest, resumed = drain(run_trial(made, open_context(), folder))
        assert_same_model(folder, tmp_path / "undisturbed")
        assert (resumed.accuracy, resumed.accuracy_after_pruning) == (outcome.accuracy, outcome.accuracy_after_pruning)
        assert resumed.epochs == outcome.epochs
        assert [r.epoch for r in rest] == [r.epoch for r in reports][-len(rest) :]


@pytest.mark.slow
@pytest.mark.short
def test_a_checkpoint_with_former_names_is_resumed_to_the_same_model(
    context: TrialContext, make_recipe: MakeRecipe, drain, tmp_path: Path
):
    made = make_recipe("vit_slim", epochs=3.0)
    _, outcome = drain(run_trial(made, context, tmp_path / "undisturbed"))
    run = run_trial(made, context, tmp_path / "earlier")
    while next(run).phase is not Phase.FINETUNE:
        pass
    run.close()
    path = tmp_path / "earlier" / "checkpoint" / "facts.json"
    facts = json.loads(path.read_text())
    facts["cut_accuracy"], facts["tuned"] = facts.pop("accuracy_after_pruning"), facts.pop("trainable")
    path.write_text(json.dumps(facts))
    _, resumed = drain(run_trial(made, context, tmp_path / "earlier"))
    assert_same_model(tmp_path / "earlier", tmp_path / "undisturbed")
    assert resumed.accuracy_after_pruning == outcome.accuracy_after_pruning


@pytest.mark.slow
@pytest.mark.short
def test_a_trial_may_be_interrupted_again_and_again(context: TrialContext, make_recipe: MakeRecipe, drain, tmp_path: Path):
    made = make_recipe("vit_slim", epochs=3.0)
    drain(run_trial(made, context, tmp_path / "undisturbed"))
    for _ in range(20):
        run = run_trial(made, context, tmp_path / "often")
        try:
            for _ in range(3):
                next(run)
        except StopIteration:
            break
        run.close()
    assert_same_model(tmp_path / "often", tmp_path / "undisturbed")


def test_a_trial_killed_between_a_checkpoint_and_its_report_reports_it_when_it_goes_on(
    context: TrialContext, make_recipe: MakeRecipe, drain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made = make_recipe("life_regression", epochs=3.0)
    expected, _ = drain(run_trial(made, context, tmp_path / "undisturbed"))
    evaluate, killed, arrived = measure.accuracy, set(), {}

    def killing(*arguments, **options) -> float:
        """Once at every evaluation, which comes after the checkpoint and before the report."""
        if len(arrived) not in killed:
            killed.add(len(arrived))
            raise KeyboardInterrupt
        return evaluate(*arguments, **options)

    monkeypatch.setattr(measure, "accuracy", killing)
    while not (tmp_path / "killed" / "model").exists():
        with contextlib.suppress(KeyboardInterrupt):
            for report in run_trial(made, context, tmp_path / "killed"):
                arrived[(report.epoch, report.phase)] = report.metrics.get("accuracy")
    assert len(killed) >= 4
    assert arrived == {(report.epoch, report.phase): report.metrics.get("accuracy") for report in expected}
    assert_same_model(tmp_path / "killed", tmp_path / "undisturbed")


@pytest.mark.slow
def test_trials_that_share_a_bench_give_what_they_give_alone(
    open_context: Callable[[], TrialContext], make_recipe: MakeRecipe, drain, tmp_path: Path
):
    recipes = [make_recipe(*RECIPES[name], epochs=1.5) for name in RECIPES]
    shared = open_context()
    before = copy.deepcopy(shared.teacher.state_dict())
    for number, recipe in enumerate(recipes):
        drain(run_trial(recipe, shared, tmp_path / f"shared {number}"))
        drain(run_trial(recipe, open_context(), tmp_path / f"alone {number}"))
        assert_same_model(tmp_path / f"shared {number}", tmp_path / f"alone {number}")
    assert all(torch.equal(value, before[name]) for name, value in shared.teacher.state_dict().items())
    assert not shared.teacher.training
    assert not any(p.requires_grad for p in shared.teacher.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("training", [{"mixup": 0.4}, {"augmentation": "strong"}, {"batch_size": 31, "mixup": 0.8}])
def test_a_trial_does_not_depend_on_the_processs_generators(
    training: dict, context: TrialContext, make_recipe: MakeRecipe, drain, tmp_path: Path
):
    import random

    import numpy as np

    made = make_recipe("vit_slim", epochs=1.0, **training)
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        drain(run_trial(made, context, tmp_path / str(seed)))
    assert_same_model(tmp_path / "1", tmp_path / "2")


@pytest.mark.slow
def test_another_seed_is_another_model(context: TrialContext, make_recipe: MakeRecipe, drain, tmp_path: Path):
    for seed in (0, 1):
        drain(run_trial(make_recipe("vit_slim", seed=seed, epochs=1.0), context, tmp_path / str(seed)))
    one, other = (weights_in(tmp_path / str(seed)) for seed in (0, 1))
    assert one["head.weight"].shape == other["head.weight"].shape
    assert not torch.equal(one["head.weight"], other["head.weight"])


@pytest.mark.slow
@pytest.mark.short
@pytest.mark.parametrize("method", DISTINCT)
def test_a_learning_rate_out_of_hand_is_a_diverged_trial(
    method: str, context: TrialContext, make_recipe: MakeRecipe, drain, tmp_path: Path
):
    with pytest.raises(DivergedError, match="phase"):
        drain(run_trial(make_recipe(method, lr=1e30), context, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "knobs", "rate"),
    [
        ("sit", {"recalibrate": "first", "tune_lr": 0.2}, 0.2),
        ("sit", {}, 1.0),
        ("vit_slim", {}, 1.0),
        ("life_regression", {}, 1.0),
    ],
)
def test_the_tuning_goes_on_at_the_rate_that_its_method_asks_for(
    method: str, knobs: dict, rate: float, context: TrialContext, make_recipe: MakeRecipe, drain, tmp_path: Path, monkeypatch
):
    schedules = []

    class Noting(Trainer):
        def __init__(self, *arguments, **settings) -> None:
            super().__init__(*arguments, **settings)
            schedules.append(self.schedule)

    monkeypatch.setattr("autoslim.training.phase.Trainer", Noting)
    drain(run_trial(make_recipe(method, share=0.6, knobs=knobs), context, tmp_path))
    assert [schedule.rate for schedule in schedules if schedule.phase == Phase.FINETUNE] == [rate]
    assert all(schedule.rate == 1.0 for schedule in schedules if schedule.phase != Phase.FINETUNE)
    assert {schedule.lr_decay for schedule in schedules} == {"linear" if method == "life_regression" else "cosine"}


@pytest.mark.slow
def test_frd_lasts_to_the_end_and_leaves_nothing_in_the_model(
    context: TrialContext, make_recipe: MakeRecipe, drain, tmp_path: Path
):
    reports, outcome = drain(run_trial(make_recipe("sit", share=0.6), context, tmp_path))
    assert [report.phase for report in reports] == [Phase.PRUNE, Phase.FINETUNE, Phase.FINETUNE]
    tuned = [report for report in reports if report.phase == Phase.FINETUNE]
    assert all({"accuracy", "labels", "tokens", "logits"} <= set(report.metrics) for report in tuned)
    # Reverse modules, which only fine-tuning trains, learn to restore the teacher's tokens.
    assert tuned[1].metrics["tokens"] < tuned[0].metrics["tokens"]
    assert outcome.epochs == pytest.approx(2.0)
    assert not any("companion" in name or "reverse" in name for name in load(tmp_path / "model").state_dict())


@pytest.mark.slow
@pytest.mark.short
def test_the_train_beats_knob_moves_epochs_between_the_beats(
    context: TrialContext, make_recipe: MakeRecipe, drain, tmp_path: Path
):
    spent = {}
    for share in (0.1, 0.6):
        made = make_recipe("life_regression", knobs={"train_share": share}, epochs=3.0)
        reports, _ = drain(run_trial(made, context, tmp_path / str(share)))
        spent[share] = next(report.epoch for report in reports if report.phase == Phase.PRUNE)
    assert spent[0.1] == pytest.approx(0.3, abs=0.1)
    assert spent[0.6] == pytest.approx(1.8, abs=0.1)


@pytest.mark.parametrize(
    ("total", "shares", "expected"),
    [
        (100, [0.3], [30]),
        (100, [0.3, 0.2], [30, 14]),
        (100, [0.7, 0.7], [70, 21]),
        (100, [0.7, 0.6, 0.7], [70, 18, 8]),
        (3, [0.7, 0.7], [1, 1]),
        (2, [0.7], [1]),
        (50, [0.001], [1]),
    ],
)
def test_steps_are_split_so_that_every_beat_and_the_tuning_get_some(total: int, shares: list[float], expected: list[int]):
    assert split_steps(total, shares) == expected
    assert total - sum(expected) >= 1


FLOPS = Flops(matmuls=1_000_000, norms=10_000, extras=2_000)
PLAN = Plan(blocks=(), extras=(Extra(name="part", place="head", matmuls=1_500, norms=500),))


def test_counts_that_agree_within_the_budget_pass():
    check_flops(FLOPS, PLAN, fvcore=1_012_000, torch=1_001_500, budget=1_012_000)
    check_flops(FLOPS, PLAN, fvcore=1_012_000, torch=1_007_000, budget=2_000_000)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"fvcore": 1_012_001, "torch": 1_001_500, "budget": 2_000_000}, "fvcore counts 1012001 .* its plan says 1012000"),
        ({"fvcore": 1_012_000, "torch": 1_001_500, "budget": 1_011_999}, "above the budget of 1011999"),
        ({"fvcore": 1_012_000, "torch": 1_008_000, "budget": 2_000_000}, "more than 0.6 % apart"),
        ({"fvcore": 1_012_000, "torch": 990_000, "budget": 2_000_000}, "more than 0.6 % apart"),
    ],
)
def test_counts_that_disagree_fail_the_trial(counts: dict[str, int], message: str):
    with pytest.raises(TrialError, match=message):
        check_flops(FLOPS, PLAN, **counts)


@pytest.mark.slow
@pytest.mark.short
def test_fine_tuning_minimises_the_methods_own_loss(
    open_context: Callable[[], TrialContext], make_recipe: MakeRecipe, drain, tmp_path: Path
):
    """Life regression's is that of the labels alone, in which the teacher has no part."""
    for loss in ("labels", "recipe"):
        for distillation in (0.0, 0.9):
            made = make_recipe("life_regression", knobs={"loss": loss}, distillation=distillation)
            drain(run_trial(made, open_context(), tmp_path / f"{loss} {distillation}"))
    weights = {folder.name: weights_in(folder) for folder in tmp_path.iterdir()}
    same, other = (
        all(torch.equal(value, weights[f"{loss} 0.9"][name]) for name, value in weights[f"{loss} 0.0"].items())
        for loss in ("labels", "recipe")
    )
    assert (same, other) == (True, False)
