"""Where the client finds the service, and what it does with a key."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoslim.client.address import DEFAULT_URL, config_file, find_address
from autoslim.errors import RequestError


@pytest.fixture
def kept() -> Path:
    file = config_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('url = "https://kept.example"\nkey = "autoslim_kept"\n')
    file.chmod(0o600)
    return file


def test_without_anything_it_is_on_this_machine_and_has_no_key():
    address = find_address()
    assert (address.url, address.key, address.headers) == (DEFAULT_URL, None, {})


def test_arguments_are_over_the_environment_and_that_over_the_file(kept: Path, monkeypatch: pytest.MonkeyPatch):
    assert find_address().url == "https://kept.example"
    assert find_address().headers == {"Authorization": "Bearer autoslim_kept"}
    monkeypatch.setenv("AUTOSLIM_URL", "https://environment.example/autoslim/")
    assert find_address().url == "https://environment.example/autoslim"
    assert find_address().sources == ("AUTOSLIM_URL", str(kept))
    assert find_address("https://given.example", "autoslim_given").key == "autoslim_given"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_file_that_others_can_read_is_refused(kept: Path, mode: int):
    kept.chmod(mode)
    with pytest.raises(RequestError, match="can be read by others; allowed: mode 600"):
        find_address()


@pytest.mark.parametrize(
    ("text", "said"),
    [("ulr = 'x'", "has 'ulr'; allowed: url, key, insecure"), ("url = 3", "url must be str"), ("url =", "is not valid TOML")],
)
def test_a_mistake_in_the_file_is_told_with_its_name(kept: Path, text: str, said: str):
    kept.write_text(text)
    with pytest.raises(RequestError, match=said) as told:
        find_address()
    assert str(kept) in str(told.value)


@pytest.mark.parametrize("url", ["service.example", "ftp://service.example", "http://", "http://h/?x=1", "file:///etc/passwd"])
def test_what_is_no_address_is_refused(url: str):
    with pytest.raises(RequestError, match="allowed: http://HOST:PORT"):
        find_address(url)


def test_a_password_in_an_address_is_refused_and_not_repeated():
    with pytest.raises(RequestError) as told:
        find_address("https://me:hush@service.example")
    assert "hush" not in str(told.value)


def test_a_key_does_not_travel_unencrypted_unless_that_is_wanted(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(RequestError, match="would be sent unencrypted"):
        find_address("http://service.example", "autoslim_key")
    assert find_address("http://127.0.0.1:8400", "autoslim_key").key
    assert find_address("https://service.example", "autoslim_key").key
    monkeypatch.setenv("AUTOSLIM_INSECURE", "1")
    assert find_address("http://service.example", "autoslim_key").key


def test_a_key_is_not_in_what_is_printed():
    assert "hush" not in repr(find_address(key="hush"))
