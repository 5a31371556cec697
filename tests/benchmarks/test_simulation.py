"""The surrogate knows recipes that it has not seen; the simulated cluster loses and invents nothing; peers play by their own rules."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from scipy.stats import spearmanr
from simulation.cluster import Cluster, Conditions
from simulation.features import vector
from simulation.ours import our_search
from simulation.peer import PeerSearch
from simulation.peers import PEERS
from simulation.quality import predicted
from simulation.real import WholeWorld
from simulation.score import Found, scores
from simulation.surrogate import Surrogate, fitted, methods_of
from simulation.table import Trials
from simulation.trial import schedule
from simulation.world import World

from autoslim.core.recipe import Recipe
from autoslim.core.result import Phase, TrialState
from autoslim.methods import METHODS
from autoslim.methods.chain import chain_targets, solve_chain
from autoslim.search.space.space import Uniform
from autoslim.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture(scope="module")
def trials() -> Trials:
    return Trials.read()


@pytest.fixture(scope="module")
def world(trials: Trials) -> World:
    return World(Surrogate(trials), 0)


@pytest.fixture(scope="module")
def recipes(trials: Trials) -> list[Recipe]:
    return [row.recipe for row in trials.rows[:10]]


# The table and the surrogate


def test_the_table_has_every_method_of_a_simulated_search_from_cheap_to_dear(trials: Trials, world: World) -> None:
    assert len(trials.rows) >= 200
    # Methods that are younger than the table are left out of simulated searches: the surrogate knows nothing of them.
    assert world.methods.keys() == {row.recipe.method for row in trials.rows}
    assert len(world.methods) >= 5
    for method in world.methods:
        shares = [row.flops / trials.base.dense_flops for row in trials.rows if row.recipe.method == method]
        assert min(shares) < 0.45 and max(shares) > 0.85
    assert sum(row.repeats is not None for row in trials.rows) >= 10


def test_a_simulated_trial_reports_when_the_real_ones_did(trials: Trials) -> None:
    for row in trials.rows:
        due = [mark for mark in schedule(row.recipe, trials.shape, steps=trials.steps) if mark.phase != Phase.TRAIN]
        assert [mark.phase for mark in due] == [point.phase for point in row.curve]
        assert [mark.epoch for mark in due] == pytest.approx([point.epoch for point in row.curve], abs=1e-4)


def test_the_surrogate_ranks_recipes_it_has_not_seen(trials: Trials) -> None:
    vectors = [_vector(trials, index) for index in range(len(trials.rows))]
    final, _ = predicted(trials.rows, vectors, trials.training.epochs, folds=3)
    assert spearmanr(final, [row.curve[-1].accuracy for row in trials.rows]).statistic >= 0.8


def _vector(trials: Trials, index: int) -> np.ndarray:
    row = trials.rows[index]
    return vector(row.recipe, row.plan, methods_of(trials.rows), trials.shape)


def test_a_recipe_has_the_same_luck_in_every_search_of_a_world_and_another_in_another_world(
    world: World, recipes: list[Recipe]
) -> None:
    other = World(world.surrogate, 1)
    for recipe in recipes:
        assert world.trial(recipe) == world.trial(recipe)
        assert world.true_accuracy(recipe) == other.true_accuracy(recipe)
    assert any(world.trial(recipe).outcome.accuracy != other.trial(recipe).outcome.accuracy for recipe in recipes)


def test_seconds_rise_from_report_to_report_and_with_the_flops(world: World, trials: Trials) -> None:
    whole = []
    for row in trials.rows[:40]:
        trial = world.trial(row.recipe)
        assert all(a < b for a, b in zip(trial.seconds, trial.seconds[1:], strict=False))
        whole.append((row.flops, trial.seconds[-1]))
    assert spearmanr(*zip(*whole, strict=True)).statistic > 0.3


def test_fitting_twice_gives_the_same_surrogate() -> None:
    x = np.random.default_rng(0).normal(size=(40, 3))
    assert np.array_equal(fitted(x, x[:, 0]).predict(x), fitted(x, x[:, 0]).predict(x))


# The cluster


def test_an_undisturbed_worker_spends_its_time_on_trials_and_on_starting_them(world: World) -> None:
    cluster = _run(world, workers=1, trials=6, conditions=Conditions(), scheduler="none")
    spent = sum(world.trial(recipe).seconds[-1] for recipe in cluster.recipes.values())
    assert cluster.tally.makespan == pytest.approx(spent + 6 * 0.35)
    assert cluster.utilisation == pytest.approx(spent / cluster.tally.makespan)
    assert cluster.tally.lost == 0
    assert sum(event.last for event in cluster.events) == 6


def test_preempted_trials_go_on_from_their_last_epoch_and_are_counted_once(world: World) -> None:
    # A worker is lost some forty times an hour, and a trial takes several minutes.
    conditions = Conditions(preempted=10.0, away=30.0, duration_factor=30.0)
    disturbed = _run(world, workers=4, trials=25, conditions=conditions, scheduler="none")
    assert disturbed.tally.preemptions > 5
    assert disturbed.tally.lost > 0
    reports = [(event.number, event.report.epoch, event.report.phase) for event in disturbed.events]
    assert len(reports) == len(set(reports))
    states = [result.state for result in disturbed.search.store.trials("")]
    assert TrialState.RUNNING not in states
    assert states.count(TrialState.COMPLETE) + states.count(TrialState.FAILED) >= 24
    for event in disturbed.events:
        if event.last:
            own = [other.report for other in disturbed.events if other.number == event.number]
            assert own == list(world.trial(disturbed.recipes[event.number]).reports)


def test_notice_loses_nothing_and_checkpoints_in_an_epoch_bound_the_loss(world: World) -> None:
    conditions = Conditions(preempted=20.0, away=30.0, duration_factor=30.0)
    epochs, minute, notice = (
        _run(world, workers=4, trials=12, conditions=dataclasses.replace(conditions, **changes), scheduler="none").tally
        for changes in ({}, {"checkpoint": 20.0}, {"notice": True, "retries": 0})
    )
    assert notice.preemptions > 5
    assert (notice.lost, notice.given_up) == (0.0, 0)
    assert 0 < minute.lost <= 20.0 * minute.preemptions
    assert epochs.lost / epochs.preemptions > minute.lost / minute.preemptions


def test_losses_in_a_row_fail_a_trial_later_than_losses_in_all(world: World) -> None:
    conditions = Conditions(preempted=20.0, away=30.0, duration_factor=30.0, retries=2)
    in_a_row, in_all = (
        _run(world, workers=4, trials=12, conditions=dataclasses.replace(conditions, in_a_row=rule), scheduler="none").tally
        for rule in (True, False)
    )
    assert in_a_row.given_up < in_all.given_up


def test_nodes_that_join_are_used_where_slots_follow_them(world: World) -> None:
    pool = Conditions(first=1, joining=5.0)
    follows, stays = (
        _run(world, workers=4, trials=12, conditions=dataclasses.replace(pool, slots=slots), scheduler="none")
        for slots in (None, 1)
    )
    assert stays.tally.makespan == pytest.approx(
        sum(world.trial(recipe).seconds[-1] for recipe in stays.recipes.values()) + 12 * 0.35
    )
    assert follows.tally.makespan < stays.tally.makespan / 2


def test_a_trial_that_fails_by_itself_is_finished_and_the_search_goes_on(world: World) -> None:
    cluster = _run(world, workers=4, trials=30, conditions=Conditions(failing=0.3), scheduler="none")
    states = [result.state for result in cluster.search.store.trials("")]
    assert 3 <= states.count(TrialState.FAILED) == cluster.tally.failures <= 18
    assert TrialState.RUNNING not in states
    assert len(states) == 30


def test_many_workers_share_the_work_and_wait_for_one_driver(world: World) -> None:
    few, many = (_run(world, workers=n, trials=40, conditions=Conditions(decision=0.5), scheduler="none") for n in (2, 40))
    assert many.tally.makespan < few.tally.makespan / 2
    assert many.tally.last_start == 0.0
    assert many.events[0].seconds > 0.5
    assert max(event.seconds for event in many.events) > 40 * 0.5


def test_the_search_in_memory_is_the_search_in_the_store(world: World, tmp_path: Path) -> None:
    def played(store: Store | None) -> list[tuple[str, TrialState, float | None]]:
        search = our_search(world, trials=14, seed=3, sampler="random", store=store)
        Cluster(search, world.trial, workers=1).run()
        return [(result.recipe.key, result.state, result.accuracy) for result in search.store.trials("simulated")]

    with Store(f"sqlite:///{tmp_path / 'autoslim.db'}") as store:
        assert played(store) == played(None)


def test_a_thousand_workers_are_replayed(world: World) -> None:
    cluster = _run(
        world,
        workers=1000,
        trials=1050,
        conditions=Conditions(failing=0.01, preempted=0.05, duration_factor=200),
        sampler="random",
    )
    assert len(cluster.recipes) > 1000
    assert cluster.utilisation_until_last > 0.5


def _run(world: World, *, workers: int, trials: int, conditions: Conditions, **settings: str) -> Cluster:
    search = our_search(world, trials=trials, seed=0, **{"sampler": "random", **settings})
    return Cluster(search, world.trial, workers=workers, conditions=conditions).run()


# The peers


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_draws_from_the_same_space_and_ends(world: World, name: str) -> None:
    if name == "Syne Tune MOASHA":
        pytest.importorskip("syne_tune", reason="Syne Tune is not installed")
    cluster = Cluster(PeerSearch(PEERS[name](world, 0), world, trials=24), world.trial, workers=1).run()
    assert len(cluster.recipes) == 24
    assert len({recipe.method for recipe in cluster.recipes.values()}) >= 3
    for recipe in cluster.recipes.values():
        (step,) = recipe.steps
        assert recipe.budget == world.flops(recipe)
        assert world.space.methods[step.method].keys() >= step.knobs.keys()
    ended = sum(event.last for event in cluster.events)
    assert ended < 24 if "ASHA" in name else ended == 24


def test_peers_are_reproducible_where_they_say_so(world: World) -> None:
    for name in ("random", "Optuna NSGA-II", "Optuna MO-TPE", "Ray OptunaSearch"):
        one, other = (
            Cluster(PeerSearch(PEERS[name](world, 1), world, trials=12), world.trial, workers=1).run().recipes for _ in range(2)
        )
        assert one == other


# The score


def found(at: float, flops: int, observed: float, true_accuracy: float) -> Found:
    return Found(at=at, flops=flops, observed=observed, true_accuracy=true_accuracy)


def test_models_are_chosen_by_what_was_seen_and_scored_by_what_they_are_worth() -> None:
    lucky, honest = found(1, 50, 0.9, 0.6), found(2, 50, 0.8, 0.8)
    (score,) = scores([lucky, honest], [3], budgets={"half": 50, "tenth": 10}, dense_flops=100, chance=0.0)
    assert score.best == {"half": 0.6, "tenth": 0.0}
    assert score.hypervolume == pytest.approx(0.5 * 0.6)


def test_a_score_knows_nothing_of_later_models() -> None:
    models = [found(1, 50, 0.5, 0.5), found(5, 25, 0.5, 0.5)]
    early, late = scores(models, [4, 6], budgets={"half": 50}, dense_flops=100, chance=0.1)
    assert early.hypervolume == pytest.approx(0.5 * 0.4 / 0.9)
    assert late.hypervolume == pytest.approx(0.75 * 0.4 / 0.9)


# Trained trials


@pytest.mark.parametrize("chains", [False, True])
def test_a_world_of_trained_trials_may_have_what_the_table_has_not(world: World, tmp_path: Path, chains: bool) -> None:
    context: Any = None
    whole = WholeWorld(world.surrogate, world.seed, context=context, folder=tmp_path, chains=chains)
    assert whole.methods.keys() == METHODS.keys() > world.methods.keys()
    assert ("width+merge" in whole.space.units) == chains
    label = "width+merge" if chains else "merge"
    sample = whole.space.sample(Uniform("a"), whole.methods, whole.shape, units=[label])
    targets = chain_targets(whole.dense_flops, whole.budgets["50%"], 0.5, len(sample.steps))
    solved = solve_chain(METHODS, whole.shape, whole.dense, sample.steps, targets)
    recipe = Recipe(steps=solved.steps, budget=targets[-1], training=whole.training, seed=0)
    # Trained by another contestant.
    path = tmp_path / "race" / f"{recipe.replace(seed=whole.seed).key}.json"
    path.parent.mkdir()
    points = [(0.0, "prune", 0.3, 1.0), (1.0, "finetune", 0.4, 2.0), (2.0, "finetune", 0.5, 3.0)]
    path.write_text(json.dumps([dict(zip(("epoch", "phase", "accuracy", "seconds"), point, strict=True)) for point in points]))
    trial = whole.trial(recipe)
    assert [report.phase for report in trial.reports] == [Phase.PRUNE, Phase.FINETUNE, Phase.FINETUNE]
    assert (trial.outcome.accuracy, trial.outcome.accuracy_after_pruning, trial.seconds) == (0.5, 0.3, (1.0, 2.0, 3.0))
    assert trial.outcome.flops == solved.flops
    assert whole.true_accuracy(recipe, 1.0) == 0.4
