"""What a search knows before its first trial: the tables, the recipes that it opens with, and who decides in the end."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers.played_search import Finish, Make, play

from autoslim.core.job import SAMPLER_NAMES, DatasetSpec, ModelSpec, SearchJob
from autoslim.core.plan import Plan
from autoslim.core.recipe import Step, TrainingSettings
from autoslim.core.result import Origin, TrialResult
from autoslim.core.shape import ViTShape
from autoslim.cost import predict
from autoslim.methods import METHODS
from autoslim.methods.base import Method
from autoslim.methods.knob import complete, layer_index
from autoslim.search import Proposal, Proposer, Space, Start, load_prior, parse_space
from autoslim.search.prior import Prior, PriorSize, PriorTable, PriorTrial, size_of
from autoslim.search.prior.table import FORMAT, prior_trial
from autoslim.search.samplers.features import Encoder
from autoslim.search.samplers.prior_fit import MIN_TRIALS, fit_prior, levelled
from autoslim.search.samplers.surrogate import Surrogate

TABLES = load_prior("auto")
assert TABLES is not None
SAMPLERS = [pytest.param(name, marks=[pytest.mark.slow] if name == "gp" else []) for name in SAMPLER_NAMES if name != "random"]


def worth(proposal: Proposal, dense: int) -> float:
    """`sour` is 0.2 better than the other flavours, and `bold` makes no difference."""
    (step,) = proposal.recipe.steps
    return 0.4 + 0.3 * (proposal.flops or 0) / dense + 0.2 * (step.knobs.get("flavour") == "sour")


@pytest.fixture(scope="module")
def encoder(whole: Space, shape: ViTShape, methods: dict[str, Method]) -> Encoder:
    return Encoder(whole, shape, methods, Plan.dense(shape))


@pytest.fixture(scope="module")
def deeper(make: Make, shape: ViTShape, methods: dict[str, Method], whole: Space) -> Callable[..., Prior]:
    """Trials of a model with three blocks for two of the search's, twice as wide; `lost` says what each lost."""
    other = shape.replace(depth=12, dim=96)
    budgets = {"75%": int(0.75 * predict(other, Plan.dense(other)).total)}
    random = Proposer(
        space=whole, shape=other, budgets=budgets, training=TrainingSettings(), seed=7, sampler="random", methods=methods
    )

    def deeper(lost: Callable[[Proposal], float], count: int = 60) -> Prior:
        trials = []
        for number in range(count):
            proposal = random.propose(number, [])
            if proposal.plan is not None:
                trials.append(prior_trial(proposal.recipe, proposal.plan, lost(proposal), shape=other, methods=methods))
        return (table(trials),)

    return deeper


def table(trials: list[PriorTrial], **changes: Any) -> PriorTable:
    about = {"name": "toy", "model": "toy", "data": "none", "command": "none", "depth": 12, "epochs": 3.0, "images": 640}
    return PriorTable(format=FORMAT, dense_accuracy=0.9, trials=tuple(trials), **about).replace(**changes)


@pytest.fixture(scope="module")
def sour(deeper: Callable[..., Prior]) -> Prior:
    """Says what is true: `sour` loses least."""
    return deeper(lambda proposal: 0.9 - worth(proposal, proposal.recipe.budget))


def with_prior(proposer: Proposer, prior: Prior | None) -> Proposer:
    return dataclasses.replace(proposer, prior=prior)


# The tables


@pytest.mark.parametrize("known", TABLES, ids=lambda known: known.name)
def test_every_row_of_a_table_is_a_recipe_of_this_version(known: PriorTable) -> None:
    assert known.trials
    assert 0 < known.dense_accuracy <= 1
    for trial in known.trials:
        assert 0 < trial.flops <= 1
        assert 0 <= trial.extras < trial.flops
        assert -1 < trial.lost <= known.dense_accuracy
        # The encoder averages the blocks over up to four regions of the depth.
        assert len(trial.blocks) == known.depth >= 4
        assert all(0 < share <= 1 for block in trial.blocks for share in block)
        for step in trial.steps:
            ranges = METHODS[step.method].ranges
            absolute = {
                name: layer_index(value, known.depth) if ranges[name].kind == "layer" else value
                for name, value in step.knobs.items()
            }
            complete(ranges, absolute, depth=known.depth)


@pytest.mark.parametrize("known", TABLES, ids=lambda known: known.name)
def test_a_table_says_where_it_is_from_and_is_written_as_it_is_read(known: PriorTable) -> None:
    assert "trial_table.py" in known.command
    assert known.data and known.model and known.epochs > 0 and known.images > 0
    assert PriorTable.from_json(known.to_lines()) == known


def test_none_is_no_prior_and_auto_are_all_tables_in_the_order_of_their_names() -> None:
    assert load_prior("none") is None
    assert [known.name for known in TABLES] == sorted({known.name for known in TABLES})


def test_a_job_that_was_stored_before_there_was_a_prior_has_none() -> None:
    job = SearchJob(id="j", model=ModelSpec(name="m"), dataset=DatasetSpec(source="d"), budgets=(), output="o", prior="auto")
    stored = {name: value for name, value in job.to_dict().items() if name != "prior"}
    assert SearchJob.from_dict(stored) == job.replace(prior="none")


@pytest.mark.slow
def test_methods_that_a_search_does_not_have_are_left_out(sour: Prior, make: Make, finished: Finish) -> None:
    unknown = sour[0].trials[0].replace(steps=(Step(method="of a newer version", knobs={"x": 1}),), lost=-0.9)
    newer = (sour[0].replace(trials=(*sour[0].trials, unknown)),)
    assert size_of(newer, ["tokens", "width"]) == PriorSize(trials=len(sour[0].trials), models=1)
    one, other = with_prior(make(sampler="forest"), sour), with_prior(make(sampler="forest"), newer)
    assert [p for p, _ in play(one, finished, 6)] == [p for p, _ in play(other, finished, 6)]


def test_a_plan_says_what_the_search_begins_with(sour: Prior, make: Make) -> None:
    count = len(sour[0].trials)
    assert with_prior(make(), sour).prior_size.describe("forest") == f"the surrogate starts with {count} trials of 1 other model"
    assert (
        with_prior(make(), sour).prior_size.describe("tpe")
        == f"the first recipes are the best of {count} trials of 1 other model"
    )
    for proposer in (make(), with_prior(make(sampler="random"), sour)):
        assert proposer.prior_size.describe("random") == "the search begins without trials of other models"


def test_tables_are_put_on_one_level(sour: Prior, encoder: Encoder) -> None:
    """The same trials, with all of them 0.3 worse in the second table."""
    (known,) = sour
    worse = table([trial.replace(lost=trial.lost + 0.3) for trial in known.trials])
    both = levelled((known, worse), encoder)
    half = len(known.trials)
    assert [one.kept for one in both[:half]] == pytest.approx([one.kept for one in both[half:]])
    assert [one.ahead for one in both[:half]] == pytest.approx([one.ahead for one in both[half:]])


# The opening


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_opening_has_the_best_recipe_of_every_method_and_then_the_controls(
    sour: Prior, make: Make, finished: Finish, name: str
) -> None:
    proposer = with_prior(make(sampler=name), sour)
    opening = [proposal for proposal, _ in play(proposer, finished, 4)]
    # The best method is the first.
    assert [(p.origin, p.recipe.method) for p in opening[::2]] == [(Origin.SAMPLER, "width"), (Origin.SAMPLER, "tokens")]
    assert [p.origin for p in opening[1::2]] == [Origin.CONTROL, Origin.CONTROL]
    assert opening[0].recipe.steps[0].knobs["flavour"] == "sour"
    assert all(p.flops is not None and p.flops <= p.recipe.budget for p in opening)


def test_without_trials_of_its_methods_a_search_opens_with_the_defaults(make: Make, methods: dict[str, Method]) -> None:
    proposer = with_prior(make(sampler="forest"), ())
    opening = [proposer.propose(number, []) for number in (0, 2)]
    for proposal in opening:
        (step,) = proposal.recipe.steps
        ranges = methods[step.method].ranges
        for name, value in step.knobs.items():
            if not ranges[name].cost_sign and ranges[name].kind != "layer" and ranges[name].searched:
                assert value == ranges[name].default
        assert proposal.recipe.training.lr == proposer.training.lr


def test_controls_and_random_search_stay_random(sour: Prior, make: Make) -> None:
    knowing, ignorant = (with_prior(make(sampler="forest"), prior) for prior in (sour, ()))
    controls = [
        proposal for proposal in (knowing.propose(number, []) for number in range(4)) if proposal.origin == Origin.CONTROL
    ]
    assert controls == [ignorant.propose(control.number, []) for control in controls]
    assert {control.target for control in controls} == {"80%", "65%"}
    one, other = with_prior(make(sampler="random"), sour), make(sampler="random")
    assert [one.propose(number, []) for number in range(9)] == [other.propose(number, []) for number in range(9)]


@pytest.mark.slow
def test_the_opening_stays_within_a_narrow_space(sour: Prior, make: Make, methods: dict[str, Method], finished: Finish) -> None:
    """The best known flavour is not allowed, and the layers are moved to the nearest end."""
    text = """
methods:
  tokens: {layer_1: {low: 0.5, high: 0.6}, layer_2: {low: 0.7, high: 0.8}, rate: {low: 2.0, high: 3.0}}
  width: {flavour: [sweet, salty], keep: {low: 0.4, high: 0.9}}
"""
    space = parse_space(text, source="narrow.yaml", methods=methods)
    proposer = with_prior(make(space=space, sampler="forest"), sour)
    for proposal, _ in play(proposer, finished, 8):
        (step,) = proposal.recipe.steps
        if step.method == "width":
            assert step.knobs["flavour"] in ("sweet", "salty")
        else:
            assert 2.0 <= step.knobs["rate"] <= 3.0
            assert 4 <= step.knobs["layer_1"] <= 5


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_resumed_search_with_a_prior_proposes_the_same(
    sour: Prior, make: Make, finished: Finish, dense: int, name: str
) -> None:
    proposer, history = with_prior(make(sampler=name), sour), []
    for number in range(9):
        history.append(finished(proposer.propose(number, history), accuracy=worth(proposer.propose(number, history), dense)))
    stored = [TrialResult.from_json(result.to_json()) for result in reversed(history)]
    for number in (0, 3, 7, 9, 10):
        known = [result for result in stored if result.number < number]
        assert with_prior(make(sampler=name), sour).propose(number, known) == proposer.propose(number, history[:number])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["forest", "tpe"])
def test_each_of_several_models_opens_with_what_others_have_shown(
    sour: Prior, make: Make, finished: Finish, shape: ViTShape, name: str
) -> None:
    shapes = {"shallow": shape, "deep": shape.replace(depth=shape.depth + 1)}
    starts = tuple(Start(label=label, shape=own) for label, own in shapes.items())
    proposer = with_prior(dataclasses.replace(make(sampler=name), starts=starts), sour)
    played = list(play(proposer, finished, 9))
    opening = [proposal for proposal, _ in played[:4]]
    assert [p.origin for p in opening] == [Origin.SAMPLER, Origin.CONTROL] * 2
    # The best known recipes take the models in turn, whatever the controls beside them do.
    assert [p.recipe.model for p in opening[::2]] == ["shallow", "deep"]
    for proposal, _ in played:
        assert proposal.infeasible is None
        assert proposal.flops is not None and proposal.flops <= proposal.recipe.budget
    last, history = played[-1]
    assert dataclasses.replace(proposer).propose(last.number, list(reversed(history))) == last
    (widths,) = [p for p in opening[::2] if p.recipe.method == "width"]
    assert widths.recipe.steps[0].knobs["flavour"] == "sour"
    for label in shapes:
        known = proposer._best_known[label].proposals(0, proposer._allocator.assign(0), frozenset())
        assert {one.recipe.model for one in known} <= {label}
    what = f"the first recipes of each dense model are the best of {len(sour[0].trials)} trials of 1 other model"
    assert proposer.describe_prior().startswith(what)
    assert ("the surrogate starts without" in proposer.describe_prior()) == (name == "forest")


# The surrogate


def encoded(proposals: list[Proposal], encoder: Encoder) -> list[np.ndarray]:
    return [encoder.encode(p.recipe, p.plan) for p in proposals if p.plan is not None]


@pytest.fixture(scope="module")
def draws(make: Make) -> list[Proposal]:
    random = make(sampler="random", seed=11)
    return [p for p in (random.propose(number, []) for number in range(160)) if p.plan is not None]


def test_a_trial_of_another_model_is_encoded_like_one_of_this_model(
    draws: list[Proposal], encoder: Encoder, shape: ViTShape, methods: dict[str, Method]
) -> None:
    for proposal in draws[:30]:
        assert proposal.plan is not None
        trial = prior_trial(proposal.recipe, proposal.plan, 0.1, shape=shape, methods=methods)
        own, other = encoder.encode(proposal.recipe, proposal.plan), encoder.encode_prior(trial)
        # The last entry is the learning rate, of which a prior says nothing.
        assert other[:-1] == pytest.approx(own[:-1], abs=1e-3)
        assert other[-1] == -1


def test_a_choice_that_the_space_leaves_out_is_none_of_its_choices(
    sour: Prior, methods: dict[str, Method], shape: ViTShape
) -> None:
    space = parse_space("methods: {width: {flavour: [sweet, salty]}}", source="s.yaml", methods=methods)
    encoder = Encoder(space, shape, methods, Plan.dense(shape))
    found = {
        trial.steps[0].knobs["flavour"]: encoder.encode_prior(trial)
        for trial in sour[0].trials
        if trial.steps[0].method == "width"
    }
    place = next(i for i, (a, b) in enumerate(zip(found["sour"], found["sweet"], strict=True)) if {a, b} == {2.0, 0.0})
    assert {name: vector[place] for name, vector in found.items()} == {"sweet": 0.0, "salty": 1.0, "sour": 2.0}


def test_it_knows_from_the_first_trial_what_other_models_have_shown(
    sour: Prior, encoder: Encoder, draws: list[Proposal], dense: int
) -> None:
    prior = fit_prior(levelled(sour, encoder), encoder, seed=0)
    assert prior is not None
    vectors, truth = encoded(draws, encoder), np.array([worth(p, dense) for p in draws])
    errors = {}
    for name, known in (("with", prior), ("without", None)):
        surrogate = Surrogate(vectors[:4], [1.0] * 4, list(truth[:4]), seed=0, prior=known)
        errors[name] = np.abs(surrogate.predict(vectors[4:]).mean(0) - truth[4:]).mean()
    assert errors["with"] < 0.6 * errors["without"]


def test_a_prior_that_is_wrong_does_no_harm_to_many_trials(
    deeper: Callable[..., Prior], encoder: Encoder, draws: list[Proposal], dense: int
) -> None:
    """It says the opposite of the truth about every recipe."""
    wrong = fit_prior(levelled(deeper(lambda p: worth(p, p.recipe.budget)), encoder), encoder, seed=0)
    vectors, truth = encoded(draws, encoder), np.array([worth(p, dense) for p in draws])
    errors = {}
    for name, known in (("with", wrong), ("without", None)):
        surrogate = Surrogate(vectors[:100], [1.0] * 100, list(truth[:100]), seed=0, prior=known)
        errors[name] = np.abs(surrogate.predict(vectors[100:]).mean(0) - truth[100:]).mean()
    assert errors["with"] < errors["without"] + 0.01


def test_a_few_trials_of_other_models_are_no_surrogate(sour: Prior, encoder: Encoder) -> None:
    few = levelled((table(list(itertools.islice(sour[0].trials, MIN_TRIALS - 1))),), encoder)
    assert fit_prior(few, encoder, seed=0) is None
