"""An output folder: what is found in it holds until the mark is written, whichever commands begin in it at the same moment."""

from __future__ import annotations

import subprocess
import sys

import pytest

from autoslim.core.folder_lock import FolderLock, FolderUse, mark_as_service_folder, used_for
from autoslim.errors import OutputError

MARKS = {
    FolderUse.SEARCH: "job.json",
    FolderUse.SLIM: "slim.json",
    FolderUse.SERVE: "service",
    FolderUse.REPRODUCE: "reproduce.json",
}
BEGIN = """
import sys, time
from pathlib import Path
from autoslim.core.folder_lock import FolderLock, FolderUse
from autoslim.errors import OutputError
root, use, mark = Path(sys.argv[1]), FolderUse(sys.argv[2]), sys.argv[3]
print("ready", flush=True)
sys.stdin.readline()
try:
    with FolderLock(root, use):
        if (root / mark).exists():
            raise OutputError("holds one already")
        time.sleep(0.2)
        (root / mark).write_text("mine")
        print("began")
except OutputError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize("use", FolderUse)
def test_a_folder_of_one_command_is_refused_to_the_others(tmp_path, use):
    with FolderLock(tmp_path, use):
        (tmp_path / MARKS[use]).touch()
    for other in FolderUse:
        if other is use:
            with FolderLock(tmp_path, other):
                continue
        with pytest.raises(OutputError, match=f"is the folder of an autoslim {use}; choose another folder for autoslim {other}"):
            FolderLock(tmp_path, other).__enter__()
    assert used_for(tmp_path) is use


def test_of_many_that_begin_at_once_one_does_and_the_others_say_why(tmp_path):
    root = tmp_path / "out"
    commands = [(use, mark) for use, mark in MARKS.items() for _ in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BEGIN, str(root), use.value, mark], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for use, mark in commands
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert sum(line == "began" for line in said) == 1
    assert sum(line.startswith("refused:") for line in said) == len(commands) - 1
    assert sum((root / mark).exists() for mark in MARKS.values()) == 1


def test_a_folder_whose_process_was_killed_is_free_again(tmp_path):
    code = (
        "import time; from pathlib import Path; from autoslim.core.folder_lock import FolderLock, FolderUse\n"
        f"with FolderLock(Path({str(tmp_path)!r}), FolderUse.SLIM):\n    print('held', flush=True)\n    time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(
            OutputError, match="another autoslim search is running there; wait for its end or choose another folder"
        ):
            FolderLock(tmp_path, FolderUse.SEARCH).__enter__()
        process.kill()
    with FolderLock(tmp_path, FolderUse.SEARCH):
        assert used_for(tmp_path) is None


def test_a_services_folder_is_marked_once_and_shared(tmp_path):
    mark_as_service_folder(tmp_path)
    mark_as_service_folder(tmp_path)
    assert used_for(tmp_path) is FolderUse.SERVE
    with pytest.raises(OutputError, match="is the folder of an autoslim serve"):
        FolderLock(tmp_path, FolderUse.SEARCH).__enter__()


def test_a_services_folder_of_an_earlier_version_is_known_by_its_jobs(tmp_path):
    (tmp_path / "jobs").mkdir()
    with pytest.raises(OutputError, match="is the folder of an autoslim serve"):
        FolderLock(tmp_path, FolderUse.SLIM).__enter__()
    mark_as_service_folder(tmp_path)
    assert (tmp_path / "service").is_file()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        FolderLock(tmp_path / "file" / "out", FolderUse.SEARCH).__enter__()
