"""`--reuse`: what a search takes from earlier ones, and what it does not."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.sample_search import make_job
from helpers.simulated_trials import BASE as BASE_FACTS
from helpers.simulated_trials import make_coordinator, make_proposer, run_all

from autoslim.core.budget import Budget
from autoslim.core.constraints import CostLimits
from autoslim.core.job import ModelSpec, SearchJob
from autoslim.core.recipe import TrainingSettings
from autoslim.core.result import Origin, TrialResult, TrialState
from autoslim.core.run_folder import RunFolder
from autoslim.core.selection import best_within_budgets
from autoslim.core.urls import default_url
from autoslim.errors import RequestError, WeightsError
from autoslim.search import Proposer, Start, explain, load_space
from autoslim.store import JobState, Queue, QueueState, Store
from workers.search.earlier_searches import EarlierSearch
from workers.search.warm_start import WarmStart, _shared_starts, _with_own_labels, apply_warm_start, find_warm_start
from workers.service.attempt import reusable

BASE = "base-0123"


def job_in(root: Path, *budgets: str, **changes: Any) -> SearchJob:
    given: dict[str, Any] = {"training": TrainingSettings(epochs=4.0), "trials": 8, "final_share": 0.0, "scheduler": "none"}
    return make_job(str(root), id=root.name, budgets=tuple(Budget.parse(text) for text in budgets), **{**given, **changes})


def write_model(root: Path, result: TrialResult) -> None:
    assert result.artifact is not None
    for name in ("config.json", "model.safetensors"):
        (root / result.artifact).mkdir(parents=True, exist_ok=True)
        (root / result.artifact / name).write_text("{}")


def search_in(root: Path, store: Store, **changes: Any) -> list[TrialResult]:
    """A completed search, with the files in its folder."""
    job = job_in(root, "50%", "70%", **changes)
    run_all(make_coordinator(job, store, root))
    store.set_state(job.id, JobState.COMPLETE)
    root.mkdir(exist_ok=True)
    RunFolder(root).write_job(job)
    (root / "cache" / BASE).mkdir(parents=True)
    (root / "cache" / BASE / "facts.json").write_text("{}")
    results = store.trials(job.id)
    for result in results:
        if result.state is TrialState.COMPLETE:
            write_model(root, result)
    return results


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template") / "earlier"
    root.mkdir()
    with Store(default_url(root)) as store:
        search_in(root, store)
    return root


@pytest.fixture
def earlier(template: Path, tmp_path: Path) -> Path:
    """A folder of a completed search that the test may change."""
    return Path(shutil.copytree(template, tmp_path / "earlier"))


def results_in(root: Path) -> list[TrialResult]:
    with Store(default_url(root)) as store:
        return store.trials(root.name)


def find_in(root: Path, *budgets: str, base: str = BASE, proposer: dict[str, Any] | None = None, **changes: Any) -> WarmStart:
    job = job_in(root.parent / "now", *budgets, reuse=(str(root),), **changes)
    made = make_proposer(job)
    # A replaced proposer finds out again what every method reaches.
    return find_warm_start(job, None, dataclasses.replace(made, **proposer) if proposer else made, bases={"": base})


@pytest.mark.slow
@pytest.mark.short
def test_a_budget_gets_the_model_that_the_earlier_search_selected_for_it(earlier: Path) -> None:
    found = find_in(earlier, "50%", "70%")
    chosen = best_within_budgets(results_in(earlier), {"50%": found.models["50%"].trial.recipe.budget})
    assert found.models["50%"].trial == chosen["50%"]
    assert set(found.models) == {"50%", "70%"}
    assert (found.models["50%"].job, found.models["50%"].root) == ("earlier", str(earlier))


def test_a_model_for_another_budget_is_reused_only_where_it_fills_this_one(earlier: Path) -> None:
    found = find_in(earlier, "51%", "60%", "45%")
    assert set(found.models) == {"51%"}


@pytest.mark.slow
@pytest.mark.short
def test_earlier_trials_are_the_samplers_history_and_are_not_proposed_again(earlier: Path) -> None:
    found, results = find_in(earlier, "60%"), results_in(earlier)
    own = [result for result in results if result.duplicate_of is None]
    assert [trial.recipe for trial in found.history] == [result.recipe for result in own]
    assert [trial.number for trial in found.history] == list(range(-len(own), 0))
    proposer: Proposer = dataclasses.replace(make_proposer(job_in(earlier, "60%")), earlier=found.history)
    known = {result.recipe.key for result in own}
    proposals = [proposer.propose(number, []) for number in range(8)]
    assert all(proposal.origin == Origin.CONTROL or proposal.recipe.key not in known for proposal in proposals)
    assert proposals == [proposer.propose(number, []) for number in range(8)]
    plain = make_proposer(job_in(earlier, "60%", sampler="tpe"))
    with_history = dataclasses.replace(plain, earlier=found.history)
    assert [plain.propose(number, []) for number in range(8)] != [with_history.propose(number, []) for number in range(8)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "reused"),
    [
        ({"training": TrainingSettings(epochs=8.0)}, False),
        ({"training": TrainingSettings(epochs=4.0, batch_size=8)}, True),
        ({"class_query": True}, False),
        ({"bound": "mean"}, False),
        ({"limits": CostLimits(params=1)}, False),
        ({"limits": CostLimits(latency_ms=5.0)}, False),
    ],
)
def test_trials_with_other_settings_are_no_history_but_may_be_delivered(
    earlier: Path, changes: dict[str, Any], reused: bool
) -> None:
    found = find_in(earlier, "50%", **changes)
    assert bool(found.models) is reused
    assert found.history == ()


def test_longer_training_is_reused_and_a_recipe_outside_the_space_is_not(earlier: Path) -> None:
    assert find_in(earlier, "50%", training=TrainingSettings(epochs=1.0)).models
    chosen = find_in(earlier, "50%").models["50%"].trial.recipe.method
    others = {"methods": {name: None for name in ("sit", "dps") if name != chosen}}
    found = find_in(earlier, "50%", proposer={"space": load_space(json.dumps(others))})
    assert found.models == {} or found.models["50%"].trial.recipe.method in others["methods"]
    assert {trial.recipe.method for trial in found.history} <= set(others["methods"])


def test_a_search_of_another_model_or_other_images_is_skipped_with_the_reason(earlier: Path) -> None:
    found = find_in(earlier, "50%", base="base-4567")
    assert (found.models, found.history) == ({}, ())
    differs = "its model, its data, its seed or the training of its dense model differs, or its checkpoints were deleted"
    assert found.describe() == [f"earlier is not reused: {differs}"]


def test_a_search_that_is_not_complete_offers_history_but_no_model(earlier: Path) -> None:
    with Store(default_url(earlier)) as store:
        store.set_state("earlier", JobState.STOPPED)
    found = find_in(earlier, "50%")
    assert found.models == {}
    assert found.history


def test_a_model_that_is_deleted_or_outside_its_folder_is_not_reused(earlier: Path) -> None:
    for result in results_in(earlier):
        if result.artifact is not None:
            (earlier / result.artifact / "model.safetensors").unlink(missing_ok=True)
    assert find_in(earlier, "50%").models == {}
    with Store(default_url(earlier)) as store:
        template = next(result for result in store.trials("earlier") if result.state is TrialState.COMPLETE)
        outside = template.replace(number=99, artifact="../outside", accuracy=1.0)
        store.add_ended_trial("earlier", outside, target="50%")
        write_model(earlier, outside)
        (earlier / "link").symlink_to(earlier.parent / "outside")
        store.add_ended_trial("earlier", outside.replace(number=100, artifact="link"), target="50%")
    assert find_in(earlier, "50%", "70%").models == {}


def test_a_folder_cannot_choose_the_database(earlier: Path) -> None:
    RunFolder(earlier).write_job(job_in(earlier, "50%").replace(storage="postgresql+psycopg://elsewhere/db"))
    with pytest.raises(RequestError, match="another store than this search's; allowed: the same --storage for both"):
        find_in(earlier, "50%")


@pytest.mark.parametrize(("missing", "message"), [("job.json", "holds no search"), ("autoslim.db", "has no autoslim.db")])
def test_a_folder_without_a_search_is_an_error_and_stays_as_it_is(earlier: Path, missing: str, message: str) -> None:
    (earlier / missing).unlink()
    with pytest.raises(RequestError, match=message):
        find_in(earlier, "50%")
    assert not (earlier / missing).exists()


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Store]:
    """A store with two completed searches, `one` and `two`."""
    with Store(default_url(tmp_path)) as store:
        for name, seed in (("one", 0), ("two", 1)):
            search_in(tmp_path / name, store, seed=seed)
        yield store


def test_searches_in_the_same_store_are_named_by_id_or_as_all(shared: Store, tmp_path: Path) -> None:
    def of(*sources: str) -> WarmStart:
        job = job_in(tmp_path / "now", "50%", reuse=sources)
        return find_warm_start(job, shared, make_proposer(job), bases={"": BASE})

    one, two, both = of("one"), of("two"), of("all")
    assert len(both.history) == len(one.history) + len(two.history) == len(of("one", "all", "two").history)
    best = max((one, two), key=lambda found: found.models["50%"].trial.accuracy or 0.0)
    assert both.models == best.models
    with pytest.raises(RequestError, match="there is no job 'three'"):
        of("three")


@pytest.mark.slow
@pytest.mark.short
def test_a_resumed_search_keeps_the_warm_start_of_its_first_attempt(shared: Store, tmp_path: Path) -> None:
    job = job_in(tmp_path / "now", "60%", reuse=("one",))
    output = RunFolder(tmp_path / "now")
    output.cache.mkdir(parents=True)
    first, _ = apply_warm_start(job, shared, make_proposer(job), output, bases={"": BASE})
    extra = first.earlier[0].replace(number=50, recipe=first.earlier[0].recipe.replace(seed=9))
    shared.add_ended_trial("one", extra, target="50%")
    again, _ = apply_warm_start(job, shared, make_proposer(job), output, bases={"": BASE})
    assert again.earlier == first.earlier != ()


def test_a_warm_start_under_its_former_field_names_is_read(earlier: Path) -> None:
    found = find_in(earlier, "50%", "70%")
    data = found.to_dict()
    former = {"answers": data["models"], "seeds": data["history"], "base": data["base"], "passed_over": data["skipped"]}
    assert WarmStart.from_json(json.dumps(former)) == found


@pytest.mark.slow
@pytest.mark.short
def test_the_dense_model_is_copied_without_its_cost(shared: Store, tmp_path: Path) -> None:
    for name in ("weights", "cost.json"):
        (tmp_path / "two" / "cache" / BASE / name).write_text("x")
    job = job_in(tmp_path / "now", "60%", reuse=("two",))
    output = RunFolder(tmp_path / "now")
    output.cache.mkdir(parents=True)
    apply_warm_start(job, shared, make_proposer(job), output, bases={"": BASE})
    assert sorted(path.name for path in (output.cache / BASE).iterdir()) == ["facts.json", "weights"]


def test_a_model_that_does_not_match_its_record_is_refused(earlier: Path, tmp_path: Path) -> None:
    job = job_in(tmp_path / "now", "50%", reuse=(str(earlier),))
    output = RunFolder(tmp_path / "now")
    output.cache.mkdir(parents=True)
    with Store(default_url(output.root)) as store:
        store.create_job(job)
        store.begin_attempt(job.id)
        with pytest.raises((WeightsError, RequestError)):
            apply_warm_start(job, store, make_proposer(job), output, bases={"": BASE})
        assert store.trials(job.id) == []


@pytest.mark.slow
@pytest.mark.short
def test_a_reused_model_can_be_selected_and_counts_as_no_trial(earlier: Path, tmp_path: Path) -> None:
    reusable_trial = find_in(earlier, "51%").models["51%"].trial
    job = job_in(tmp_path / "now", "51%", "70%")
    budgets = make_proposer(job).budgets
    with Store(default_url(tmp_path)) as store:
        store.create_job(job)
        # The best there can be: which trials the search itself makes is not what is tested.
        reused = reusable_trial.replace(
            accuracy=1.0, number=0, origin=Origin.REUSED, reused_from="trial 3 of earlier", seconds=0.0, epochs=0.0
        )
        store.begin_attempt(job.id)
        store.add_ended_trial(job.id, reused, target="51%")
        coordinator = make_coordinator(job, store, tmp_path)
        coordinator.proposer = dataclasses.replace(coordinator.proposer, budgets={"70%": budgets["70%"]})
        run_all(coordinator)
        results = store.trials(job.id)
    assert sum(result.origin != Origin.REUSED for result in results) == job.trials
    chosen = best_within_budgets(results, budgets)
    assert chosen["51%"] == reused
    # It may be the most accurate within the larger budget, too.
    assert (chosen["70%"].accuracy or 0.0) >= (reused.accuracy or 0.0)
    assert "comes from an earlier search, where it was trial 3 of earlier" in explain(results, reused, budgets["51%"]).sentence


def test_a_submitted_job_reuses_only_jobs_of_its_tenant_and_only_by_id(tmp_path: Path) -> None:
    def submitted(queue: Queue, tenant: str, *, ends: bool = True) -> str:
        spec = json.dumps({"model": "m", "data": "digits", "flops": ["50%"]})
        job_id = queue.submit(spec, tenant=tenant, name=None, priority=5)[0].id
        if ends:
            claim = queue.claim("test", 600)
            assert claim is not None and claim.id == job_id
            for state in (QueueState.PREPARING, QueueState.SEARCHING, QueueState.FINALIZING):
                queue.transition(claim, state)
            queue.transition(claim, QueueState.SUCCEEDED, result="{}")
        return job_id

    with Queue(default_url(tmp_path)) as queue:
        mine, theirs = submitted(queue, "me"), submitted(queue, "them")
        now = submitted(queue, "me", ends=False)
        job = job_in(tmp_path / now, "50%")
        assert reusable(queue, job.replace(reuse=("all", mine))) == (mine,)
        for foreign in (theirs, str(tmp_path), "three"):
            with pytest.raises(RequestError, match="there is no job"):
                reusable(queue, job.replace(reuse=(foreign,)))
        # A job that is purged after the warm start was written is not missed.
        RunFolder(tmp_path / now).root.mkdir()
        RunFolder(tmp_path / now).warm_start.write_text("{}")
        assert reusable(queue, job.replace(reuse=("gone",))) == ("gone",)


# Several dense models.


def two_models(job: SearchJob, **changes: Any) -> SearchJob:
    return job.replace(more_models=(ModelSpec(name="deit_tiny_patch16_224"),), **changes)


def test_trials_of_a_start_that_both_searches_have_answer_a_budget_under_its_label(earlier: Path) -> None:
    """The earlier search had one model, which is the second of this one."""
    job = job_in(earlier.parent / "now", "50%", reuse=(str(earlier),))
    job = job.replace(model=ModelSpec(name="deit_tiny_patch16_224"), more_models=(job.model,))
    plain = make_proposer(job)
    starts = tuple(Start(label=label, shape=plain.shape) for label in job.starts)
    proposer = dataclasses.replace(plain, starts=starts)
    found = find_warm_start(job, None, proposer, bases={"deit_tiny_patch16_224": "base-none", "deit_small_patch16_224": BASE})
    assert found.models["50%"].trial.recipe.model == "deit_small_patch16_224"
    # Their teacher was another one, perhaps: as history they would mislead the sampler.
    assert found.history == ()


def test_a_search_of_one_model_takes_nothing_of_another_models_trials(template: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(template, tmp_path / "earlier"))
    job = RunFolder(root).read_job()
    with Store(default_url(root)) as store:
        results = store.trials(job.id)
    stored = SimpleNamespace(job=two_models(job), base=BASE_FACTS, state=JobState.COMPLETE)
    labels = ("deit_small_patch16_224", "deit_tiny_patch16_224")
    mixed = [result.replace(recipe=result.recipe.replace(model=labels[result.number % 2])) for result in results]
    before: Any = EarlierSearch(stored, root, mixed)
    now = job_in(tmp_path / "now", "60%")
    shared = _shared_starts(now, before, {"": BASE})
    assert shared == {"deit_small_patch16_224": ""}
    own = _with_own_labels(before, shared).results
    assert [result.number for result in own] == [result.number for result in results if result.number % 2 == 0]
    assert {result.recipe.model for result in own} == {""}
