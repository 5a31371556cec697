import threading

import pytest
from helpers.sample_search import DENSE, add, fill, make_job, make_recipe, make_report, make_result, make_results

from autoslim.core.result import Origin, Phase, SharedCost, Target, TrialState
from autoslim.core.urls import default_url, hide_password
from autoslim.errors import JobError, RequestError, UnavailableError
from autoslim.store import JobState, Store, TrackedRun


def test_job_comes_back_as_it_was_created(store):
    job = make_job(trials=7)
    store.create_job(job)
    stored = store.job(job.id)
    assert stored.job == job
    assert (stored.state, stored.attempt, stored.base) == (JobState.CREATED, 0, None)
    assert stored.created_at.endswith("+00:00")


def test_facts_state_choice_and_error_of_a_job_are_kept(store):
    job = store.create_job(make_job()).job
    store.set_base(job.id, DENSE)
    store.set_chosen(job.id, {"50%": 3})
    store.set_state(job.id, JobState.FAILED, error="the cluster went away")
    stored = store.job(job.id)
    assert (stored.base, stored.chosen) == (DENSE, {"50%": 3})
    assert (stored.state, stored.error) == (JobState.FAILED, "the cluster went away")


def test_shared_work_is_booked_once_a_key(store):
    job = store.create_job(make_job()).job
    one, other = (
        SharedCost(key=key, method="vit_slim", settings={"l1": key}, epochs=0.9, seconds=30.0) for key in ("paper", "even")
    )
    store.add_shared_costs(job.id, [one])
    before = store.fingerprint(job.id)
    store.add_shared_costs(job.id, [one, other])
    assert store.job(job.id).shared == (one, other)
    assert store.fingerprint(job.id) != before
    after = store.fingerprint(job.id)
    store.add_shared_costs(job.id, [other, one])
    assert store.fingerprint(job.id) == after


def test_second_job_of_the_same_id_is_refused(store):
    store.create_job(make_job())
    with pytest.raises(RequestError, match=r"'digits-1' in .* already"):
        store.create_job(make_job(trials=3))
    assert store.job("digits-1").job.trials == 24


def test_unknown_job_is_an_error_that_names_those_there_are(store):
    store.create_job(make_job())
    with pytest.raises(RequestError, match=r"no job 'digts' in .*; there are: digits-1"):
        store.job("digts")
    with pytest.raises(RequestError, match="no job 'digts'"):
        store.set_state("digts", JobState.RUNNING)


def test_same_id_in_two_stores_is_told_apart(tmp_path, store):
    (tmp_path / "other").mkdir()
    with Store(default_url(tmp_path / "other")) as other:
        assert store.create_job(make_job()).uid != other.create_job(make_job()).uid


def test_trials_come_back_in_number_order_with_running_ones(store):
    job, results = make_job(), make_results()
    fill(store, job, results[::-1])
    assert store.trials(job.id) == results
    last = store.stored_trials(job.id)[-1]
    assert last.result.state is TrialState.RUNNING
    assert last.ended_at is None


def test_finishing_twice_with_the_same_result_changes_nothing(store):
    fill(store, make_job(), [make_result(0)])
    before = store.stored_trials("digits-1")
    store.finish_trial("digits-1", make_result(0))
    assert store.stored_trials("digits-1") == before


def test_finishing_twice_with_another_result_is_an_error(store):
    fill(store, make_job(), [make_result(0)])
    with pytest.raises(JobError, match="trial 0 of job 'digits-1' is complete already"):
        store.finish_trial("digits-1", make_result(0, accuracy=0.99))
    assert store.trials("digits-1") == [make_result(0)]


def test_result_of_another_recipe_is_an_error(store):
    fill(store, make_job(), [make_result(0, TrialState.RUNNING)])
    with pytest.raises(JobError, match="has recipe"):
        store.finish_trial("digits-1", make_result(0).replace(recipe=make_recipe(5)))


def test_trial_is_added_once(store):
    fill(store, make_job(), [make_result(0)])
    with pytest.raises(JobError, match="has a trial 0 already"):
        store.add_trial("digits-1", 0, make_recipe(0), origin=Origin.SAMPLER, target=Target.FREE)


def test_trials_a_driver_left_running_are_offered_to_the_next(store):
    job = make_job()
    fill(store, job)
    assert store.unfinished(job.id) == []
    assert store.begin_attempt(job.id) == 2
    (left,) = store.unfinished(job.id)
    assert (left.result.number, left.result.recipe, left.target) == (11, make_recipe(11), "3G")
    store.restart_trial(job.id, 11)
    assert store.unfinished(job.id) == []
    store.finish_trial(job.id, make_result(11))
    with pytest.raises(JobError, match="cannot be restarted: it is complete"):
        store.restart_trial(job.id, 11)


def test_epochs_reported_again_after_a_resume_count_once(store):
    job = make_job()
    fill(store, job, [make_result(0, TrialState.RUNNING)])
    store.begin_attempt(job.id)
    store.restart_trial(job.id, 0)
    store.report(job.id, 0, make_report(2.0000000001, loss=0.5))
    store.report(job.id, 0, make_report(3))
    store.report(job.id, 0, make_report(3, phase=Phase.TRAIN))
    reports = store.epochs(job.id, 0)
    assert [round(r.epoch, 3) for r in reports] == [1, 2, 3, 3]
    assert reports[1].metrics["loss"] == 0.5
    assert [e.position for e in store.stored_epochs(job.id, 0, since=3)] == [2, 4]
    assert store.revisions(job.id) == {0: 5}


def test_metrics_that_are_not_numbers_survive(store):
    fill(store, make_job(), [make_result(0, TrialState.RUNNING)])
    store.report("digits-1", 0, make_report(9, loss=float("nan")))
    assert str(store.epochs("digits-1", 0)[-1].metrics["loss"]) == "nan"


def test_report_for_a_trial_there_is_not_is_an_error(store):
    store.create_job(make_job())
    with pytest.raises(JobError, match="no trial 5"):
        store.report("digits-1", 5, make_report(1))


def test_what_was_logged_is_kept_for_each_destination(store):
    store.create_job(make_job())
    store.set_tracked("digits-1", "here", TrackedRun(entity="job", run_id="a", logged={"params": True}))
    store.set_tracked("digits-1", "here", TrackedRun(entity="job", run_id="b"))
    store.set_tracked("digits-1", "there", TrackedRun(entity="3", run_id="c"))
    assert store.tracked("digits-1", "here") == {"job": TrackedRun(entity="job", run_id="b")}
    store.forget_tracked("digits-1", "here")
    assert store.tracked("digits-1", "here") == {}
    assert list(store.tracked("digits-1", "there")) == ["3"]


def test_threads_share_a_store(store):
    job = make_job()
    fill(store, job, [])
    failures = []

    def work(first):
        try:
            for number in range(first, 24, 6):
                add(store, job.id, make_result(number), epochs=2)
                store.trials(job.id)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.trials(job.id) == [make_result(number) for number in range(24)]


def test_second_store_on_the_same_file_sees_what_the_first_wrote(tmp_path, store):
    fill(store, make_job())
    with Store(default_url(tmp_path)) as other:
        assert other.trials("digits-1") == make_results()


def test_sqlite_enforces_foreign_keys_and_writes_ahead(tmp_path, store):
    store.create_job(make_job())
    with store._database.writing() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() >= 10_000


def test_file_that_is_not_a_database_cannot_be_reached(tmp_path):
    (tmp_path / "autoslim.db").write_text("this is no database, and long enough for SQLite to notice it at once." * 20)
    with pytest.raises(UnavailableError, match=r"autoslim.db cannot be reached: file is not a database"):
        Store(default_url(tmp_path))


def test_database_that_cannot_be_reached_is_named(tmp_path):
    with pytest.raises(
        UnavailableError, match=r"the database sqlite:///.*/nowhere/autoslim.db cannot be reached: unable to open"
    ):
        Store(default_url(tmp_path / "nowhere"))


@pytest.mark.parametrize("url", ["postgresql+nodriver://me:secret@db/x", "not a url", "sqlite://", "sqlite:///:memory:"])
def test_url_that_cannot_be_used_is_refused_without_its_password(url):
    with pytest.raises(RequestError, match="storage ") as caught:
        Store(url)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:se@cr/et@db:5432/x", "postgresql://me:***@db:5432/x"),
        ("http://:token@host", "http://:***@host"),
        ("https://host:5000/path", "https://host:5000/path"),
        ("s3://b/k?aws_secret_access_key=abc&x=1", "s3://b/k?aws_secret_access_key=***&x=1"),
        ("sqlite:////out/autoslim.db", "sqlite:////out/autoslim.db"),
        ("cannot reach http://a:b@c now", "cannot reach http://a:***@c now"),
    ],
)
def test_passwords_are_hidden(text, shown):
    assert hide_password(text) == shown


def test_a_measured_latency_is_added_to_a_complete_trial_and_seen_by_mirrors(store):
    job = make_job()
    fill(store, job)
    before, mark = store.trials(job.id), store.fingerprint(job.id)
    store.set_latency(job.id, 2, 4.5)
    after = store.trials(job.id)
    assert after[2] == before[2].replace(latency_measured_ms=4.5)
    assert after[:2] + after[3:] == before[:2] + before[3:]
    assert store.fingerprint(job.id) != mark
    with pytest.raises(JobError, match="has no model to measure: it is failed"):
        store.set_latency(job.id, 8, 4.5)
