"""Jobs over HTTP: what is taken, what is told, page by page."""

from __future__ import annotations

import concurrent.futures
import re
from collections.abc import Iterator

import httpx
import pytest
from helpers.running_service import SPEC, RunningService, patient, running, settings_in

from autoslim.store import Failure, FailureClass, QueueState


@pytest.mark.slow
@pytest.mark.short
def test_a_job_is_taken_and_found_where_the_answer_says(client: httpx.Client) -> None:
    answer = client.post("/v1/jobs", json=SPEC | {"name": "tiny", "priority": 7})
    assert answer.status_code == 201, answer.text
    job = answer.json()
    assert re.fullmatch(r"[0-9A-Z]{26}", job["id"])
    assert (job["state"], job["name"], job["priority"], job["attempt"]) == ("QUEUED", "tiny", 7, 0)
    assert job["spec"] | SPEC == job["spec"]
    assert job["progress"] == {"trials_ended": 0, "trials_total": 24, "best": {}}
    assert answer.headers["location"] == job["links"]["self"] == f"/v1/jobs/{job['id']}"
    found = client.get(answer.headers["location"])
    assert found.json() == job
    assert found.headers["etag"] == answer.headers["etag"]
    assert found.headers["retry-after"] == "5"


@pytest.mark.slow
@pytest.mark.short
def test_a_job_that_has_not_changed_is_not_sent_again(client: httpx.Client) -> None:
    job = client.post("/v1/jobs", json=SPEC).json()
    etag = client.get(job["links"]["self"]).headers["etag"]
    same = client.get(job["links"]["self"], headers={"If-None-Match": f'"other", W/{etag}'})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
    client.post(job["links"]["cancel"])
    changed = client.get(job["links"]["self"], headers={"If-None-Match": etag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != etag


def test_the_same_key_gives_the_same_job(client: httpx.Client) -> None:
    headers = {"Idempotency-Key": "one"}
    first = client.post("/v1/jobs", json=SPEC, headers=headers)
    again = client.post("/v1/jobs", json=dict(reversed(SPEC.items())), headers=headers)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["id"] == first.json()["id"]
    other = client.post("/v1/jobs", json=SPEC | {"trials": 3}, headers=headers)
    assert other.status_code == 422
    assert other.json()["code"] == "idempotency-key-reused"


@pytest.mark.faults
def test_the_same_key_at_the_same_time_makes_one_job(client: httpx.Client) -> None:
    def submit(_: int) -> httpx.Response:
        return client.post("/v1/jobs", json=SPEC, headers={"Idempotency-Key": "many"})

    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(submit, range(30)))
    assert {answer.status_code for answer in answers} <= {200, 201}
    assert sum(answer.status_code == 201 for answer in answers) == 1
    assert len({answer.json()["id"] for answer in answers}) == 1


def test_another_tenant_may_use_the_same_key(service: RunningService, client: httpx.Client) -> None:
    headers = {"Idempotency-Key": "shared"}
    mine = client.post("/v1/jobs", json=SPEC, headers=headers)
    with service.client() as other:
        theirs = other.post("/v1/jobs", json=SPEC, headers=headers)
    assert (mine.status_code, theirs.status_code) == (201, 201)


def test_jobs_are_listed_newest_first_page_by_page(service: RunningService, client: httpx.Client, tenant: str) -> None:
    ids = [service.put(tenant).id for _ in range(7)]
    seen, token, pages = [], None, 0
    while True:
        page = client.get("/v1/jobs", params={"page_size": 3} | ({"page_token": token} if token else {})).json()
        seen += [job["id"] for job in page["jobs"]]
        token, pages = page["next_page_token"], pages + 1
        if token is None:
            break
    assert (seen, pages) == (sorted(ids, reverse=True), 3)


def test_jobs_are_found_by_state_and_label(service: RunningService, client: httpx.Client, tenant: str) -> None:
    one, two = service.put(tenant, name="one"), service.put(tenant, name="two")
    service.queue.request_cancel(two.id)

    def ids(**params: object) -> list[str]:
        return [job["id"] for job in client.get("/v1/jobs", params=params).json()["jobs"]]

    assert ids(label="one") == [one.id]
    assert ids(state="CANCELLED") == [two.id]
    assert ids(state=["QUEUED", "CANCELLED"]) == [two.id, one.id]
    assert ids(state="FAILED") == []


def test_the_place_in_the_queue_follows_priority_and_age(service: RunningService, client: httpx.Client, tenant: str) -> None:
    ids = [service.put(tenant, priority=priority).id for priority in (0, 9, 9)]

    def place(job_id: str) -> int:
        return client.get(f"/v1/jobs/{job_id}").json()["queue_position"]

    assert place(ids[1]) < place(ids[2]) < place(ids[0])
    service.queue.request_cancel(ids[1])
    assert place(ids[1]) is None


def test_cancelling_is_asked_for_any_number_of_times(service: RunningService, client: httpx.Client, tenant: str) -> None:
    job = service.put(tenant)
    for _ in range(2):
        answer = client.post(f"/v1/jobs/{job.id}:cancel")
        assert (answer.status_code, answer.json()["state"]) == (202, "CANCELLED")


def test_only_an_ended_job_is_purged_and_then_all_of_it(service: RunningService, client: httpx.Client, tenant: str) -> None:
    job = service.put(tenant)
    folder = service.settings.folder(job.id)
    (folder / "models").mkdir(parents=True)
    refused = client.delete(f"/v1/jobs/{job.id}")
    assert (refused.status_code, refused.json()["code"]) == (409, "not-ended")
    client.post(f"/v1/jobs/{job.id}:cancel")
    assert client.delete(f"/v1/jobs/{job.id}").status_code == 204
    assert not folder.exists()
    assert client.get(f"/v1/jobs/{job.id}").status_code == 404
    assert client.delete(f"/v1/jobs/{job.id}").status_code == 404


@pytest.mark.parametrize(
    ("fields", "pointer", "told"),
    [
        ({"trials": 0}, "/trials", "allowed: 1 and more"),
        ({"trials": 10**9}, "/trials", "allowed: at most 1000"),
        ({"epochs": 1e9}, "/epochs", "allowed: at most 1000"),
        ({"image_size": 100_000}, "/image_size", "allowed: at most 1024"),
        ({"flops": [f"{share}%" for share in range(10, 60)]}, "/flops", "has 50 budgets; allowed: at most 16"),
        ({"flops": ["50%", "50%"]}, "/flops/1", "is given twice"),
        ({"flops": ["90G"]}, "/flops/0", "is within it already"),
        ({"flops": ["1%"]}, "/flops/0", "which nothing in the space reaches; allowed: life_regression"),
        ({"params": "1K"}, "/params", "is '1000', which nothing in the space reaches; allowed: life_regression"),
        ({"params": "1K", "flops": []}, "/params", "is '1000', which nothing in the space reaches; allowed: life_regression"),
        ({"params": "1G", "flops": []}, "/params", "the dense model is within it already"),
        ({"model": "deit_smal_patch16_224"}, "/model", "did you mean deit_small_patch16_224"),
        ({"model": "resnet50"}, "/model", "allowed: a name from /v1/capabilities"),
        ({"model_args": {"depth": 1000}}, "/model_args/depth", "allowed: 1 to 64"),
        ({"model_args": {"block_fn": "os.system"}}, "/model_args/block_fn", "allowed: patch_size"),
        ({"model_args": {"num_heads": 7}}, "/model", "cannot be made"),
        ({"space": "defualt"}, "/space", "did you mean default?"),
        ({"space": {"methods": {"sit": {"nope": 1}}}}, "/space", "there is no knob 'nope'"),
        ({"data": "nowhere"}, "/data", "allowed: digits, flowers"),
        ({"data": "flowers"}, "/data", "flowers"),
        ({"tirals": 3}, "/tirals", "did you mean trials?"),
        ({"output": "/tmp"}, "/output", "is not a field of a job"),
    ],
)
def test_a_spec_that_cannot_be_carried_out_is_refused_with_a_pointer(
    client: httpx.Client, fields: dict[str, object], pointer: str, told: str
) -> None:
    answer = client.post("/v1/jobs", json=SPEC | fields)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    code = "infeasible-budget" if pointer in ("/flops/0", "/params") else "invalid-spec"
    assert (problem["code"], problem["status"]) == (code, 422)
    assert problem["request_id"] == answer.headers["x-request-id"]
    (error,) = [error for error in problem["errors"] if error["pointer"] == pointer]
    assert told in error["detail"]
    assert client.get("/v1/jobs").json()["jobs"] == []


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service whose operator allows a tenant five jobs that wait, of little priority and work."""
    with running(settings_in(tmp_path_factory.mktemp("bounded"), limits=patient(queued=5, priority=6, work=1e12))) as service:
        yield service


@pytest.mark.slow
def test_a_tenant_has_so_many_jobs_and_no_more(bounded: RunningService) -> None:
    with bounded.client(tenant="many") as client:
        jobs = [bounded.put("many") for _ in range(5)]
        refused = client.post("/v1/jobs", json=SPEC)
        assert (refused.status_code, refused.json()["code"]) == (429, "queue-full")
        assert int(refused.headers["retry-after"]) > 0
        assert [job["id"] for job in client.get("/v1/jobs").json()["jobs"]] == [job.id for job in reversed(jobs)]


@pytest.mark.slow
def test_a_repeated_submit_gives_its_job_although_the_queue_is_full_by_now(bounded: RunningService) -> None:
    with bounded.client(tenant="again") as client:
        for _ in range(4):
            bounded.put("again")
        first, again = (client.post("/v1/jobs", json=SPEC, headers={"Idempotency-Key": "k"}) for _ in range(2))
        assert (first.status_code, again.status_code) == (201, 200)
        assert again.json()["id"] == first.json()["id"]
        assert client.post("/v1/jobs", json=SPEC, headers={"Idempotency-Key": "l"}).status_code == 429


@pytest.mark.slow
def test_the_operator_bounds_priority_and_work(bounded: RunningService) -> None:
    with bounded.client() as client:
        refused = client.post("/v1/jobs", json=SPEC | {"priority": 7})
        assert "priority is 7; allowed: at most 6" in refused.json()["errors"][0]["detail"]
        work = client.post("/v1/plans", json=SPEC).json()["estimate"]["multiply_accumulates"]
        assert 0.2e12 < work < 0.5e12
        dear = client.post("/v1/jobs", json=SPEC | {"trials": 1000})
        assert (dear.status_code, dear.json()["errors"][0]["pointer"]) == (422, "/trials")
        assert "allowed: at most 1e+12 (limits.work)" in dear.json()["errors"][0]["detail"]
        taken = int(1e12 // work)
        for _ in range(taken):
            assert client.post("/v1/jobs", json=SPEC).status_code == 201
        full = client.post("/v1/jobs", json=SPEC)
        assert (full.status_code, full.json()["code"]) == (429, "queue-full")
        assert "together (limits.work)" in full.json()["detail"]


def test_a_failure_is_one_class_one_sentence_and_one_command(service: RunningService, client: httpx.Client, tenant: str) -> None:
    job = service.put(tenant, priority=9)
    claim = service.queue.claim("test", 60)
    assert claim is not None
    while claim.id != job.id:
        claim = service.queue.claim("test", 60)
        assert claim is not None
    failure = Failure(failure_class=FailureClass.DATA, message="class 'rose' has no image", next="autoslim submit job.yaml")
    service.queue.transition(claim, QueueState.FAILED, failure=failure)
    view = client.get(f"/v1/jobs/{job.id}").json()
    assert view["state"] == "FAILED"
    assert view["failure"] == {"failure_class": "DATA", "message": failure.message, "next": failure.next}
    assert (view["attempt"], view["queue_position"]) == (1, None)


def test_a_plan_says_what_every_method_reaches_and_keeps_nothing(client: httpx.Client) -> None:
    answer = client.post("/v1/plans", json=SPEC | {"flops": ["50%", "1%"]})
    assert answer.status_code == 200, answer.text
    plan = answer.json()
    assert [(budget["label"], budget["feasible"]) for budget in plan["budgets"]] == [("50%", True), ("1%", False)]
    assert plan["budgets"][0]["flops"] == plan["dense_flops"] // 2
    feasibility = {method["name"]: method for method in plan["budgets"][0]["methods"]}
    assert set(feasibility) >= {"vit_slim", "life_regression"}
    assert all(method["min_flops"] < plan["dense_flops"] for method in feasibility.values())
    assert plan["images"] == {"train": 1293, "validation": 144, "test": 360}
    assert plan["estimate"]["training_images"] == 1293 * 3 * 24 / 0.75
    assert client.get("/v1/jobs").json()["jobs"] == []


@pytest.mark.parametrize(
    ("limits", "label"),
    [
        ({"params": "40K"}, "40K-params"),
        ({"latency": "5ms"}, "5ms@1"),
        ({"latency": "5ms@2", "params": "40K"}, "5ms@2+40K-params"),
    ],
)
def test_a_plan_needs_no_flops_where_another_limit_is_given(client: httpx.Client, limits: dict[str, str], label: str) -> None:
    answer = client.post("/v1/plans", json=SPEC | {"flops": []} | limits)
    assert answer.status_code == 200, answer.text
    (budget,) = answer.json()["budgets"]
    assert (budget["label"], budget["feasible"], budget["flops"]) == (label, True, answer.json()["dense_flops"])
    assert client.post("/v1/jobs", json=SPEC | {"flops": []} | limits).status_code == 201


@pytest.mark.parametrize("path", ["/v1/plans", "/v1/jobs"])
def test_parameters_that_nothing_reaches_are_refused_beside_a_budget_that_something_does(client: httpx.Client, path: str) -> None:
    refused = client.post(path, json=SPEC | {"flops": ["50%"], "params": "1K"})
    assert (refused.status_code, refused.json()["code"]) == (422, "infeasible-budget")
    (error,) = refused.json()["errors"]
    assert error["pointer"] == "/params"
    least = {name: int(count.replace(",", "")) for name, count in re.findall(r"(\w+) ([\d,]+) and more", error["detail"])}
    # Only vit_slim narrows the model; the others keep nearly all of its parameters.
    assert 1_000 < least["vit_slim"] < least["life_regression"] / 10
    assert client.get("/v1/jobs").json()["jobs"] == []


def test_a_job_may_reuse_its_own_tenants_jobs_and_no_others(service: RunningService, client: httpx.Client, tenant: str) -> None:
    mine, theirs = service.put(tenant).id, service.put("somebody-else").id
    assert client.post("/v1/jobs", json=SPEC | {"reuse": [mine, "all"]}).status_code == 201
    for foreign in (theirs, "01M7ZSE4WFXSFJAXPYQNWVP7NM"):
        refused, plan = (client.post(path, json=SPEC | {"reuse": [mine, foreign]}) for path in ("/v1/jobs", "/v1/plans"))
        assert (plan.status_code, plan.json()["errors"]) == (refused.status_code, refused.json()["errors"])
        assert refused.status_code == 422
        (error,) = refused.json()["errors"]
        assert error["pointer"] == "/reuse/1"
        assert error["detail"] == f"reuse[1] is {foreign!r}; allowed: a job of yours, or all"


@pytest.mark.parametrize("source", ["/etc", "runs/digits", "../other", "digits-1a2b3c"])
def test_a_job_does_not_name_folders_to_reuse(client: httpx.Client, source: str) -> None:
    refused = client.post("/v1/jobs", json=SPEC | {"reuse": source})
    assert refused.status_code == 422
    assert [error["pointer"] for error in refused.json()["errors"]] == ["/reuse/0"]
