"""Numbers of bytes as people write them, and the memory that there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from autoslim.core.byte_size import BYTE_SIZE_PATTERN, byte_size_text, parse_byte_size
from autoslim.core.memory import usable_memory
from autoslim.data import decoded_limit
from autoslim.data.decoded_limit import measured_limit
from autoslim.errors import RequestError


@pytest.mark.parametrize(
    ("text", "count", "shown"),
    [("0", 0, "0"), ("1000", 1000, "1000"), ("2K", 2048, "2K"), ("1.5 GiB", 3 * 2**29, "1536M"), ("4294967296", 2**32, "4G")],
)
def test_bytes_are_in_units_of_1024_and_read_back_as_they_are_shown(text: str, count: int, shown: str):
    assert parse_byte_size(text) == count
    assert byte_size_text(count) == shown
    assert parse_byte_size(shown) == count


@pytest.mark.parametrize("text", ["", "much", "-1", "5%", "1e3", "4X"])
def test_other_texts_are_refused(text: str):
    with pytest.raises(RequestError, match="allowed: bytes, such as 500M or 16G"):
        parse_byte_size(text)


def test_what_the_schemas_pattern_allows_is_read_and_shown_in_a_form_that_is():
    for text in ("0", "1000", "2K", "1.5g", "999999999999.999999T"):
        assert re.match(BYTE_SIZE_PATTERN, text)
        count = parse_byte_size(text)
        assert parse_byte_size(byte_size_text(count)) == count
    assert not any(re.match(BYTE_SIZE_PATTERN, text) for text in ("", "-1", "5%", "4X", "1 G"))


def test_memory_is_that_of_the_container_where_it_is_less(tmp_path: Path):
    machine = usable_memory(tmp_path / "none")
    for text, expected in (("max\n", machine), (f"{2**20}\n", 2**20), (f"{2 * machine}\n", machine)):
        (tmp_path / "memory.max").write_text(text)
        assert usable_memory(tmp_path / "memory.max") == expected
    assert machine > 2**27


def test_half_of_what_is_there_is_for_decoded_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def found(memory: int, free: int, cache: str) -> int:
        monkeypatch.setattr(decoded_limit, "usable_memory", lambda: memory)
        monkeypatch.setattr(decoded_limit.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": free}))
        monkeypatch.setenv("AUTOSLIM_CACHE_LIMIT", cache)
        return measured_limit(tmp_path / "not" / "there")

    monkeypatch.setattr(decoded_limit, "LEAST", 100)
    assert found(1_000, 5_000, "16G") == 500
    assert found(9_000, 5_000, "16G") == 2_500
    assert found(9_000, 9_000, "1K") == 1_024
    # The cache keeps nothing, and every search decodes for itself.
    assert found(9_000, 9_000, "0") == 4_500
    assert found(9_000, 9_000, "10") == 100
