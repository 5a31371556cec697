"""What tenants are told has no path and no address of the service's machines, and a next step that they have."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from helpers.driven_job import DrivenJob
from helpers.running_service import SPEC, RunningService

from autoslim.service.public_text import PublicText
from autoslim.service.settings import ServiceSettings
from autoslim.store import QueueState

SETTINGS = ServiceSettings(
    storage="postgresql+psycopg://user:pass@db.internal/autoslim",
    root=Path("/var/lib/autoslim"),
    datasets={"flowers": Path("/srv/data/flowers")},
    data_roots=(Path("/srv/data"),),
    mlflow_url="http://mlflow:5000",
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/srv/data/flowers has no class folders", "flowers has no class folders"),
        ("/srv/data/roses/train.parquet, row 3: no label", "roses/train.parquet, row 3: no label"),
        ("nothing is in /srv/data", "nothing is in the data root"),
        ("/srv/database/x is another folder", "(path) is another folder"),
        ("No space left on device: '/var/lib/autoslim/jobs/01J/x.pt'", "No space left on device: '(path)'"),
        ('connection to server at "db.internal", port 5432 failed', 'connection to server at "(address)" failed'),
        ("the database postgresql://user:***@db.internal/x is down", "the database (address) is down"),
        ("node 10.0.0.7:6379 died, as [fe80::1]:80 did", "node (address) died, as (address) did"),
        ("http://127.0.0.1:8265 and localhost:6379 refuse", "(address) and (address) refuse"),
        ("tracking at mlflow:5000", "tracking at (address)"),
        ("12/24 trials and/or 3/4; see /v1/jobs/X", "12/24 trials and/or 3/4; see /v1/jobs/X"),
        ("torch 2.13.0+cpu, 50% of 4.61 G, lr 1e-3", "torch 2.13.0+cpu, 50% of 4.61 G, lr 1e-3"),
        ("autoslim submit job.yaml --lr 1e-4", "autoslim submit job.yaml --lr 1e-4"),
    ],
)
def test_paths_and_addresses_are_replaced_and_nothing_else(text: str, told: str) -> None:
    assert PublicText(SETTINGS).of(text) == told


def test_text_within_json_is_replaced_wherever_it_is() -> None:
    data = {"at": 1.5, "more": [{"error": "in /srv/data/flowers"}, None, True]}
    assert PublicText(SETTINGS).within(data) == {"at": 1.5, "more": [{"error": "in flowers"}, None, True]}


LEAK = "the database postgresql://u:***@10.1.2.3:5432/x cannot be reached, see /var/lib/autoslim/jobs/x/log"
CANARIES = ("10.1.2.3", "postgresql", "/var/lib")


def told(client: httpx.Client, job_id: str) -> str:
    here = f"/v1/jobs/{job_id}"
    with client.stream("GET", f"{here}/events", headers={"Accept": "text/event-stream"}) as stream:
        lines: list[str] = []
        for line in stream.iter_lines():
            lines.append(line)
            if "the end" in line or '"state": "FAILED"' in line:
                break
    return "".join([client.get(here).text, client.get(f"{here}/events").text, *lines])


def test_a_paused_jobs_reason_names_what_its_owner_can_do(service: RunningService, client: httpx.Client, tenant: str) -> None:
    job = DrivenJob(service, service.put(tenant).id)
    service.queue.transition(job.claim, QueueState.PAUSED, reason=f"infra: {LEAK}")
    shown = client.get(f"/v1/jobs/{job.id}").json()
    assert shown["reason"] == (
        "infra: the database (address) cannot be reached, see (path); the job resumes by itself when this is over, "
        f"`autoslim cancel {job.id}` gives it up"
    )
    assert not any(canary in client.get(f"/v1/jobs/{job.id}/events").text for canary in CANARIES)


def test_failures_and_events_have_no_path_and_no_address(service: RunningService, client: httpx.Client, tenant: str) -> None:
    job = DrivenJob(service, service.put(tenant).id)
    job.advance("PREPARING", "SEARCHING")
    job.tell("trial_ended", trial=0, method="sit", target="50%", state="failed", error=LEAK)
    job.tell("message", text=LEAK)
    job.fail("BUG", LEAK, f"autoslim logs {job.id}")
    text = told(client, job.id)
    assert "(address)" in text
    assert not any(canary in text for canary in CANARIES)
    assert client.get(f"/v1/jobs/{job.id}").json()["failure"]["next"] == f"autoslim logs {job.id}"
    # The operator's record is whole.
    failure = service.queue.get(job.id).failure
    assert failure is not None
    assert failure.message == LEAK


@pytest.mark.slow
@pytest.mark.short
def test_a_plan_of_data_that_cannot_be_read_names_it_as_the_user_does(
    service: RunningService, client: httpx.Client, data_root: Path
) -> None:
    (data_root / "empty" / "train").mkdir(parents=True, exist_ok=True)
    for path in ("/v1/plans", "/v1/jobs"):
        answer = client.post(path, json=SPEC | {"data": "./empty"})
        assert answer.status_code == 422
        assert str(data_root) not in answer.text
        assert "empty" in json.dumps(answer.json()["errors"])
