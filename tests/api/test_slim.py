"""`autoslim.slim` on a model and data that are objects."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.searched_folder import TIMING
from helpers.tiny import config_of, make_dense, slim

import autoslim
from autoslim.api.slim import SlimResult
from autoslim.core.interval import wilson
from autoslim.errors import OutputError, RequestError
from autoslim.export.artifact import SpeedReport, write_config
from autoslim.slimming.run import Slimmed

PROGRAM = """
import sys
for name in ("ray", "optuna", "mlflow"):
    sys.modules[name] = None
import json, timm, torch, autoslim
from sklearn.datasets import load_digits

digits = load_digits()
pictures = [(torch.from_numpy(image / 16).float(), int(label)) for image, label in zip(digits.images[:300], digits.target[:300])]
model = timm.create_model("deit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=32, depth=3, num_heads=2, num_classes=10)
result = autoslim.slim(
    model, pictures, "60%", method="vit_slim", knobs={"cost_power": 0.25}, output=sys.argv[1], epochs=1, base_epochs=0.5, speed="none",
    forms="none", write=lambda line: None,
)
print(json.dumps([result.measured.to_dict(), type(result.model()).__name__, str(result.folder)]))
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list]:
    folder = tmp_path_factory.mktemp("slim") / "out"
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(folder)], capture_output=True, text=True, timeout=250
    )
    assert ran.returncode == 0, ran.stderr
    return folder, json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.short
def test_a_module_and_a_dataset_become_a_slimmed_model_without_the_searchs_packages(done: tuple[Path, list]) -> None:
    folder, (measured, kind, where) = done
    assert (measured["method"], kind, where) == ("vit_slim", "VisionTransformer", str(folder))
    assert 0.95 * measured["budget"] < measured["flops"] <= measured["budget"]
    config = autoslim.load_config(folder)
    assert len(config.classes) == 10
    assert not (folder / "work").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


def test_a_result_shows_itself_beside_the_dense_model_with_its_accuracy_and_speed(tmp_path: Path) -> None:
    dense = make_dense()
    write_config(
        tmp_path,
        config_of("merge", dense, slim("merge", dense)).replace(speed=SpeedReport(hardware="a", threads=1, timings=(TIMING,))),
    )
    measured = Slimmed(
        folder=str(tmp_path), method="merge", budget=600, budget_label="60%", dense_flops=1000, dense_params=2_000_000, flops=590,
        params=2_000_000, accuracy=0.75, test_accuracy=0.711, dense_validation_accuracy=0.76, dense_test_accuracy=0.73,
        images={"validation": 500, "test": 10_000}, files=("config.json",), dense_folder=None,
    )  # fmt: skip
    result = SlimResult(measured)
    line = "60%: test 71.10% (70.2% to 72.0%), 1.9 points below the dense model; 2.00 times as fast (eager, CPU, batch 1)"
    assert repr(result) == f"SlimResult({str(tmp_path)!r}, {line})"
    html = result._repr_html_()
    assert f"<p>{line}<br>{tmp_path}</p>" in html
    assert f"<td>merge</td><td>590</td><td>98.33%</td><td>59.0%</td><td>2 M</td><td>{wilson(0.75, 500).percent()}</td>" in html


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"method": "prune"}, "method is 'prune'; allowed: life_regression, patch_slimming"),
        ({"method": ["vit_slim", "vit_slim"]}, "method vit_slim is given 2 times"),
        ({"knobs": {"kepe": 1}}, "knobs has 'kepe'; allowed: vit_slim: "),
        ({"first": "80%"}, "first is '80%', but there is only one method"),
        ({"distillation": 2.0}, "distillation is 2.0; allowed: 0 to 1"),
        ({"epochs": -1}, "epochs is -1; allowed: above 0"),
        ({"trials": 3}, "trials is no setting of this function; allowed: adapt, "),
        ({"concurrency": 2}, "concurrency is no setting of this function"),
        ({"flops": ["50%", "30%"]}, r"flops is \['50%', '30%'\]; allowed: one budget"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_written(tmp_path: Path, changes: dict, problem: str) -> None:
    request = {"model": "deit_tiny_patch16_224", "data": "digits", "flops": "60%", "method": "vit_slim", "from_scratch": True}
    with pytest.raises(RequestError, match=problem):
        autoslim.slim(**{**request, **changes}, output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_a_search_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/job.json").write_text("{}")
    with pytest.raises(OutputError):
        autoslim.slim("deit_tiny_patch16_224", "digits", "60%", method="vit_slim", output=tmp_path / "out")
    with pytest.raises(OutputError, match="holds a search already; give resume=True"):
        autoslim.run_search("deit_tiny_patch16_224", "digits", "60%", output=tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["job.json"]


def test_the_methods_settings_stand_in_the_docstring() -> None:
    for function in (autoslim.slim, autoslim.run_search):
        described = function.__doc__ or ""
        own = [
            name
            for name, parameter in inspect.signature(function).parameters.items()
            if name in inspect.unwrap(function).__annotations__ and name not in ("return", "settings")
        ]
        assert all(f"{name}:" in described for name in own), own
