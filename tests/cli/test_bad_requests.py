"""What a user can get wrong: one line that says what, with which value and what is allowed; an exit code; nothing lost."""

from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.marks import CI_ONLY
from PIL import Image

from autoslim.cli import main

TINY = ["--model", "deit_tiny_patch16_224", "--image-size", "16"]
ARGS = ["--model-args", "patch_size=4,embed_dim=32,depth=4,num_heads=2"]
SCRATCH = [*TINY, *ARGS, "--from-scratch"]

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    def command(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["autoslim", *arguments])
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        code = end.value.code
        return int(code or 0), captured.out + captured.err

    return command


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--model", "deit_smal_patch16_224", "--data", "digits", "--flops", "50%"], 2, "did you mean deit_small_patch16_224"),
        (["--model", "cait_xxs24_224", "--data", "digits", "--flops", "50%"], 2, "Cait"),
        ([*SCRATCH, "--data", "digits", "--flops", "0"], 2, "above zero"),
        (
            [*SCRATCH, "--data", "digits", "--flops", "1.5"],
            2,
            r"budget '1\.5': 1\.5%\? As multiply-accumulates it is less than any model has",
        ),
        ([*SCRATCH, "--data", "digits", "--flops", "120%"], 2, "at most 100 %"),
        ([*SCRATCH, "--data", "digits", "--flops", "much"], 2, "allowed: multiply-accumulates such as 2.3G"),
        ([*SCRATCH, "--data", "digits", "--flops", "90G"], 3, "is within it already"),
        ([*SCRATCH, "--data", "digits", "--flops", "1%"], 3, "life_regression .* to .*, vit_slim .* to"),
        ([*SCRATCH, "--data", "digits"], 2, "--flops is needed"),
        (
            [*SCRATCH, "--data", "digits", "--flops", "50%", "--params", "1K"],
            3,
            "--params 1K: nothing .*; the least is .*vit_slim",
        ),
        ([*SCRATCH, "--data", "nowhere", "--flops", "50%"], 2, "'nowhere' does not exist; allowed"),
        (
            [*SCRATCH, "--data", "digits", "--flops", "50%", "--sampler", "genetic"],
            2,
            "allowed: forest, tpe, nsga2, nsga3, gp, random",
        ),
        ([*SCRATCH, "--data", "digits", "--flops", "50%", "--scheduler", "asha"], 2, "allowed: halving, median, none"),
        ([*SCRATCH, "--data", "digits", "--flops", "50%", "--space", "defualt"], 2, "default"),
        ([*SCRATCH, "--data", "digits", "--flops", "50%", "--trials", "0"], 2, "--trials is 0; allowed: 1 and more"),
        ([*SCRATCH, "--data", "digits", "--flops", "50%", "--epochs", "-1"], 2, "--epochs"),
        ([*SCRATCH, "--data", "digits", "--flops", "50%", "--resources", "tpu=1"], 2, "allowed: cpu, gpu"),
        ([*SCRATCH, "--data", "digits", "--flops", "50%", "--trials", "1000000000"], 2, "GB free; this search needs about"),
        pytest.param(
            [*SCRATCH, "--data", "digits", "--flops", "50%", "--address", "127.0.0.1:1"],
            4,
            "cannot reach Ray at 127.0.0.1:1",
            marks=CI_ONLY,
        ),
        ([*TINY, *ARGS, "--from-scratch", "--weights", "w.pth", "--data", "digits", "--flops", "50%"], 2, "exclude each other"),
        ([*TINY, *ARGS, "--weights", "w.safetensors", "--data", "digits", "--flops", "50%"], 2, "w.safetensors does not exist"),
        (
            [*TINY, "--from-scratch", "--data", "digits", "--flops", "50%", "--image-size", "50"],
            2,
            "not a multiple of the patch size",
        ),
        ([*TINY, "--from-scratch", "--model-args", "depht=3", "--data", "digits", "--flops", "50%"], 2, "depht"),
    ],
)
def test_mistakes_are_named_and_have_their_exit_code(run: Run, arguments: list[str], code: int, said: str) -> None:
    ended, text = run("search", *arguments, "--output", "out")
    assert ended == code, text
    assert re.search(said, text.replace("\n", " ")), text
    assert "Traceback" not in text


def test_a_pickle_with_code_in_it_is_refused_and_not_run(run: Run, tmp_path: Path) -> None:
    canary, file = tmp_path / "canary", tmp_path / "evil.pth"
    torch.save({"head.weight": _Evil(canary)}, file)
    code, text = run("search", *TINY, *ARGS, "--weights", str(file), "--data", "digits", "--flops", "50%", "--output", "out")
    assert code == 2
    assert "refused, not run" in text
    assert not canary.exists()


class _Evil:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.canary,)


def test_the_canary_would_have_sung(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(_Evil(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


@pytest.mark.slow
@pytest.mark.short
def test_weights_that_cannot_be_downloaded_are_named_with_what_to_give_instead(run: Run) -> None:
    code, text = run("plan", "--model", "vit_small_patch32_224", "--data", "digits", "--flops", "50%")
    assert code == 2
    assert "--weights FILE" in text
    assert "--from-scratch" in text


def _image_folder(root: Path, *, classes: tuple[str, ...], images: int) -> Path:
    for split in ("train", "test"):
        for number, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(images):
                Image.new("RGB", (16, 16), (number * 40, index * 5, 0)).save(folder / f"{index}.png")
    return root


def test_an_empty_class_is_named(run: Run, tmp_path: Path) -> None:
    data = _image_folder(tmp_path / "flowers", classes=("aster", "rose"), images=20)
    (data / "train" / "tulip").mkdir()
    (data / "test" / "tulip").mkdir()
    code, text = run("search", *SCRATCH, "--data", str(data), "--flops", "50%", "--output", "out")
    assert code == 2
    assert "tulip" in text


def test_too_many_corrupt_images_fail_the_job_and_are_named(run: Run, tmp_path: Path) -> None:
    data = _image_folder(tmp_path / "flowers", classes=("aster", "rose"), images=20)
    (data / "train" / "rose" / "3.png").write_bytes(b"not an image at all")
    code, text = run("search", *SCRATCH, "--data", str(data), "--flops", "50%", "--output", "out")
    assert code == 2
    assert "rose/3.png" in text


def test_an_unknown_knob_in_a_space_file_is_named_with_its_file(run: Run, tmp_path: Path) -> None:
    space = tmp_path / "mine.yaml"
    space.write_text("methods:\n  vit_slim:\n    kepe: {low: 0.1, high: 0.5}\n")
    code, text = run("search", *SCRATCH, "--data", "digits", "--flops", "50%", "--space", str(space), "--output", "out")
    assert code == 2
    assert "mine.yaml" in text
    assert "did you mean 'keep'" in text


def test_an_output_folder_that_cannot_be_written_is_refused_before_anything_runs(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, text = run("search", *SCRATCH, "--data", "digits", "--flops", "50%", "--output", "file/out")
    assert code == 2
    assert "cannot be written" in text


def test_a_second_search_does_not_overwrite_the_first(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "job.json").write_text("{}")
    code, text = run("search", *SCRATCH, "--data", "digits", "--flops", "50%", "--output", "out")
    assert code == 2
    assert "--resume" in text
    assert (tmp_path / "out" / "job.json").read_text() == "{}"


def test_plan_refuses_parameters_that_nothing_reaches_beside_a_budget_that_something_does(run: Run) -> None:
    code, text = run("plan", *SCRATCH, "--data", "digits", "--flops", "50%", "--params", "1K")
    assert code == 3
    assert re.search(
        r"--params 1K: nothing in the space 'default' can reach this; the least is .*vit_slim", text.replace("\n", " ")
    )


@pytest.mark.slow
@pytest.mark.short
def test_plan_names_what_each_method_reaches_and_trains_nothing(run: Run, tmp_path: Path) -> None:
    code, text = run("plan", *SCRATCH, "--data", "digits", "--flops", "50%", "--flops", "70%")
    assert code == 0, text
    for said in ("life_regression", "vit_slim", "cheapest", "costliest", "50%", "70%", "Time", "CPU hours", "GB in"):
        assert said in text
    assert not (tmp_path / "runs").exists()
