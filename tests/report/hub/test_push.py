"""A finished model on a stand-in of the hub: what arrives, what does not, and what is told where the hub refuses."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
import yaml
from helpers.hub_stand_in import TOKEN, Hub, running_hub
from helpers.tiny import CLASSES, config_of, images, logits, make_dense, slim

from autoslim.cli import main
from autoslim.core.job import DatasetSpec, ModelSpec
from autoslim.core.made_from import MadeFrom
from autoslim.core.recipe import TrainingSettings
from autoslim.errors import RequestError, UnavailableError, WeightsError
from autoslim.export import onnx_form, pt2_form, timm_form, write_checksums
from autoslim.export.artifact import load, load_config, save
from autoslim.report.card import render_card
from autoslim.report.hub import push
from autoslim.report.hub.local_traces import public_name, without_paths

PRIVATE = "/home/ada/secret project/flowers"

# huggingface_hub's own, of the HTTP client that it uses.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as hub:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        # Read from HF_ENDPOINT and HF_HUB_DISABLE_XET when huggingface_hub is imported, which timm has done.
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return finished(tmp_path / "50%")


def finished(folder: Path, method: str = "merge") -> Path:
    """A small model's folder as it is handed over, whose data lie at a place that nobody else should know."""
    dense = make_dense()
    model = slim(method, dense)
    config = config_of(method, dense, model)
    made_from = MadeFrom(
        recipe=config.recipe,
        budget_label="60%",
        model=ModelSpec(name="deit_tiny_patch16_224"),
        dataset=DatasetSpec(source=PRIVATE),
        base=TrainingSettings(),
        seed=0,
        threads=1,
    )
    measured = {"test/slimmed": 0.5, "test/dense": 0.75, "validation/slimmed": 0.5, "validation/dense": 0.75}
    config = config.replace(made_from=made_from, accuracy=measured, images={"test": 10, "validation": 10, "compared": 2})
    save(folder, model.model, config)
    card = render_card(config, job="digits-1", trial=3, source=PRIVATE, report="Read from /home/ada/list.csv.", has_pictures=True)
    (folder / "README.md").write_text(card)
    (folder / "picture.png").write_bytes(b"a picture")
    (folder / "picture.html").write_text("<p>of /home/ada/pictures/one.png</p>")
    write_checksums(folder)
    # What a folder of `autoslim slim` holds besides.
    (folder / "slim.json").write_text("{}")
    return folder


def push_there(folder: Path, **changes):
    return push(folder, "owner/flowers", **{"private": False, "revision": None, "license": None, **changes})


def metadata_of(card: bytes) -> dict:
    return yaml.safe_load(card.decode().split("---\n")[1])


def test_what_is_pushed_loads_and_computes_the_same(hub: Hub, folder: Path, tmp_path: Path):
    pushed = push_there(folder)
    assert (pushed.url, pushed.commit, hub.commits) == (f"{hub.url}/owner/flowers", "a" * 40, ["main"])
    assert set(hub.files) == {"README.md", "SHA256SUMS", "config.json", "model.safetensors", "picture.html", "picture.png"}
    assert hub.tokens == {f"Bearer {TOKEN}"}
    pulled = tmp_path / "pulled"
    pulled.mkdir()
    for name, content in hub.files.items():
        (pulled / name).write_bytes(content)
    with torch.no_grad():
        assert torch.equal(logits(load(pulled), images()), logits(load(folder), images()))
    assert load_config(pulled).classes == CLASSES
    sums = dict(reversed(line.split("  ")) for line in (pulled / "SHA256SUMS").read_text().splitlines())
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in hub.files.items() if name != "SHA256SUMS"}
    assert sums == digests


def test_the_metadata_are_those_that_the_hub_reads(hub: Hub, folder: Path):
    push_there(folder)
    metadata = metadata_of(hub.files["README.md"])
    assert (metadata["license"], metadata["library_name"]) == ("apache-2.0", "autoslim")
    assert metadata["base_model"].startswith("timm/deit_tiny_patch16_224")
    assert {"autoslim", "vision-transformer", "merge"} <= set(metadata["tags"])
    assert "datasets" not in metadata
    (result,) = metadata["model-index"][0]["results"]
    assert (result["task"]["type"], result["dataset"]) == (
        "image-classification",
        {"name": "flowers", "type": "flowers", "split": "test"},
    )
    found = {metric["type"]: metric["value"] for metric in result["metrics"]}
    config = load_config(folder)
    assert found == {"accuracy": 0.5, "flops": config.flops.held, "parameters": config.params}
    assert 'snapshot_download("owner/flowers")' in hub.files["README.md"].decode()


def test_nothing_local_is_pushed(hub: Hub, folder: Path):
    push_there(folder)
    for name, content in hub.files.items():
        assert b"/home" not in content, name
        assert b"ada/" not in content, name
        assert b"secret project" not in content, name
    assert "Data: flowers. Read from list.csv." in hub.files["README.md"].decode()
    # The folder itself stays as it was.
    assert load_config(folder).made_from.dataset.source == PRIVATE


@pytest.mark.slow
def test_the_programs_lose_the_lines_that_they_come_from_and_compute_the_same(hub: Hub, folder: Path, tmp_path: Path):
    model, config = load(folder), load_config(folder)
    onnx_form.write(model, config, folder / onnx_form.FILE)
    pt2_form.write(model, config, folder / pt2_form.FILE)
    write_checksums(folder)
    assert b"autoslim/methods/" in (folder / onnx_form.FILE).read_bytes()
    push_there(folder)
    for name in (onnx_form.FILE, pt2_form.FILE):
        assert b"site-packages" not in hub.files[name]
        assert b"autoslim/methods/" not in hub.files[name]
        (tmp_path / name).write_bytes(hub.files[name])
    import onnxruntime

    expected = logits(model, images())
    session = onnxruntime.InferenceSession(tmp_path / onnx_form.FILE)
    assert torch.allclose(torch.from_numpy(session.run(None, {"images": images().numpy()})[0]), expected, atol=1e-4)
    program = torch.export.load(tmp_path / pt2_form.FILE).module()
    assert torch.allclose(program(images()), expected, atol=1e-4)


def test_a_model_that_timm_can_read_is_timms_at_the_root(hub: Hub, folder: Path):
    dense = make_dense()
    from autoslim.models import write_folder

    write_folder(folder / timm_form.FOLDER, dense.module, dense.architecture, preprocessing=dense.preprocessing, classes=CLASSES)
    (folder / "slim.json").unlink()
    write_checksums(folder)
    pushed = push_there(folder, revision="v1")
    assert pushed.timm_loads
    assert json.loads(hub.files["config.json"])["architecture"] == "deit_tiny_patch16_224"
    assert {"model.safetensors", "autoslim/config.json", "autoslim/model.safetensors", "autoslim/picture.png"} <= set(hub.files)
    card = hub.files["README.md"].decode()
    assert metadata_of(hub.files["README.md"])["library_name"] == "timm"
    assert 'timm.create_model("hf-hub:owner/flowers@v1", pretrained=True)' in card
    assert "](autoslim/picture.png)" in card
    assert (hub.branches, hub.commits) == (["v1"], ["v1"])


def test_a_private_repository_is_made_and_a_public_one_refused(hub: Hub, folder: Path):
    push_there(folder, private=True)
    assert hub.repos == {"owner/flowers": True}
    hub.repos["owner/flowers"] = False
    with pytest.raises(RequestError, match="--private, but owner/flowers exists and is public"):
        push_there(folder, private=True)
    assert hub.commits == ["main"]


@pytest.mark.parametrize(
    ("part", "status", "error", "said"),
    [
        ("repos/create", 401, UnavailableError, "refuses the token; log in with `hf auth login`, or set HF_TOKEN"),
        ("repos/create", 403, RequestError, "does not let this token write to owner/flowers; use a token with write access"),
        ("commit/main", 404, RequestError, "has no owner/flowers that this token may see; check --repo and --revision"),
        ("commit/main", 500, UnavailableError, "answers 500 .*repeat the command later"),
        ("objects/", 413, RequestError, "does not take files as large as these"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence_with_the_next_step(hub: Hub, folder: Path, part, status, error, said):
    hub.refuse[part] = status
    with pytest.raises(error, match=said) as caught:
        push_there(folder)
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_a_hub_that_is_not_there_is_told(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match=r"the hub at http://127.0.0.1:9 cannot be reached .*HF_ENDPOINT"):
        push_there(folder)


def test_without_a_token_nothing_is_sent(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("autoslim.report.hub.upload.get_token", lambda: None)
    with pytest.raises(UnavailableError, match="no token of the hub is found; log in with `hf auth login`"):
        push_there(folder)
    assert hub.repos == {}


def test_what_is_no_finished_model_is_refused(hub: Hub, folder: Path):
    (folder / "SHA256SUMS").write_text("0" * 64 + "  ../elsewhere\n")
    with pytest.raises(WeightsError, match=r"names \.\./elsewhere, which is not a file in the folder"):
        push_there(folder)
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(WeightsError, match="is not a finished model's folder"):
        push_there(folder)
    with pytest.raises(RequestError, match="--repo is 'flowers'; allowed: OWNER/NAME"):
        push(folder, "flowers", private=False, revision=None, license=None)


def test_the_command_line_says_what_was_pushed(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    words = ["autoslim", "push", str(folder), "--repo", "owner/flowers", "--license", "mit"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    said = capsys.readouterr()
    assert said.out.startswith(f"{hub.url}/owner/flowers\n6 files, license mit; autoslim loads it")
    assert TOKEN not in said.out + said.err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Data: /home/ada/flowers. 10 images", "Data: flowers. 10 images"),
        ("file:///srv/images/a.png is broken", "a.png is broken"),
        ("~/data/x and https://host/a/b, 1/2/3, and/or", "x and https://host/a/b, 1/2/3, and/or"),
        ("postgres://me:secret@host/x", "postgres://me:***@host/x"),
    ],
)
def test_of_a_path_only_the_last_name_is_left(text: str, expected: str):
    assert without_paths(text) == expected


@pytest.mark.parametrize(
    ("source", "name"), [("hf:owner/name", "hf:owner/name"), ("digits", "digits"), ("../a/b", "b"), ("./c/", "c")]
)
def test_sources_are_called_by_their_names(source: str, name: str):
    assert public_name(source) == name
