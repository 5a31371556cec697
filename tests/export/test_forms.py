"""The forms of a slimmed model: read back without autoslim, the same logits, the same FLOPs, nothing that runtimes refuse."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers.marks import CI_ONLY
from helpers.tiny import config_of, images, make_dense, slim
from PIL import Image

import autoslim
from autoslim.cost import count_flops
from autoslim.data.augment import centre_crop
from autoslim.data.decode import decode_rgb, fit, storage_size
from autoslim.data.sample import Sample
from autoslim.errors import DatasetError, ExportError
from autoslim.export import export_folder, write_checksums
from autoslim.export import folder as folder_module
from autoslim.export.artifact import FormReport, SlimConfig, load, load_config, save
from autoslim.export.in_subprocess import read_back
from autoslim.export.onnx_flops import count_onnx_flops
from autoslim.export.onnx_form import FORBIDDEN
from autoslim.export.timm_form import timm_architecture

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

METHODS = {
    "vit_slim": {},
    "patch_slimming": {},
    "dps": {},
    "dps, adaptive": {"adaptive": True},
    "life_regression": {},
    "life_regression, threshold": {"mode": "threshold"},
    "sit": {},
}
FAMILIES = ("vit", "distilled", "registers", "average without class token")
MATRIX = [(case, family) for case in METHODS for family in FAMILIES if not (family.startswith("average") and "," in case)]
MATRIX += [("vit_slim", family) for family in ("windows", "windows and norms behind")]
IN_CI = (("vit_slim", "vit"),)


def made(tmp_path: Path, case: str, family: str = "vit") -> Path:
    method = case.partition(",")[0]
    dense = make_dense(family)
    finished = slim(method, dense, share=0.6, knobs=METHODS[case])
    folder = tmp_path / "model"
    save(folder, finished.model, config_of(method, dense, finished))
    return folder


def by_name(reports: tuple[FormReport, ...]) -> dict[str, FormReport]:
    return {report.name: report for report in reports}


@pytest.fixture(scope="module")
def in_all_forms(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], tuple[Path, dict[str, FormReport]]]:
    """A case's folder with its forms, and what was said of them; made once."""

    @functools.cache
    def of(case: str, family: str) -> tuple[Path, dict[str, FormReport]]:
        folder = made(tmp_path_factory.mktemp("matrix"), case, family)
        return folder, by_name(export_folder(folder, images(4)))

    return of


def of_constants(config: SlimConfig) -> int:
    """What positions cost that an MLP makes of the windows' size alone: the exporter computes the smaller tensors among them once.

    0 in any other model.
    """
    blocks = zip(config.shape.blocks, config.plan.blocks, strict=True)
    return sum(block.heads * own.head_matmuls + own.shared_matmuls for own, block in blocks if block.heads)


@pytest.mark.parametrize(
    ("case", "family"), [pytest.param(*one, marks=CI_ONLY if one in IN_CI else pytest.mark.slow) for one in MATRIX]
)
def test_every_form_says_what_the_model_says(case: str, family: str, in_all_forms: Callable):
    folder, forms = in_all_forms(case, family)
    assert forms["onnx"].file == "model.onnx" and forms["pt2"].file == "model.pt2"
    for form in (forms["onnx"], forms["pt2"]):
        assert (folder / form.file).is_file()
        assert form.difference is not None and form.difference < 1e-4
    counted = count_flops(load(folder), 32)
    assert forms["onnx"].flops is not None
    assert counted - of_constants(load_config(folder)) <= forms["onnx"].flops <= counted
    operators = {node.op_type for node in onnx.load(folder / "model.onnx").graph.node}
    assert not operators & set(FORBIDDEN)
    assert forms["timm"].reason and not (folder / "timm").exists()


CLEAN = """
import json, sys
for name in ("autoslim", "timm", "fvcore", "torchvision"):
    sys.modules[name] = None
import numpy as np, onnxruntime, torch
images = np.load("images.npy")
for place, folder in enumerate(json.load(open("folders.json"))):
    session = onnxruntime.InferenceSession(folder + "/model.onnx", providers=["CPUExecutionProvider"])
    program = torch.export.load(folder + "/model.pt2").module()
    with torch.inference_mode():
        torch_logits = program(torch.from_numpy(images)).numpy()
    np.savez(f"{place}.npz", onnx=session.run(None, {"images": images})[0], pt2=torch_logits)
"""


@pytest.mark.slow
def test_one_clean_process_loads_the_whole_matrix(in_all_forms: Callable, tmp_path: Path):
    folders = [in_all_forms(case, family)[0] for case, family in MATRIX]
    batch = images(5)
    np.save(tmp_path / "images.npy", batch.numpy())
    (tmp_path / "folders.json").write_text(json.dumps([str(folder) for folder in folders]))
    subprocess.run([sys.executable, "-P", "-c", CLEAN], cwd=tmp_path, check=True)
    for place, folder in enumerate(folders):
        expected = load(folder)(batch).detach().numpy()
        with np.load(tmp_path / f"{place}.npz") as found:
            np.testing.assert_allclose(found["onnx"], expected, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(found["pt2"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_batch_is_anyones_choice(in_all_forms: Callable):
    folder, _ = in_all_forms("vit_slim", "vit")
    expected = load(folder)(images(33)).detach()
    for form, file in (("onnx", "model.onnx"), ("pt2", "model.pt2")):
        (logits,) = read_back(form, folder / file, images(33)).outputs
        for found in logits:
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


# What timm can say.


def evenly_cut(tmp_path: Path, hidden: int = 40) -> Path:
    """MLPs of one width, everything else as it was."""
    dense = make_dense()
    finished = slim("vit_slim", dense, share=0.95, knobs={"attention_give": 0.5, "patches": "stay"})
    plan = finished.plan.replace(
        blocks=tuple(
            block.replace(heads=dense.shape.heads, head_width=dense.shape.head_width, hidden=hidden)
            for block in finished.plan.blocks
        )
    )
    config = config_of("vit_slim", dense, finished).replace(plan=plan)
    folder = tmp_path / "even"
    torch.manual_seed(0)
    model = config.build()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    save(folder, model, config)
    return folder


@pytest.mark.slow
@pytest.mark.short
def test_a_model_that_timm_can_say_loads_with_timm_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = evenly_cut(tmp_path)
    monkeypatch.setattr(folder_module, "FORMS", {"timm": folder_module.FORMS["timm"]})
    form = by_name(export_folder(folder, images(4)))["timm"]
    assert (form.file, form.reason) == ("timm", "")
    assert form.difference is not None and form.difference < 1e-4
    written = json.loads((folder / "timm" / "config.json").read_text())
    assert int(48 * written["model_args"]["mlp_ratio"]) == 40


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda block: block.replace(hidden=39), "one MLP width for all blocks; block 2 has 39, block 0 40"),
        (lambda block: block.replace(head_width=8), "block 2 has 3 heads of 8"),
        (lambda block: block.replace(tokens_q=1, tokens_mlp=1), "every token in every block; block 2 has 1 of"),
    ],
)
def test_what_timm_cannot_say_is_told(change: Callable, reason: str, tmp_path: Path):
    config = load_config(evenly_cut(tmp_path))
    blocks = [*config.plan.blocks]
    blocks[2] = change(blocks[2])
    with pytest.raises(ExportError, match=reason):
        timm_architecture(config.replace(plan=config.plan.replace(blocks=tuple(blocks))))


# What goes wrong.


def writing(monkeypatch: pytest.MonkeyPatch, write: Callable) -> None:
    monkeypatch.setattr(folder_module, "FORMS", {"pt2": ("model.pt2", write)})


def test_a_form_that_cannot_be_made_is_told_and_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fails(model: torch.nn.Module, config: SlimConfig, path: Path) -> None:
        path.write_text("half of it")
        raise RuntimeError("the exporter\ndoes not like it")

    folder = made(tmp_path, "vit_slim")
    writing(monkeypatch, fails)
    (form,) = export_folder(folder, images(2))
    assert form == FormReport(name="pt2", reason="RuntimeError: the exporter")
    assert not (folder / "model.pt2").exists()


@pytest.mark.slow
def test_a_form_that_says_something_else_is_not_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_all_forms: Callable
):
    original, _ = in_all_forms("vit_slim", "vit")

    def another(model: torch.nn.Module, config: SlimConfig, path: Path) -> None:
        shutil.copy(original / "model.pt2", path)

    model, folder = load(original), tmp_path / "model"
    with torch.no_grad():
        model.head.bias[0] += 1.0
    save(folder, model, load_config(original))
    writing(monkeypatch, another)
    (form,) = export_folder(folder, images(2))
    assert "its logits match the model's in 0 of 2 images; the largest difference is 1" in form.reason
    assert not (folder / "model.pt2").exists()


@pytest.mark.slow
def test_a_form_that_cannot_be_read_is_told_with_what_the_process_said(tmp_path: Path):
    with pytest.raises(ExportError, match=r"cannot be read in a clean process: \w+"):
        read_back("timm", tmp_path / "nothing", images(2))


@pytest.mark.parametrize("blocked", ["autoslim", "timm", "torchvision", "workers"])
def test_the_clean_process_bars_what_a_form_must_do_without(blocked: str, tmp_path: Path):
    import autoslim.export

    script = Path(autoslim.export.__file__).parent / "standalone" / "read_back.py"
    spy = tmp_path / "spy.py"
    spy.write_text(script.read_text().replace("import numpy as np", f"import {blocked}\nimport numpy as np", 1))
    run = subprocess.run([sys.executable, "-P", spy, "pt2", "a", "b", "c"], capture_output=True, text=True, check=False)
    assert f"ImportError: {blocked} is blocked: the form pt2 must load without it" in run.stderr


def test_an_operator_without_a_price_is_refused(tmp_path: Path):
    node = onnx.helper.make_node("Einsum", ["images"], ["logits"], equation="bchw->bc")
    of = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "graph",
        [of("images", onnx.TensorProto.FLOAT, [1, 3, 4, 4])],
        [of("logits", onnx.TensorProto.FLOAT, [1, 3])],
    )
    onnx.save(onnx.helper.make_model(graph), tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="no price is known for Einsum"):
        count_onnx_flops(tmp_path / "model.onnx", torch.zeros(1, 3, 4, 4))


# What lies beside the forms.


def pictures(folder: Path) -> dict[str, Path]:
    """Every kind of image, by its name."""
    draw = np.random.default_rng(0)
    colours = draw.integers(0, 256, (45, 61, 4), dtype=np.uint8)
    grey = draw.integers(0, 65536, (45, 61), dtype=np.uint16)
    rgb, turned = Image.fromarray(colours[..., :3]), Image.Exif()
    turned[0x0112] = 6
    palette = rgb.quantize(16)
    made: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "rgb.png": (rgb, {}),
        "rgba.png": (Image.fromarray(colours), {}),
        "grey.png": (rgb.convert("L"), {}),
        "grey-clear.png": (rgb.convert("L"), {"transparency": int(colours[0, 0, 0])}),
        "grey-alpha.png": (Image.fromarray(colours).convert("LA"), {}),
        "grey16.png": (Image.fromarray(grey), {}),
        "grey16-clear.png": (Image.fromarray(grey), {"transparency": int(grey[3, 4])}),
        "grey16-turned.png": (Image.fromarray(grey), {"exif": turned}),
        "grey16.tif": (Image.fromarray(grey), {}),
        "bits.png": (rgb.convert("1"), {}),
        "palette.png": (palette, {}),
        "palette-clear.png": (palette, {"transparency": 3}),
        "palette-clear.gif": (palette, {"transparency": 3}),
        "turned.jpg": (rgb, {"exif": turned}),
        "turned.png": (Image.fromarray(colours), {"exif": turned}),
        "turned.webp": (rgb, {"exif": turned, "lossless": True}),
        "cmyk.jpg": (rgb.convert("CMYK"), {}),
        "cmyk-turned.tiff": (rgb.convert("CMYK"), {"exif": turned}),
        "rgb.jfif": (rgb, {"format": "JPEG"}),
        "rgb.bmp": (rgb, {}),
    }
    for name, (image, options) in made.items():
        image.save(folder / name, **options)
    return {name: folder / name for name in made}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = made(tmp_path_factory.mktemp("exported"), "vit_slim")
    config = load_config(folder)
    save(folder, load(folder), config.replace(preprocessing=config.preprocessing.replace(crop_pct=0.875)))
    with pytest.MonkeyPatch.context() as only:
        only.setattr(folder_module, "FORMS", {"onnx": folder_module.FORMS["onnx"]})
        export_folder(folder, images(2))
    return folder


@pytest.mark.slow
@pytest.mark.short
def test_every_kind_of_image_is_the_same_to_the_bit_wherever_it_is_read(exported: Path, tmp_path: Path):
    config = load_config(exported)
    handed_over = runpy.run_path(str(exported / "load.py"))
    for name, path in pictures(tmp_path).items():
        (trained,) = centre_crop(fit(decode_rgb(path.read_bytes()), storage_size((32, 32), 0.875))[None], (32, 32))
        assert np.array_equal(handed_over["read"](path), trained), name
        sample = Sample(pixels=trained[None], labels=np.zeros(1, np.int64), classes=config.classes)
        batch = sample.tensor(mean=config.preprocessing.mean, std=config.preprocessing.std)
        assert torch.equal(autoslim.read_images([path], config), batch), name


@pytest.mark.parametrize(
    ("size", "crop_pct"), [((64, 64), 0.9), ((224, 224), 0.9), ((27, 27), 0.9), ((48, 32), 0.875), ((30, 30), 0.95)]
)
def test_load_py_resizes_as_training_does_where_rounding_bites(size, crop_pct, tmp_path: Path):
    config = {"preprocessing": {"crop_pct": crop_pct}, "shape": {"image_size": size}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shutil.copy(Path(autoslim.__file__).parent / "export" / "standalone" / "load.py", tmp_path)
    read = runpy.run_path(str(tmp_path / "load.py"))["read"]
    generator = np.random.default_rng(0)
    for height, width in generator.integers(5, 300, (12, 2)).tolist():
        path = tmp_path / "image.png"
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        (trained,) = centre_crop(fit(decode_rgb(path.read_bytes()), storage_size(size, crop_pct))[None], size)
        assert np.array_equal(read(path), trained), (height, width)


@pytest.mark.slow
@pytest.mark.short
def test_an_image_that_cannot_be_read_is_named(exported: Path, tmp_path: Path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DatasetError, match=r"text\.png: not an image; allowed: PNG"):
        autoslim.read_images([tmp_path / "text.png"], load_config(exported))


@pytest.mark.slow
@pytest.mark.short
def test_load_py_classifies_as_the_loaders_images_are_classified(exported: Path, tmp_path: Path):
    config = load_config(exported)
    made = pictures(tmp_path)
    names = ["rgb.png", "rgba.png", "grey16-clear.png", "turned.jpg"]
    logits = load(exported)(autoslim.read_images([made[name] for name in names], config)).detach()
    unread = [tmp_path / "none.png", exported / "load.py"]
    run = subprocess.run(
        [sys.executable, "-P", exported / "load.py", *unread, *(made[name] for name in names)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert run.returncode == 1
    assert [line.partition(" cannot be read: ")[0] for line in run.stderr.splitlines()] == [str(path) for path in unread]
    for name, row, line in zip(names, logits, run.stdout.splitlines(), strict=True):
        best = int(row.argmax())
        assert line.startswith(f"{made[name]}: {config.classes[best]} {row.softmax(0)[best]:.1%}, ")


@pytest.mark.slow
@pytest.mark.short
def test_a_graph_that_cannot_be_counted_is_handed_over_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuses(path: Path, image: torch.Tensor) -> int:
        raise ExportError("no price is known for Einsum")

    folder = made(tmp_path, "vit_slim")
    monkeypatch.setattr(folder_module, "FORMS", {"onnx": folder_module.FORMS["onnx"]})
    monkeypatch.setattr(folder_module, "count_onnx_flops", refuses)
    (form,) = export_folder(folder, images(2))
    assert (form.file, form.flops, form.reason) == ("model.onnx", None, "no price is known for Einsum")
    assert (folder / "load.py").is_file()


def test_a_full_disk_is_no_reason_but_an_error_and_without_a_graph_there_is_no_load_py(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(model: torch.nn.Module, config: SlimConfig, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = made(tmp_path, "vit_slim")
    (folder / "load.py").write_text("an earlier one")
    writing(monkeypatch, full)
    with pytest.raises(OSError, match="No space left"):
        export_folder(folder, images(2))
    monkeypatch.setattr(folder_module, "FORMS", {})
    assert export_folder(folder, images(2)) == ()
    assert not (folder / "load.py").exists()


def test_checksums_name_every_file_and_sha256sum_agrees(tmp_path: Path):
    (tmp_path / "timm").mkdir()
    for name in ("config.json", "timm/config.json", "model.safetensors"):
        (tmp_path / name).write_text(name)
    write_checksums(tmp_path)
    write_checksums(tmp_path)
    lines = dict(reversed(line.split("  ")) for line in (tmp_path / "SHA256SUMS").read_text().splitlines())
    assert lines == {
        name: hashlib.sha256(name.encode()).hexdigest() for name in ("config.json", "model.safetensors", "timm/config.json")
    }
    assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=False).returncode == 0
