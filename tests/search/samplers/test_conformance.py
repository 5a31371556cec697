"""What `autoslim.search.samplers.base.Sampler` promises, for every sampler of the registry."""

from __future__ import annotations

import itertools

import pytest
from helpers.marks import CI_ONLY
from helpers.played_search import Finish, Make

from autoslim.core import job
from autoslim.core.result import Origin, Target, TrialResult, TrialState
from autoslim.core.shape import ViTShape
from autoslim.cost import predict
from autoslim.search import Proposer, Space, parse_space
from autoslim.search.budget_allocation import Assignment
from autoslim.search.samplers import SAMPLERS, Sampler, SamplerContext, SamplingRequest
from autoslim.search.space.space import Sample

LEARN_FROM_STOPPED = ("forest", "tpe")
TARGETS = ("80%", "65%", Target.FREE)
BOTH = ("tokens", "width")


# A proposal of the Gaussian process takes seconds, one of the forest tenths.
@pytest.fixture(
    params=[pytest.param(name, marks={"gp": [pytest.mark.slow], "forest": CI_ONLY}.get(name, ())) for name in SAMPLERS]
)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def history(make: Make, finished: Finish) -> list[TrialResult]:
    """Thirteen trials of random recipes: complete, stopped, running, failed and diverged ones."""
    states = {3: TrialState.STOPPED, 6: TrialState.RUNNING, 8: TrialState.FAILED, 9: TrialState.STOPPED, 11: TrialState.FAILED}
    results = []
    for proposal in (make(sampler="random").propose(number, []) for number in range(13)):
        state = states.get(proposal.number, TrialState.COMPLETE)
        measured = state in (TrialState.COMPLETE, TrialState.STOPPED)
        results.append(
            finished(
                proposal,
                accuracy=accuracy_of(proposal.number) if measured else None,
                state=state,
                epochs={TrialState.COMPLETE: 3.0, TrialState.STOPPED: 1.0}.get(state),
                error_class="DivergedError" if proposal.number == 8 else None,
            )
        )
    return results


def accuracy_of(number: int) -> float:
    return 0.3 + number * 37 % 50 / 100


def sampler_of(proposer: Proposer, name: str) -> Sampler:
    return SAMPLERS[name](SamplerContext(builder=proposer.builder, feasible_methods=proposer.feasible_methods))


def request_of(number: int, history: list[TrialResult], target: str = "80%", methods: tuple[str, ...] = BOTH) -> SamplingRequest:
    assignment = Assignment(target=target, origin=Origin.SAMPLER, methods=methods)
    known = frozenset(result.recipe.key for result in history)
    return SamplingRequest(number=number, assignment=assignment, history=history, known=known)


def test_the_registry_has_the_names_that_a_job_may_have() -> None:
    assert tuple(SAMPLERS) == job.SAMPLER_NAMES


@pytest.mark.parametrize("target", TARGETS)
def test_candidates_are_inside_the_space_and_the_budget(
    make: Make, history: list[TrialResult], shape: ViTShape, name: str, target: str
) -> None:
    proposer = make()
    for candidate in itertools.islice(sampler_of(proposer, name).candidates(request_of(13, history, target)), 4):
        if candidate.infeasible is not None:
            assert candidate.plan is None
            continue
        assert candidate.plan is not None
        (step,) = candidate.recipe.steps
        training = {key: getattr(candidate.recipe.training, key) for key in proposer.space.training}
        assert proposer.space.contains(Sample(steps=(step,), training=training), shape)
        assert candidate.flops == predict(shape, candidate.plan).total <= candidate.recipe.budget
        assert candidate.recipe.budget == proposer.budgets.get(target, candidate.flops)
        assert (candidate.number, candidate.target, candidate.origin) == (13, target, Origin.SAMPLER)


@pytest.mark.parametrize("method", BOTH)
def test_only_the_methods_of_the_assignment_are_proposed(make: Make, history: list[TrialResult], name: str, method: str) -> None:
    candidates = sampler_of(make(), name).candidates(request_of(13, history, methods=(method,)))
    assert {candidate.recipe.method for candidate in itertools.islice(candidates, 3)} == {method}


def test_candidates_never_end_and_need_no_history(make: Make, name: str) -> None:
    candidates = list(itertools.islice(sampler_of(make(), name).candidates(request_of(5, [])), 20))
    assert len(candidates) == 20
    assert any(candidate.infeasible is None for candidate in candidates)


def test_a_resumed_search_proposes_the_same(make: Make, history: list[TrialResult], name: str) -> None:
    stored = [TrialResult.from_json(result.to_json()) for result in reversed(history)]
    uninterrupted = make(sampler=name)
    for number in (1, 13, 14, 15):
        assert make(sampler=name).propose(number, stored) == uninterrupted.propose(number, history)


def test_another_seed_proposes_another_recipe(make: Make, name: str) -> None:
    one, other = (make(sampler=name, seed=seed).propose(5, []) for seed in (1, 2))
    assert one.recipe.steps != other.recipe.steps


def test_what_was_asked_before_changes_nothing(make: Make, finished: Finish, name: str) -> None:
    """Forty results are known while trial 7 runs; then it ends, behind all others."""
    random = make(sampler="random")
    all_ended = [finished(random.propose(number, []), accuracy=accuracy_of(number)) for number in range(41)]
    one_runs = [r.replace(state=TrialState.RUNNING, accuracy=None) if r.number == 7 else r for r in all_ended]
    used = make(sampler=name)
    used.propose(42, one_runs)
    assert used.propose(42, all_ended) == make(sampler=name).propose(42, all_ended)


def test_trials_proposed_at_the_same_time_differ(make: Make, finished: Finish, history: list[TrialResult], name: str) -> None:
    proposer, running = make(sampler=name), []
    for number in range(13, 19):
        running.append(
            finished(proposer.propose(number, [*history, *running]), accuracy=None, state=TrialState.RUNNING, number=number)
        )
    assert len({result.recipe.key for result in running}) == 6


def test_no_known_recipe_is_proposed_where_there_are_others(
    make: Make, finished: Finish, history: list[TrialResult], name: str
) -> None:
    first = make(sampler=name).propose(13, history)
    lost = finished(first, number=99, accuracy=None, state=TrialState.FAILED, error_class="UnavailableError")
    assert make(sampler=name).propose(13, [*history, lost]).recipe.key != first.recipe.key


def test_only_these_samplers_learn_from_stopped_trials(make: Make, history: list[TrialResult], name: str) -> None:
    """Every other trial was stopped, or its node was lost, which says nothing about its recipe."""
    stopped = {"state": TrialState.STOPPED, "accuracy": 0.2, "epochs": 1.0, "error_class": None}
    lost = {"state": TrialState.FAILED, "accuracy": None, "epochs": None, "error_class": "WorkerLostError"}
    one, other = ([r.replace(**changes) if r.number % 2 else r for r in history] for changes in (stopped, lost))
    with_stopped, without = make(sampler=name), make(sampler=name)
    differ = [with_stopped.propose(number, one) != without.propose(number, other) for number in range(14, 22)]
    assert any(differ) == (name in LEARN_FROM_STOPPED)


def test_a_space_of_a_single_recipe_is_answered_with_it(make: Make, methods: dict[str, object], name: str) -> None:
    space = parse_space("methods: {width: {keep: 0.4, flavour: sour, bold: true}}", source="s.yaml", methods=methods)  # type: ignore[arg-type]
    candidates = sampler_of(make((0.7,), space=space), name).candidates(request_of(5, [], "70%", ("width",)))
    assert len({candidate.recipe.key for candidate in itertools.islice(candidates, 3)}) == 1


def test_a_space_that_was_stored_is_searched_alike(make: Make, whole: Space, history: list[TrialResult], name: str) -> None:
    """JSON does not keep the order of knobs and methods."""
    read, stored = make(sampler=name), make(sampler=name, space=Space.from_json(whole.to_json()))
    assert [read.propose(n, history) for n in (13, 14)] == [stored.propose(n, history) for n in (13, 14)]
