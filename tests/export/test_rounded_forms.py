"""Forms on request: eight bits and OpenVINO, each judged on labelled images by its own runtime."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers.tiny import CLASSES, config_of, images, make_dense, slim
from numpy.typing import NDArray

from autoslim.data import ImageSplit, PreparedDataset
from autoslim.errors import ExportError, MissingExtraError
from autoslim.export import export_folder
from autoslim.export.artifact import FormReport, SlimConfig, load, load_config, save
from autoslim.export.calibration_images import CalibrationImages
from autoslim.export.folder import FormTest, all_forms
from autoslim.export.in_subprocess import read_back
from autoslim.export.int8_form import FILE, SCHEMES, write
from autoslim.export.onnx_form import FORBIDDEN
from autoslim.report.card_forms import forms_section
from autoslim.report.finalize import forms_named
from autoslim.training.holdout import loader_for

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

METHODS = {
    "width": "deit",
    "vit_slim": "windows",
    "patch_slimming": "registers",
    "dps": "deit",
    "life_regression": "distilled",
    "sit": "deit",
    "merge": "deit",
}
"""A kind of model for each method."""


def made(folder: Path, method: str = "width", kind: str = "deit", **knobs: object) -> Path:
    dense = make_dense(kind)
    finished = slim(method, dense, knobs=knobs or None)
    save(folder, finished.model, config_of(method, dense, finished))
    return folder


def of_scale(scale: float = 1.0) -> CalibrationImages:
    return CalibrationImages(train_N3HW=scale * images(32, seed=5), validation_M3HW=images(64, seed=6))


def judged_by(config: SlimConfig, folder: Path, count: int = 48) -> FormTest:
    """Noise as test images, with the weights' own answers as labels: the weights are always right."""
    pixels = np.random.default_rng(3).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)

    def split(labels: NDArray[np.int64]) -> ImageSplit:
        return ImageSplit(labels, (32, 32), lambda chosen: pixels[chosen].copy())

    unlabelled = loader_for(config, split(np.zeros(count, np.int64)), batch_size=16)
    with torch.no_grad():
        answers = torch.cat([load(folder)(batch).argmax(1) for batch, _ in unlabelled.epoch(0)]).numpy()
    return FormTest(loader=loader_for(config, split(answers), batch_size=16), accuracy=1.0)


def exported(folder: Path, names: tuple[str, ...], calibration: CalibrationImages | None) -> dict[str, FormReport]:
    forms = {name: form for name, form in all_forms(calibration).items() if name in names}
    test = judged_by(load_config(folder), folder)
    return {report.name: report for report in export_folder(folder, images(4), forms=forms, test=test)}


@pytest.mark.slow
@pytest.mark.parametrize(("method", "kind"), METHODS.items())
def test_every_method_has_its_form_in_eight_bits_and_in_openvino(method: str, kind: str, tmp_path: Path):
    pytest.importorskip("openvino")
    forms = exported(made(tmp_path / "model", method, kind), ("onnx-int8", "openvino"), of_scale())
    assert forms["openvino"].file and forms["onnx-int8"].file, forms
    assert forms["openvino"].accuracy == 1.0
    assert forms["openvino"].difference is not None and forms["openvino"].difference < 1e-3
    assert forms["onnx-int8"].accuracy is not None and forms["onnx-int8"].accuracy > 0.8


def rounded(folder: Path, scheme: int) -> Path:
    return folder / f"{scheme}.onnx"


@pytest.fixture(scope="module")
def in_eight_bits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, FormReport]]:
    folder = made(tmp_path_factory.mktemp("int8") / "model", "merge")
    return folder, exported(folder, ("onnx", "onnx-int8"), of_scale())


@pytest.mark.slow
def test_eight_bits_are_judged_by_their_own_answers(in_eight_bits: tuple[Path, dict[str, FormReport]]):
    folder, forms = in_eight_bits
    assert forms["onnx"].accuracy == 1.0 and forms["onnx"].drop == 0.0
    report = forms["onnx-int8"]
    assert (report.file, report.reason, report.flops) == (FILE, "", None)
    assert report.accuracy is not None and 0.8 <= report.accuracy <= 1.0
    assert report.drop == pytest.approx(100 * (1 - report.accuracy))
    assert any(report.made.startswith(f"{scheme.name}, of {len(SCHEMES)} candidates") for scheme in SCHEMES)
    assert "ranges from 32 training images" in report.made
    assert (folder / FILE).stat().st_size < (folder / "model.onnx").stat().st_size


@pytest.mark.slow
def test_the_graph_has_eight_bits_where_it_says_so_and_nothing_that_runtimes_refuse(
    in_eight_bits: tuple[Path, dict[str, FormReport]],
):
    graph = onnx.load(in_eight_bits[0] / FILE).graph
    operators = {node.op_type for node in graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    assert not operators & set(FORBIDDEN)
    types = {initializer.name: initializer.data_type for initializer in graph.initializer}
    made_of = {node.output[0]: node for node in graph.node}
    for node in graph.node:
        # Norms read what a matrix product has computed in float, never a rounded tensor.
        if node.op_type in ("LayerNormalization", "Softmax"):
            assert made_of[node.input[0]].op_type != "DequantizeLinear"
    scales = [
        node for node in graph.node if node.op_type == "DequantizeLinear" and types.get(node.input[0]) == onnx.TensorProto.INT8
    ]
    shapes = {initializer.name: tuple(initializer.dims) for initializer in graph.initializer}
    assert scales and max(len(shapes[node.input[1]]) for node in scales) == 1


@pytest.mark.slow
def test_eight_bits_take_any_batch(in_eight_bits: tuple[Path, dict[str, FormReport]]):
    folder, _ = in_eight_bits
    ((single, batch),) = read_back("onnx-int8", folder / FILE, images(33)).outputs
    # Rounding may resolve a near tie between two levels in another way, and few of them do.
    assert float((single.argmax(1) == batch.argmax(1)).float().mean()) > 0.95
    torch.testing.assert_close(single, batch, rtol=0.0, atol=0.3 * float(batch.std()))


@pytest.mark.slow
def test_the_same_images_give_the_same_file(tmp_path: Path):
    folder = made(tmp_path / "model")
    config, model = load_config(folder), load(folder)
    for name in ("one", "two"):
        write(model, config, tmp_path / name, images=of_scale())
    feed = {"images": images(4).numpy()}
    first, second = (
        onnxruntime.InferenceSession(tmp_path / name, providers=["CPUExecutionProvider"]).run(None, feed)[0]
        for name in ("one", "two")
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_a_bad_calibration_is_handed_over_with_a_warning(tmp_path: Path):
    folder = made(tmp_path / "model")
    forms = exported(folder, ("onnx-int8",), of_scale(1e-3))
    report = forms["onnx-int8"]
    assert report.loses_too_much and report.drop is not None and report.drop > 10
    config = load_config(folder).replace(forms=(report,), accuracy={"test/slimmed": 1.0}, images={"compared": 4})
    assert f"**`{FILE}` loses {report.drop:.2f} points of top-1 on the test images (allowed: 0.5).**" in forms_section(config)


def test_what_is_as_much_as_allowed_is_not_too_much():
    report = FormReport(name="onnx", file="model.onnx", drop=0.5)
    assert not report.loses_too_much
    assert report.replace(drop=0.51).loses_too_much
    assert report.replace(drop=0.01, allowed_drop=0.0).loses_too_much
    assert not FormReport(name="onnx", file="model.onnx").loses_too_much


def test_a_report_without_an_accuracy_is_written_as_earlier_versions_read_it():
    written = FormReport(name="onnx", file="model.onnx", difference=0.0).to_dict()
    assert set(written) == {"name", "file", "reason", "difference", "flops"}


@pytest.mark.slow
def test_a_model_of_features_is_not_rounded_and_its_other_forms_are_made(tmp_path: Path):
    folder = made(tmp_path / "model")
    config = load_config(folder).replace(classes=())
    with pytest.raises(ExportError, match="a model of features has none"):
        write(load(folder), config, tmp_path / FILE, images=of_scale())


def test_without_openvino_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from autoslim.export.openvino_form import require

    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"the form openvino needs the package openvino, .*'autoslim\[openvino\]'"):
        require()


def test_a_search_makes_the_forms_that_it_is_asked_for_in_the_order_of_reports() -> None:
    dense, dataset = make_dense(), cast(PreparedDataset, None)
    config = config_of("merge", dense, slim("merge", dense))
    assert list(forms_named(("openvino", "onnx"), config, dataset, seed=0)) == ["onnx", "openvino"]
    assert forms_named((), config, dataset, seed=0) == {}


@pytest.mark.parametrize("scheme", [pytest.param(number, marks=pytest.mark.slow) for number in range(len(SCHEMES))])
def test_every_candidate_is_close_to_the_float_graph(scheme: int, tmp_path: Path):
    from autoslim.export import int8_form, onnx_form

    folder = made(tmp_path / "model")
    model, config = load(folder), load_config(folder)
    onnx_form.write(model, config, tmp_path / "model.onnx")
    int8_form.prepare(tmp_path / "model.onnx", tmp_path / "prepared.onnx")
    int8_form.quantize(tmp_path / "prepared.onnx", rounded(tmp_path, scheme), SCHEMES[scheme], images(32, seed=5))
    session = onnxruntime.InferenceSession(rounded(tmp_path, scheme), providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"images": images(32).numpy()})[0])
    with torch.no_grad():
        own = model(images(32))
    assert len(CLASSES) == found.shape[1]
    assert float((found - own).square().mean().sqrt()) < 0.15 * float(own.std())
