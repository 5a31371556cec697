"""`search`, `slim` and `serve` refuse each other's folders, and a folder that another process works in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from autoslim.core.folder_lock import FolderLock, FolderUse

Command = Callable[..., tuple[int, str, str]]
MODEL = ["--model", "deit_tiny_patch16_224", "--from-scratch", "--image-size", "16", "--data", "digits", "--flops", "50%"]
MODEL += ["--model-args", "patch_size=4,embed_dim=32,depth=4,num_heads=2"]
COMMANDS = {
    FolderUse.SEARCH: ["search", *MODEL, "--output"],
    FolderUse.SLIM: ["slim", *MODEL, "--method", "vit_slim", "--output"],
    FolderUse.REPRODUCE: ["reproduce", "elsewhere", "--output"],
    FolderUse.SERVE: ["serve", "--no-supervisor", "--port", "0", "--root"],
}
MARKS = {
    FolderUse.SEARCH: "job.json",
    FolderUse.SLIM: "slim.json",
    FolderUse.REPRODUCE: "reproduce.json",
    FolderUse.SERVE: "service",
}


@pytest.mark.parametrize(("use", "other"), [(use, other) for use in FolderUse for other in FolderUse if use is not other])
def test_a_folder_of_another_command_is_refused_and_left_as_it_is(
    autoslim: Command, tmp_path: Path, use: FolderUse, other: FolderUse
):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / MARKS[use]).touch()
    code, _, err = autoslim(*COMMANDS[other], str(folder))
    assert code == 2, err
    assert f"is the folder of an autoslim {use}; choose another folder for autoslim {other}" in err
    assert [path.name for path in folder.iterdir()] == [MARKS[use]]


@pytest.mark.parametrize("use", [FolderUse.SEARCH, FolderUse.SLIM])
def test_a_folder_that_another_process_works_in_is_refused(autoslim: Command, tmp_path: Path, use: FolderUse):
    with FolderLock(tmp_path / "out", use):
        code, _, err = autoslim(*COMMANDS[use], str(tmp_path / "out"))
    assert code == 2, err
    assert f"another autoslim {use} is running there; wait for its end or choose another folder" in err
