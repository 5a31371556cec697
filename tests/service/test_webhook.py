"""A job's webhook may name the hosts that the operator allows, and by default none."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.running_service import SPEC, settings_in

from autoslim.config import SpecError, read_mapping
from autoslim.errors import RequestError
from autoslim.service.catalog import Catalog
from autoslim.service.dry_run.preflight import check
from autoslim.service.settings import read_settings


def problems_of(folder: Path, url: str, *hosts: str) -> list[tuple[str, str]]:
    settings = settings_in(folder, webhook_allow=hosts)
    spec = read_mapping(SPEC | {"webhook": url})
    try:
        check(spec, catalog=Catalog(settings), limits=settings.limits, models=None, spaces=None)
    except SpecError as error:
        return [(issue.pointer, issue.message("webhook")) for issue in error.issues]
    return []


def test_no_host_is_allowed_by_default(tmp_path: Path) -> None:
    ((pointer, message),) = problems_of(tmp_path, "https://hooks.example.org/x")
    assert pointer == "/webhook"
    assert message == (
        "webhook has the host 'hooks.example.org'; allowed: none, unless the operator names it (autoslim serve --webhook-allow HOST)"
    )


def test_a_host_of_the_list_is_allowed_and_no_other(tmp_path: Path) -> None:
    assert problems_of(tmp_path, "https://hooks.example.org/x", "hooks.example.org") == []
    ((_, message),) = problems_of(tmp_path, "http://169.254.169.254/latest", "hooks.example.org")
    assert message.endswith("allowed: hooks.example.org (the operator's autoslim serve --webhook-allow HOST)")


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://a.org/", "//a.org/", "a.org", "https://", "https://me:secret@a.org/", "https://a.org/#x", "https://a.org:0/"),
        *(
            "https://a.org:65536/",
            "https://a..org/",
            "https://-a.org/",
            "https://a.org/ x",
            "https://a.org\n/",
            "https://[::1]/",
            "",
        ),
    ],
)
def test_what_is_no_plain_address_is_no_webhook(url: str) -> None:
    with pytest.raises(SpecError) as found:
        read_mapping(SPEC | {"webhook": url})
    assert "secret" not in str(found.value)
    assert [issue.pointer for issue in found.value.issues] == ["/webhook"]


def test_the_list_is_read_from_the_environment_and_has_no_urls() -> None:
    settings = read_settings(
        environ={"AUTOSLIM_WEBHOOK_ALLOW": "hooks.example.org, 10.0.0.0/8,::1,fd00::/8", "AUTOSLIM_ROOT": "/r"}
    )
    assert settings.webhook_allow == ("hooks.example.org", "10.0.0.0/8", "::1", "fd00::/8")
    with pytest.raises(RequestError, match=r"has 'https://a\.org'; allowed: names of hosts, IP addresses, and networks"):
        read_settings(environ={"AUTOSLIM_WEBHOOK_ALLOW": "https://a.org", "AUTOSLIM_ROOT": "/r"})
