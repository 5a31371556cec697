"""`hf://` against a stand-in for the Hugging Face hub: its client is the real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.hub_files import HubFiles, serving_hub_files
from huggingface_hub import HfFileSystem

from autoslim.errors import StorageError
from autoslim.storage import StorageUri, fetch, file_systems, local_file, look, open_file, stat
from autoslim.storage.model_folder import dense_folder

TOKEN = "hf_canary"
BIG = bytes(range(256)) * 1000


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubFiles]:
    monkeypatch.setenv("AUTOSLIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving_hub_files() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.repos["datasets/owner/flowers"] = {"train/a b.parquet": BIG, "test/x.parquet": b"x", "README.md": b"# card"}
        hub.repos["models/owner/vit"] = {"config.json": b"{}", "model.safetensors": BIG, "other.bin": b"no"}
        _forget()
        yield hub
    _forget()


def _forget() -> None:
    """What a process has of another hub."""
    file_systems._connected.cache_clear()
    HfFileSystem.clear_instance_cache()


def test_a_data_sets_files_are_listed_and_fetched(hub: HubFiles, tmp_path: Path) -> None:
    uri = StorageUri.parse("hf://datasets/owner/flowers")
    listing = look(uri)
    assert [(file.name, file.size) for file in listing.files] == [
        ("README.md", 6),
        ("test/x.parquet", 1),
        ("train/a b.parquet", len(BIG)),
    ]
    found = fetch(listing, tmp_path / "cache")
    assert (found / "train/a b.parquet").read_bytes() == BIG
    assert hub.tokens == {f"Bearer {TOKEN}"}
    with open_file(uri / "train/a b.parquet") as file:
        file.seek(257)
        assert file.read(2) == b"\1\2"
    assert stat(uri / "train") is None
    assert [file.name for file in look(uri / "train").files] == ["a b.parquet"]


def test_a_file_with_another_hash_is_other_content(hub: HubFiles) -> None:
    uri = StorageUri.parse("hf://datasets/owner/flowers/test/x.parquet")
    before = look(uri)
    hub.repos["datasets/owner/flowers"]["test/x.parquet"] = b"y"
    _forget()
    assert look(uri).digest != before.digest
    assert local_file(str(uri)).read_bytes() == b"y"


def test_a_model_is_its_configuration_and_weights(hub: HubFiles) -> None:
    folder = dense_folder("hf://owner/vit")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"config.json": b"{}", "model.safetensors": BIG}
    assert folder.name == "vit"


@pytest.mark.parametrize("place", ["datasets/owner/nothing", "datasets/owner/flowers/nowhere", "owner/nothing"])
def test_what_is_not_there_is_said_without_the_token(place: str, hub: HubFiles) -> None:
    with pytest.raises(StorageError, match=rf"^hf://{place} cannot be (read|listed): it does not exist") as found:
        look(StorageUri.parse(f"hf://{place}"))
    assert TOKEN not in str(found.value)
