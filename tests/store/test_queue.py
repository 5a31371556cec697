"""The queue on SQLite and PostgreSQL: submitting, looking, cancelling, and every transition."""

from __future__ import annotations

import datetime
import json
import threading

import pytest
from helpers.sample_search import DENSE, add, make_job, make_recipe, make_report, make_result

from autoslim.core.result import Origin, TrialState
from autoslim.errors import IdempotencyError, JobError, LeaseLostError, NotFoundError, QuotaError, RequestError
from autoslim.store import Failure, FailureClass, JobState, Queue, QueueState, Quota, Store, clock, guard, overview, schema
from autoslim.store.leases import LOSSES_ALLOWED
from autoslim.store.queue import SILENT, SILENT_SECONDS
from autoslim.store.queued import RUNNING, TRANSITIONS

S = QueueState
SPEC = json.dumps({"model": "deit_tiny_patch16_224", "flops": ["50%"]})
BROKEN = Failure(failure_class=FailureClass.BUG, message="it broke", next="autoslim logs ID")
TO = {
    S.FAILED: {"failure": BROKEN},
    S.SUCCEEDED: {"result": '{"models": []}'},
    S.PAUSED: {"reason": "the disk is full"},
}


@pytest.fixture
def queue(database_url):
    with Queue(database_url) as queue:
        yield queue


def submit(queue, **changes):
    return queue.submit(SPEC, **{"tenant": "me", **changes})[0]


def bring_to(queue, state):
    """A job in this state, and the last claim on it."""
    job = submit(queue)
    if state is S.QUEUED:
        return job, None
    if state is S.CANCELLED:
        return queue.request_cancel(job.id), None
    claim = queue.claim("supervisor", 60)
    assert claim.id == job.id
    if state is S.STARTING:
        return queue.get(job.id), claim
    claim = queue.adopt(job.id, claim.attempt, "driver", 60)
    for step in (S.SEARCHING, S.FINALIZING):
        if queue.get(job.id).state is not state and state not in (S.PAUSED, S.FAILED):
            queue.transition(claim, step)
    if queue.get(job.id).state is not state:
        queue.transition(claim, state, **TO.get(state, {}))
    return queue.get(job.id), claim


def states(queue, job_id):
    return [event.data["state"] for event in queue.events(job_id) if event.type == "state"]


# Submitting and looking


def test_job_comes_back_as_it_was_submitted(queue):
    job, created = queue.submit(SPEC, tenant="me", name="flowers", priority=7)
    assert created
    assert queue.get(job.id) == job
    assert (job.spec, job.name, job.priority, job.state, job.attempt) == (SPEC, "flowers", 7, S.QUEUED, 0)
    assert states(queue, job.id) == ["QUEUED"]


def test_same_key_and_request_give_the_same_job_however_it_is_spelt(queue):
    first = submit(queue, idempotency_key="k")
    again, created = queue.submit(json.dumps(json.loads(SPEC), indent=3), tenant="me", idempotency_key="k")
    assert (again.id, created) == (first.id, False)
    assert submit(queue, tenant="you", idempotency_key="k").id != first.id
    assert submit(queue).id != submit(queue).id


def test_same_key_with_another_request_is_refused(queue):
    first = submit(queue, idempotency_key="k")
    for changed in ({"priority": 9}, {"name": "other"}):
        with pytest.raises(IdempotencyError, match=f"'k' was used for another request, job {first.id}"):
            submit(queue, idempotency_key="k", **changed)
    with pytest.raises(IdempotencyError):
        queue.submit('{"model": "other"}', tenant="me", idempotency_key="k")


@pytest.mark.faults
def test_fifty_who_submit_with_one_key_at_once_get_one_job(queue):
    together, ids, created, failures = threading.Barrier(50), [], [], []

    def work():
        try:
            together.wait()
            job, new = queue.submit(SPEC, tenant="me", idempotency_key="k")
            ids.append(job.id)
            created.append(new)
        except Exception as error:
            failures.append(error)

    run_all(work for _ in range(50))
    assert failures == []
    assert len(set(ids)) == 1
    assert created.count(True) == 1
    assert len(queue.list()) == 1
    assert states(queue, ids[0]) == ["QUEUED"]


def test_another_tenants_job_is_not_there(queue):
    job = submit(queue)
    for look in (queue.get, queue.request_cancel, queue.purge):
        with pytest.raises(NotFoundError, match=f"there is no job '{job.id}'"):
            look(job.id, "you")
    assert queue.get(job.id, "me") == job
    assert queue.list("you") == []


def test_jobs_are_listed_newest_first_a_page_at_a_time(queue):
    jobs = [submit(queue, name="even" if number % 2 == 0 else "odd", tenant="me" if number < 5 else "you") for number in range(7)]
    ids = [job.id for job in jobs][::-1]
    first = queue.list(limit=4)
    assert [job.id for job in first] == ids[:4]
    assert [job.id for job in queue.list(limit=4, before=first[-1].id)] == ids[4:]
    assert [job.id for job in queue.list("me", name="odd")] == [jobs[3].id, jobs[1].id]
    queue.request_cancel(jobs[2].id)
    assert [job.id for job in queue.list(states=[S.CANCELLED])] == [jobs[2].id]
    assert queue.counts() == {state: 0 for state in S} | {S.QUEUED: 6, S.CANCELLED: 1}


def test_position_counts_the_jobs_that_are_begun_before(queue):
    low, high, urgent = submit(queue, priority=1), submit(queue), submit(queue, priority=9)
    assert [queue.position(job.id) for job in (urgent, high, low)] == [0, 1, 2]
    assert queue.claim("s", 60).id == urgent.id
    assert [queue.position(job.id) for job in (urgent, high, low)] == [None, 0, 1]
    assert [queue.claim("s", 60).id for _ in range(2)] == [high.id, low.id]
    assert queue.claim("s", 60) is None


def test_other_processes_see_new_jobs_at_once_and_other_changes_within_a_second(queue, database_url, monkeypatch):
    first, second = submit(queue), submit(queue)
    with Queue(database_url) as other:
        assert other.positions([first.id, second.id]) == {first.id: 0, second.id: 1}
        third = submit(queue)
        assert other.position(third.id) == 2
        queue.claim("s", 60)
        monkeypatch.setattr(overview.time, "monotonic", lambda now=overview.time.monotonic: now() + 1.1)
        assert other.positions([first.id, second.id, third.id]) == {second.id: 0, third.id: 1}


def test_claims_go_round_by_tenant_and_by_priority_within_one(queue):
    many = [submit(queue, tenant="many", priority=9) for _ in range(5)]
    first, urgent = submit(queue, tenant="few", priority=0), submit(queue, tenant="few", priority=1)
    late = submit(queue, tenant="late")
    expected = [many[0], urgent, late, many[1], first, *many[2:]]
    assert [queue.position(job.id) for job in expected] == list(range(8))
    claims = [queue.claim("s", 60) for _ in range(8)]
    assert [claim.id for claim in claims] == [job.id for job in expected]


def test_the_tenant_with_the_fewest_running_jobs_is_next_then_the_one_that_was_served_longest_ago(queue):
    def take():
        return queue.get(queue.claim("s", 60).id)

    def end(job):
        queue.request_cancel(job.id)
        queue.expire_lease(job.id, job.attempt)
        queue.requeue_expired()

    for tenant in "aaab":
        submit(queue, tenant=tenant)
    running = [take() for _ in range(3)]
    assert [job.tenant for job in running] == ["a", "b", "a"]
    end(running[1])
    submit(queue, tenant="b")
    # b has none running.
    assert take().tenant == "b"
    for job in queue.list(states=RUNNING):
        end(job)
    submit(queue, tenant="b")
    # Nobody has any: b was served last, and gains nothing by removing its ended jobs.
    for job in queue.list("b", states=[S.CANCELLED]):
        queue.purge(job.id)
    assert [take().tenant, take().tenant] == ["a", "b"]


def test_a_tenants_jobs_are_kept_within_its_quota_and_no_other_tenants(queue):
    quota = Quota(jobs=2, work=1e6)
    one, _ = queue.submit(SPEC, tenant="me", work=6e5, quota=quota)
    with pytest.raises(QuotaError, match=r"up to 5e\+05 .* jobs of this tenant 6e\+05; allowed: at most 1e\+06 together"):
        queue.submit(SPEC, tenant="me", work=5e5, quota=quota)
    queue.submit(SPEC, tenant="you", work=1e6, quota=quota)
    queue.submit(SPEC, tenant="me", work=4e5, quota=quota)
    with pytest.raises(QuotaError, match="2 jobs of this tenant are queued or running; allowed: at most 2"):
        queue.submit(SPEC, tenant="me", quota=quota)
    queue.request_cancel(one.id)
    assert queue.submit(SPEC, tenant="me", work=6e5, quota=quota)[1]


def test_a_quota_holds_for_submits_at_the_same_time(database_url, queue):
    together, taken, refused = threading.Barrier(8), [], []

    def work():
        with Queue(database_url) as own:
            together.wait()
            for _ in range(5):
                try:
                    taken.append(own.submit(SPEC, tenant="me", work=1.0, quota=Quota(jobs=100, work=7.0)))
                except QuotaError as error:
                    refused.append(error)

    run_all(work for _ in range(8))
    assert (len(taken), len(refused), len(queue.list("me"))) == (7, 33, 7)


def test_a_job_without_a_plan_waits_for_it_and_is_started_without_it_after_a_while(queue):
    waiting, _ = queue.submit(SPEC, tenant="me", unplanned_seconds=60)
    assert waiting.reason == "its plan is being made"
    assert queue.claim("s", 60) is None
    queue.set_planned(waiting.id, 5.0, Quota(jobs=1, work=5.0))
    assert queue.get(waiting.id).reason is None
    assert queue.claim("s", 60).id == waiting.id
    late, _ = queue.submit(SPEC, tenant="you", unplanned_seconds=60)
    skip_waits(queue)
    assert queue.claim("s", 60).id == late.id
    queue.set_planned(late.id, None)
    assert queue.get(late.id).state is S.STARTING


def test_jobs_without_a_plan_are_held_for_as_long_as_somebody_makes_plans(queue):
    waiting, _ = queue.submit(SPEC, tenant="me", unplanned_seconds=60)
    planned, other = submit(queue), submit(queue, tenant="you")
    queue.claim("s", 60)
    skip_waits(queue)
    assert [job.id for job in queue.hold_unplanned(60)] == [waiting.id]
    assert queue.claim("s", 60).id in (planned.id, other.id)
    assert queue.claim("s", 60) is None
    skip_waits(queue)
    assert queue.claim("s", 60).id == waiting.id
    assert queue.hold_unplanned(60) == []


def test_a_plan_that_comes_later_counts_towards_the_quota(queue):
    quota = Quota(jobs=5, work=10.0)
    queue.submit(SPEC, tenant="me", work=8.0, quota=quota)
    late, _ = queue.submit(SPEC, tenant="me", quota=quota, unplanned_seconds=60)
    with pytest.raises(QuotaError):
        queue.set_planned(late.id, 3.0, quota)
    queue.set_planned(late.id, 2.0, quota)
    with pytest.raises(QuotaError):
        queue.submit(SPEC, tenant="me", work=1.0, quota=quota)


def test_a_queued_job_is_refused_by_its_plan_and_one_that_was_claimed_is_its_drivers(queue):
    job, _ = queue.submit(SPEC, tenant="me", unplanned_seconds=60)
    assert queue.refuse(job.id, BROKEN) is True
    after = queue.get(job.id)
    assert (after.state, after.failure, after.reason) == (S.FAILED, BROKEN, None)
    assert states(queue, job.id) == ["QUEUED", "FAILED"]
    for state in (S.STARTING, S.CANCELLED, S.FAILED):
        job, _ = bring_to(queue, state)
        before = queue.get(job.id)
        assert queue.refuse(job.id, BROKEN) is False
        assert queue.get(job.id) == before


def test_a_key_that_has_made_a_job_is_found(queue):
    assert not queue.was_submitted("me", None)
    submit(queue, idempotency_key="k")
    assert queue.was_submitted("me", "k")
    assert not queue.was_submitted("you", "k")


def test_age_of_the_oldest_queued_job_is_told(queue):
    assert queue.oldest_queued_seconds() is None
    submit(queue)
    assert 0 <= queue.oldest_queued_seconds() < 30


# Transitions


@pytest.mark.parametrize("start", RUNNING)
def test_a_driver_takes_a_job_where_the_table_says_and_nowhere_else(queue, start):
    for to in S:
        job, claim = bring_to(queue, start)
        if to in TRANSITIONS[start]:
            queue.transition(claim, to, **TO.get(to, {}))
            after = queue.get(job.id)
            assert after.state is to
            assert states(queue, job.id)[-1] == to
            assert (after.ended_at is not None) == to.ended
            if not to.running:
                assert (after.owner, after.lease_until) == (None, None)
                with pytest.raises(LeaseLostError):
                    queue.renew(claim, 60)
        else:
            with pytest.raises(JobError, match=f"is {start} and cannot become {to}"):
                queue.transition(claim, to, **TO.get(to, {}))
            assert queue.get(job.id) == job
        queue.request_cancel(job.id)
        queue.expire_lease(job.id, 1)
        queue.requeue_expired()
        assert queue.get(job.id).state.ended


def test_the_happy_path_leaves_its_steps_in_the_events(queue):
    job, _ = bring_to(queue, S.SUCCEEDED)
    assert states(queue, job.id) == ["QUEUED", "STARTING", "PREPARING", "SEARCHING", "FINALIZING", "SUCCEEDED"]
    assert (job.result, job.failure, job.attempt) == ('{"models": []}', None, 1)
    assert job.created_at <= job.started_at <= job.ended_at


def test_failure_is_kept_with_its_class_its_sentence_and_its_next_command(queue):
    job, _ = bring_to(queue, S.FAILED)
    assert job.failure == BROKEN
    assert queue.events(job.id)[-1].data["failure"] == BROKEN.to_dict()


@pytest.mark.faults
def test_cancelling_works_in_every_state_and_twice(queue):
    for state in S:
        job, claim = bring_to(queue, state)
        once = queue.request_cancel(job.id)
        assert queue.request_cancel(job.id) == once
        if state.running:
            assert once.state is state
            assert queue.renew(claim, 60) is True
            queue.transition(claim, S.CANCELLED)
            assert queue.get(job.id).state is S.CANCELLED
        else:
            assert once.state is (state if state.ended else S.CANCELLED)
        assert states(queue, job.id).count("CANCELLED") == (0 if state in (S.SUCCEEDED, S.FAILED) else 1)
        assert queue.claim("s", 60) is None


def test_only_ended_jobs_are_purged_and_with_all_their_rows(queue):
    from helpers.sample_search import fill, make_job

    from autoslim.store import Store

    job, claim = bring_to(queue, S.SEARCHING)
    with pytest.raises(RequestError, match=f"job {job.id} is SEARCHING; only an ended job"):
        queue.purge(job.id)
    store = Store.__new__(Store)
    store._database, store.url = queue._database, queue.url
    fill(store, make_job(id=job.id))
    queue.transition(claim, S.CANCELLED)
    queue.purge(job.id)
    assert queue.events(job.id) == []
    assert store.jobs() == []
    with pytest.raises(NotFoundError):
        queue.get(job.id)


# Leases


def test_a_job_whose_lease_ran_out_is_claimed_again_and_the_first_claimer_is_refused(queue):
    job = submit(queue)
    first = queue.claim("a", -1)
    second = queue.claim("b", 60)
    assert (second.id, second.attempt) == (job.id, 2)
    assert second.fence > first.fence
    for use in (
        lambda: queue.renew(first, 60),
        lambda: queue.transition(first, S.FAILED, failure=BROKEN),
        lambda: queue.record(first, "message", {}),
    ):
        with pytest.raises(LeaseLostError, match=r"no longer held by a \(attempt 1\)"):
            use()
    assert queue.get(job.id).state is S.STARTING
    assert states(queue, job.id) == ["QUEUED", "STARTING", "QUEUED", "STARTING"]


def test_the_first_claimer_writes_nothing_of_its_search_either(queue, database_url):
    job = submit(queue)
    claim, lost = queue.claim("a", -1), []
    with Store(database_url, guard=guard(claim, lost.append)) as store, Store(database_url) as reader:
        # A lease that ran out is no loss while nobody else has the job.
        store.create_job(make_job(id=job.id))
        add(store, job.id, make_result(0, TrialState.RUNNING), epochs=1)
        assert not lost
        queue.claim("b", 60)
        before = reader.fingerprint(job.id)
        writes = (
            lambda: store.report(job.id, 0, make_report(2)),
            lambda: store.finish_trial(job.id, make_result(0)),
            lambda: store.add_trial(job.id, 1, make_recipe(1), origin=Origin.CONTROL, target="50%"),
            lambda: store.set_base(job.id, DENSE),
            lambda: store.set_state(job.id, JobState.FAILED, error="woken too late"),
            lambda: store.begin_attempt(job.id),
        )
        for write in writes:
            with pytest.raises(LeaseLostError, match=r"no longer held by a \(attempt 1\)"):
                write()
        assert len(lost) == len(writes)
        assert (reader.fingerprint(job.id), len(reader.trials(job.id))) == (before, 1)


def test_adopting_hands_the_job_to_its_driver_once(queue):
    job = submit(queue)
    claim = queue.claim("supervisor", 60)
    driver = queue.adopt(job.id, claim.attempt, "driver", 60)
    assert queue.get(job.id).state is S.PREPARING
    assert queue.renew(driver, 60) is False
    for attempt in (1, 2):
        with pytest.raises(LeaseLostError, match="another driver may have it"):
            queue.adopt(job.id, attempt, "another", 60)
    with pytest.raises(LeaseLostError):
        queue.renew(claim, 60)


def test_a_job_whose_driver_waits_is_paused_without_a_loss_and_adopted_when_the_driver_runs(queue):
    job = submit(queue)
    claim = queue.claim("supervisor", 60)
    queue.pause(job.id, 7, "of another attempt", 60)
    assert queue.get(job.id).state is S.STARTING
    queue.pause(job.id, 1, "waiting for a node", 60)
    with pytest.raises(LeaseLostError):
        queue.renew(claim, 60)
    found = queue.get(job.id)
    assert (found.state, found.reason, found.losses, found.pauses, found.owner) == (S.PAUSED, "waiting for a node", 0, 0, None)
    assert wait_of(queue, job.id) == pytest.approx(60, abs=0.01)
    queue.pause(job.id, 1, "waiting for a node", 90)
    assert states(queue, job.id) == ["QUEUED", "STARTING", "PAUSED"], "only the first time is an event"
    driver = queue.adopt(job.id, 1, "driver", 60)
    assert queue.renew(driver, 60) is False
    queue.pause(job.id, 1, "waiting for a node", 60)
    found = queue.get(job.id)
    assert (found.state, found.reason, found.not_before) == (S.PREPARING, None, None)


def test_a_job_that_was_to_be_cancelled_is_cancelled_and_not_paused(queue):
    job = submit(queue)
    queue.claim("supervisor", 60)
    queue.request_cancel(job.id)
    queue.pause(job.id, 1, "waiting for a node", 60)
    assert queue.get(job.id).state is S.CANCELLED


def test_a_job_says_why_it_stands_still_and_stops_saying_so(queue):
    job = submit(queue)
    claim = queue.claim("a", 60)
    for _ in range(3):
        queue.set_reason(claim, "the disk is full")
    assert queue.get(job.id).reason == "the disk is full"
    queue.set_reason_of_running("the cluster is away")
    assert queue.get(job.id).reason == "the disk is full", "its own reason is not replaced"
    queue.set_reason(claim, None)
    assert queue.get(job.id).reason is None
    queue.set_reason_of_running("the cluster is away")
    assert queue.get(job.id).reason == "the cluster is away"
    queue.set_reason_of_running(None, instead_of="the cluster is away")
    assert queue.get(job.id).reason is None
    assert [event.data["text"] for event in queue.events(job.id) if event.type == "message"] == ["the disk is full"]
    queue.transition(claim, S.CANCELLED)
    with pytest.raises(LeaseLostError):
        queue.set_reason(claim, "too late")


def test_a_job_whose_lease_has_ended_says_so_until_it_is_taken_back(queue):
    job = submit(queue)
    queue.claim("a", -1)
    assert queue.get(job.id).reason == queue.list()[0].reason == SILENT


def pass_in_silence(queue, seconds):
    """As if the lease had last been renewed so long ago."""
    with queue._database.writing() as connection:
        then = clock.text(clock.steady(connection), offset_seconds=-seconds)
        connection.execute(schema.queue.update().values(renewed_at=then))


def test_a_job_whose_lease_is_not_renewed_says_so_long_before_the_lease_ends(queue):
    job = submit(queue)
    claim = queue.claim("a", 3600)
    pass_in_silence(queue, SILENT_SECONDS / 2)
    assert queue.get(job.id).reason is None
    pass_in_silence(queue, SILENT_SECONDS + 1)
    assert queue.get(job.id).reason == queue.list()[0].reason == SILENT
    queue.renew(claim, 3600)
    assert queue.get(job.id).reason is None
    pass_in_silence(queue, SILENT_SECONDS + 1)
    queue.set_reason(claim, "the disk is full")
    assert queue.get(job.id).reason == "the disk is full", "what is known is told"
    queue.transition(claim, S.PAUSED)
    assert queue.get(job.id).reason is None, "nobody has to renew a pause"


def test_renewing_keeps_the_job_from_others(queue):
    submit(queue)
    claim = queue.claim("a", 0.0)
    queue.renew(claim, 60)
    assert queue.claim("b", 60) is None


def test_a_driver_that_is_known_to_be_dead_is_not_waited_for(queue):
    job = submit(queue)
    queue.claim("a", 600)
    queue.expire_lease(job.id, 7)
    assert queue.claim("b", 60) is None
    queue.expire_lease(job.id, 1)
    assert queue.claim("b", 60).attempt == 2


def test_a_job_that_loses_its_drivers_is_given_up_unless_trials_end_in_between(queue):
    job = submit(queue)
    waits = []
    for attempt in range(1, LOSSES_ALLOWED + 1):
        assert queue.claim("a", 60).attempt == attempt
        queue.expire_lease(job.id, attempt)
        queue.requeue_expired()
        waits.append(wait_of(queue, job.id))
        skip_waits(queue)
    assert waits == pytest.approx([0, 1, 2, 4, 0], abs=0.01)
    assert queue.claim("a", 60) is None
    after = queue.get(job.id)
    assert (after.state, after.failure.failure_class, after.losses) == (S.FAILED, FailureClass.INFRA, LOSSES_ALLOWED)
    assert f"lost {LOSSES_ALLOWED} times in a row" in after.failure.message
    assert after.failure.next == f"autoslim logs {job.id}"

    other = submit(queue)
    for _ in range(LOSSES_ALLOWED + 3):
        claim = queue.claim("a", 60)
        queue.record(claim, "trial_ended", {"number": 1}, progress=True)
        queue.expire_lease(other.id, claim.attempt)
        queue.requeue_expired()
        skip_waits(queue)
    assert queue.claim("a", 60) is not None


def test_a_lost_job_that_was_to_be_cancelled_is_cancelled(queue):
    job = submit(queue)
    queue.claim("a", 60)
    queue.request_cancel(job.id)
    queue.expire_lease(job.id, 1)
    assert queue.claim("b", 60) is None
    assert queue.get(job.id).state is S.CANCELLED


def test_a_paused_job_waits_longer_each_time_and_comes_back(queue):
    job = submit(queue)
    waits = []
    for _ in range(8):
        claim = queue.claim("a", 60)
        queue.transition(claim, S.PAUSED, reason="the disk is full")
        assert queue.claim("a", 60) is None
        paused = queue.get(job.id)
        assert (paused.state, paused.reason) == (S.PAUSED, "the disk is full")
        waits.append(wait_of(queue, job.id))
        skip_waits(queue)
    assert waits == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60], abs=0.01)


@pytest.mark.parametrize("claimers", [8])
def test_eight_claimers_drain_the_queue_with_every_job_begun_once(database_url, queue, claimers):
    ids = [submit(queue).id for _ in range(60)]
    together, taken, failures = threading.Barrier(claimers), [], []

    def work():
        try:
            with Queue(database_url) as own:
                together.wait()
                while (claim := own.claim("c", 60)) is not None:
                    taken.append(claim.id)
                    driver = own.adopt(claim.id, claim.attempt, "d", 60)
                    own.record(driver, "message", {"text": "here"})
                    for state in (S.SEARCHING, S.FINALIZING, S.SUCCEEDED):
                        own.transition(driver, state, **TO.get(state, {}))
        except Exception as error:
            failures.append(error)

    run_all(work for _ in range(claimers))
    assert failures == []
    assert sorted(taken) == ids
    assert queue.counts()[S.SUCCEEDED] == 60
    assert {queue.get(job_id).attempt for job_id in ids} == {1}


# Events


def test_events_are_read_on_from_the_last_one_seen(queue):
    one, other = submit(queue), submit(queue)
    queue.append_event(one.id, "message", {"text": "hello"})
    everything = queue.events()
    assert [event.seq for event in everything] == sorted(event.seq for event in everything)
    assert [event.data for event in queue.events(one.id, after=everything[0].seq)] == [{"text": "hello"}]
    assert len(queue.events(limit=2)) == 2
    assert {event.job_id for event in everything} == {one.id, other.id}
    with pytest.raises(NotFoundError, match="there is no job 'nowhere'"):
        queue.append_event("nowhere", "message", {})


def test_numbers_of_purged_events_are_not_given_again(queue):
    job, _ = bring_to(queue, S.CANCELLED)
    last = queue.events(job.id)[-1].seq
    queue.purge(job.id)
    assert queue.events(submit(queue).id)[0].seq > last


def test_a_reader_of_all_events_misses_none_while_many_write(database_url, queue):
    jobs = [submit(queue).id for _ in range(4)]
    seen, done, failures = [], threading.Event(), []

    def write(job_id):
        try:
            for number in range(25):
                queue.append_event(job_id, "message", {"number": number})
        except Exception as error:
            failures.append(error)

    def read():
        after = 0
        while True:
            finished = done.is_set()
            for event in queue.events(after=after):
                seen.append(event.seq)
                after = event.seq
            if finished:
                return

    reader = threading.Thread(target=read)
    reader.start()
    run_all((lambda job_id=job_id: write(job_id)) for job_id in jobs)
    done.set()
    reader.join()
    assert failures == []
    assert len(seen) == 4 + 4 * 25


def run_all(works):
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def skip_waits(queue):
    with queue._database.writing() as connection:
        table = schema.queue
        connection.execute(table.update().where(table.c.not_before.is_not(None)).values(not_before=table.c.created_at))


def wait_of(queue, job_id):
    """Seconds for which the job is not to be begun, from its last change on."""
    job = queue.get(job_id)
    if job.not_before is None:
        return 0.0
    start, end = (datetime.datetime.fromisoformat(text) for text in (job.updated_at, job.not_before))
    return (end - start).total_seconds()
