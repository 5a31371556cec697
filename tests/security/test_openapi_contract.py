"""Generated requests against the OpenAPI: no answer that it does not know, no error of the service's own."""

from __future__ import annotations

import json
from collections.abc import Iterator

import hypothesis
import pytest
import schemathesis
from helpers.examples import examples
from helpers.marks import CI_ONLY
from helpers.running_service import RunningService, patient, running, settings_in
from schemathesis.checks import CHECKS
from schemathesis.config import SchemathesisConfig

from autoslim.service.openapi import FILE

pytestmark = CI_ONLY

# What the schema cannot say (which models and data there are) is refused, too; and a key that is missing is another test's business.
_LEFT_OUT = ("positive_data_acceptance", "ignored_auth", "missing_required_header", "unsupported_method")

schema = schemathesis.openapi.from_dict(json.loads(FILE.read_text()), config=SchemathesisConfig())


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningService, str]]:
    limits = patient(requests_per_second=1e6, burst=10**6)
    with running(settings_in(tmp_path_factory.mktemp("contract"), limits=limits)) as service:
        yield service, service.key("read", "submit", tenant="t")


@schema.parametrize()
@hypothesis.settings(
    max_examples=examples(15),
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)
def test_every_answer_is_one_that_the_openapi_knows(case: schemathesis.Case, tested: tuple[RunningService, str]) -> None:
    service, key = tested
    job = service.put("t")
    if "job_id" in case.path_parameters and case.path_parameters["job_id"].startswith("0"):
        case.path_parameters["job_id"] = job.id
    headers = {"Authorization": f"Bearer {key}"}
    checks = [check for check in CHECKS.get_all() if check.__name__ not in _LEFT_OUT]
    case.call_and_validate(base_url=service.url, headers=headers, checks=checks, timeout=280)
