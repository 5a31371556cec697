"""The papers' recipes under `search_spaces/papers`: each file is a job that reaches its published FLOPs with the paper's settings."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
import timm
import torch

from autoslim.config import Placement, read_yaml
from autoslim.core.job import SearchJob
from autoslim.core.plan import Plan
from autoslim.core.recipe import PRECISIONS
from autoslim.core.result import Origin
from autoslim.core.shape import ViTShape
from autoslim.cost import predict
from autoslim.methods import METHODS
from autoslim.models import read_shape
from autoslim.search import Proposal, Proposer, load_space, space_names

FOLDER = Path(__file__).parents[2] / "search_spaces" / "papers"
FILES = sorted(path.stem for path in FOLDER.glob("*.yaml"))

PUBLISHED = {
    # ViT-Slim, Table 4, 2 and 7; its 3.3 G at 70 % is 3.24 by this count.
    "vit_slim_deit_small": ((3.7, 3.3, 2.8, 2.3), 0.02),
    "vit_slim_deit_small_attention": ((4.1, 3.9, 3.7, 3.5), 0.02),
    "vit_slim_deit_small_mlp": ((3.8, 3.5, 3.2, 2.9), 0.02),
    "vit_slim_deit_base": ((10.6,), 0.01),
    # Papers with Code; SAViT, Table 2.
    "patch_slimming_deit_tiny": ((0.7,), 0.001),
    "patch_slimming_deit_small": ((2.6,), 0.001),
    "patch_slimming_deit_base": ((9.8,), 0.001),
    "dps_deit_tiny": ((0.6,), 0.001),
    "dps_deit_small": ((2.4,), 0.001),
    # Counted from the code of life regression and of TokenReduction; without norms and regressor.
    "life_regression_deit_tiny_70": ((0.858,), 0.006),
    "life_regression_deit_small_70": ((3.177,), 0.006),
    "life_regression_deit_small_80": ((3.586,), 0.006),
    "life_regression_deit_small_90": ((4.080,), 0.006),
    "life_regression_deit_base_70": ((12.200,), 0.006),
    "life_regression_deit_base_80": ((13.761,), 0.006),
    "life_regression_deit_base_90": ((15.627,), 0.006),
    "sit_deit_tiny": ((0.595,), 0.006),
    "sit_deit_small": ((2.187,), 0.006),
    "sit_deit_base": ((8.363,), 0.006),
    # The same schedule on the other backbones that its code names, of DeiT's shapes.
    "life_regression_vit_tiny_70": ((0.858,), 0.006),
    "life_regression_vit_small_70": ((3.177,), 0.006),
    "life_regression_vit_base_70": ((12.200,), 0.006),
    # SiT's README; without norms they are 0.987, 1.482, 4.016, 8.019 and 34.314 by this count.
    "sit_lvvit_tiny": ((1.0,), 0.014),
    "sit_lvvit_xsmall": ((1.5,), 0.014),
    "sit_lvvit_small": ((4.0,), 0.014),
    "sit_lvvit_medium": ((8.1,), 0.014),
    "sit_lvvit_large": ((34.4,), 0.014),
    # Papers with Code; ViT-Slim, Table 7, which says nothing of how much each layer keeps.
    "patch_slimming_lvvit_small": ((4.7,), 0.001),
    "dps_lvvit_small": ((4.5,), 0.001),
    "vit_slim_swin_tiny": ((3.8, 3.4), 0.001),
}
"""GFLOPs that are published, or follow from published code, by file, and how far a budget may be from them, as a share."""

PAPERS = {"vit_slim", "sit", "life_regression", "patch_slimming", "dps"}

each_file = pytest.mark.parametrize("name", FILES)


@functools.cache
def shape_of(name: str) -> ViTShape:
    with torch.device("meta"):
        return read_shape(timm.create_model(name))


@functools.cache
def job_of(name: str) -> SearchJob:
    return read_yaml(FOLDER / f"{name}.yaml").to_job(id="papers", placement=Placement(output="runs/papers"))


@functools.cache
def proposals(name: str) -> list[Proposal]:
    """Every trial of the job, as a search proposes it."""
    job, shape = job_of(name), shape_of(job_of(name).model.name)
    budgets = job.budget_flops(predict(shape, Plan.dense(shape)).total)
    proposer = Proposer(space=load_space(job.space), shape=shape, budgets=budgets, training=job.training, seed=job.seed)
    return [proposer.propose(number, []) for number in range(job.trials)]


def test_there_is_a_file_for_every_row_and_none_is_a_named_space():
    assert set(FILES) == set(PUBLISHED)
    assert not set(FILES) & set(space_names())
    assert {method for name in FILES for method in load_space(job_of(name).space).methods} == PAPERS


@each_file
def test_a_paper_is_one_trial_for_each_row_at_its_flops(name: str):
    job, found = job_of(name), proposals(name)
    published, tolerance = PUBLISHED[name]
    assert (job.trials, job.scheduler, job.final_share) == (len(published), "none", 0.0)
    for proposal, giga in zip(found, published, strict=True):
        assert proposal.infeasible is None
        assert proposal.origin == Origin.CONTROL
        assert proposal.recipe.budget / 1e9 == pytest.approx(giga, rel=tolerance)
        assert 0.99 * proposal.recipe.budget <= proposal.flops <= proposal.recipe.budget
    assert len({proposal.recipe.budget for proposal in found}) == len(published)


@each_file
def test_a_paper_has_one_setting_of_everything_but_what_the_budget_solves(name: str):
    """Trials of a paper differ by their budgets; what they share is trained as they are."""
    space = load_space(job_of(name).space)
    (method,) = space.methods
    for knob, own in space.methods[method].items():
        free = len(own.choices) > 1 if own.choices is not None else own.low != own.high
        active = knob in proposals(name)[0].recipe.steps[0].knobs
        assert not (free and active and own.searched) or own.cost_sign, knob
    trainings = {proposal.recipe.training.to_json() for proposal in proposals(name)}
    assert trainings == {space.with_fixed(job_of(name).training).to_json()}


@each_file
def test_a_paper_differs_from_the_methods_defaults_only_where_its_file_says_so(name: str):
    recipe = proposals(name)[0].recipe
    (step,) = recipe.steps
    shape = shape_of(job_of(name).model.name)
    defaults = METHODS[step.method].repair(shape, {})
    solved = {knob for knob, own in METHODS[step.method].ranges.items() if own.cost_sign or not own.searched}
    other = {knob for knob in step.knobs if knob not in solved and step.knobs[knob] != defaults.get(knob)}
    # SiT cuts its stages where a table of its own says, for each of its models.
    stages = {f"stage_layer_{k}" for k in (1, 2, 3)}
    # The rate of DPS's selectors is over that of a fine-tuning, which is low.
    own = {"sit": stages, "vit_slim": {"attention_give", "mlp_give"}, "dps": {"selector_lr"}}
    allowed = own.get(step.method, set())
    assert other <= allowed


def tokens_of(name: str) -> list[int]:
    """Tokens that each block computes. A budget that leaves room for one more would not be the paper's model."""
    (proposal,) = proposals(name)
    assert proposal.plan is not None
    return [block.tokens_mlp for block in proposal.plan.blocks]


STAGES = {"tiny": (1, 2, 3), "xsmall": (1, 2, 3), "small": (9, 12, 14), "medium": (10, 14, 17), "large": (10, 14, 17)}
"""Blocks in front of which the released models of SiT slim."""


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("sit_")])
def test_sit_leaves_half_of_the_patches_at_each_stage(name: str):
    shape = shape_of(job_of(name).model.name)
    layers = STAGES[name.removeprefix("sit_lvvit_")] if "lvvit" in name else (3, 6, 9)
    halved = [sum(block >= layer for layer in layers) for block in range(shape.depth)]
    assert tokens_of(name) == [1 + shape.patches // 2**times for times in halved]


KEPT = {"70": (140, 100, 72), "80": (159, 129, 105), "90": (179, 163, 148)}
"""Tokens of the schedules of life regression's code, from blocks 4, 7 and 10 on."""


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("life_regression_")])
def test_life_regression_keeps_the_tokens_of_its_code(name: str):
    first, second, third = KEPT[name[-2:]]
    assert tokens_of(name) == [197] * 4 + [first] * 3 + [second] * 3 + [third] * 2


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith(("patch_slimming_", "dps_"))])
def test_a_fine_tuning_that_is_ours_has_a_fine_tunings_rate_and_says_whose_it_is(name: str):
    """DeiT's 5e-4 is that of a training from scratch."""
    training = job_of(name).training
    assert training.lr == pytest.approx(2e-5 * training.batch_size / 512)
    differs = (FOLDER / f"{name}.yaml").read_text().partition("# Different here:")[2]
    assert "the fine-tuning is ours" in differs and "2e-5 * batch / 512" in differs
    assert "patches a step" not in differs


def test_a_file_of_weights_is_named_where_timm_has_none():
    for name in FILES:
        job = job_of(name)
        config = timm.get_pretrained_cfg(job.model.name)
        has_own = bool(config.hf_hub_id or config.url)
        assert (job.model.weights == "pretrained") == has_own, name


@each_file
def test_a_file_starts_with_the_command_and_what_is_published(name: str):
    text = (FOLDER / f"{name}.yaml").read_text()
    assert f"#   autoslim search search_spaces/papers/{name}.yaml" in text
    assert re.search(r"# Published:\n#   .*\n", text)
    assert "# The paper's recipe:" in text
    assert "# Different here:" in text
    assert f"`{name}.yaml`" in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith(("sit_", "vit_slim_"))])
def test_the_learning_rate_ends_where_the_papers_does(name: str):
    """At 1e-5, and SiT's stays there for the last 10 of its 135 epochs."""
    training = proposals(name)[0].recipe.training
    assert training.lr * training.final_rate == pytest.approx(1e-5, rel=1e-3)
    cooling = training.cooldown * training.epochs
    assert cooling == pytest.approx(10 if name.startswith("sit_") else 0, abs=0.01)


@each_file
def test_a_file_says_beside_every_setting_of_the_training_whose_it_is(name: str):
    text = (FOLDER / f"{name}.yaml").read_text()
    settings = text.partition("  training:\n")[2].partition("# One trial")[0].splitlines()
    assert len(settings) > 4
    for line in [*settings, *re.findall(r"^(?:epochs|augmentation):.*", text, flags=re.MULTILINE)]:
        assert re.fullmatch(r" *\w+: +\S+ +# .+", line), line


@each_file
def test_a_file_has_its_papers_augmentation_and_computes_in_float32_where_the_paper_does(name: str):
    text = (FOLDER / f"{name}.yaml").read_text()
    assert "crops are cut from an image's middle square" in text.partition("# Different here:")[2]
    assert job_of(name).training.augmentation == ("imagenet" if name.startswith("life_regression") else "deit")
    assert (job_of(name).training.precision == PRECISIONS["fp32"]) == ("float32" in text)
