"""The driver's state in a store: another machine goes on with it, and one driver at a time works on it."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from helpers.sample_search import make_job, make_result

from autoslim.api.front import Front
from autoslim.core.folder_lock import FolderLock, FolderUse
from autoslim.core.job import SearchJob
from autoslim.core.result import EpochReport, Phase
from autoslim.core.run_folder import RunFolder
from autoslim.core.urls import default_url
from autoslim.errors import OutputError
from autoslim.storage import mirror
from autoslim.storage.lease import StorageLease
from autoslim.storage.mirror import Mirror
from autoslim.store import Store
from workers.search.kept_output import kept_output, read_job, read_kept_job, viewed_folder


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return (tmp_path / "store" / "run").as_uri()


@pytest.fixture
def on_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """This process as one of several machines, by their names."""

    def on_machine(name: str) -> None:
        monkeypatch.setenv("AUTOSLIM_CACHE", str(tmp_path / name))

    on_machine("first")
    return on_machine


def job_at(uri: str) -> SearchJob:
    return make_job(str(Mirror.of(uri).root), output_uri=uri)


def run_trial(job: SearchJob, number: int, *, resume: bool) -> None:
    """A driver that runs one trial and is killed, but for its lease."""
    with FolderLock(Path(job.output), FolderUse.SEARCH), kept_output(job, resume=resume) as kept:
        RunFolder(Path(job.output)).write_job(job)
        with Store(default_url(job.output)) as store:
            if not store.has_job(job.id):
                store.create_job(job)
            result = make_result(number)
            store.add_ended_trial(job.id, result, target="50%")
            kept.on_trial_end(result, "50%")


def trials(job: SearchJob) -> list[int]:
    with Store(default_url(job.output)) as store:
        return [result.number for result in store.trials(job.id)]


def test_another_machine_goes_on_with_what_the_first_one_has_stored(uri: str, on_machine) -> None:
    run_trial(job_at(uri), 0, resume=False)
    on_machine("second")
    run_trial(read_kept_job(uri), 1, resume=True)
    on_machine("first")
    # Its own folder has the state from before the second machine worked.
    job = read_kept_job(uri)
    assert trials(job) == [0]
    run_trial(job, 2, resume=True)
    assert trials(job) == [0, 1, 2]


def test_a_machine_that_has_worked_last_keeps_what_did_not_reach_the_store(uri: str, on_machine) -> None:
    job = job_at(uri)
    run_trial(job, 0, resume=False)
    with Store(default_url(job.output)) as store:
        store.add_ended_trial(job.id, make_result(1), target="50%")
    run_trial(job, 2, resume=True)
    assert trials(job) == [0, 1, 2]


def test_the_front_is_read_without_disturbing_the_driver(uri: str, on_machine) -> None:
    job = job_at(uri)
    run_trial(job, 0, resume=False)
    (Mirror.of(uri).root / "models" / "50%").mkdir(parents=True)
    (Mirror.of(uri).root / "models" / "50%" / "config.json").write_text("{}")
    Mirror.of(uri).publish(Mirror.of(uri).root / "models" / "50%", last="config.json")
    assert viewed_folder(uri) == Mirror.of(uri).root
    on_machine("reader")
    front = Front.open(uri)
    assert [trial.number for trial in front.trials] == [0]
    assert front.folder is not None and (front.folder / "models" / "50%" / "config.json").is_file()
    assert not Mirror.of(uri).root.exists()
    assert viewed_folder(uri) != front.folder, "one command takes nothing away that another one reads"


def test_reports_of_epochs_reach_the_store_too(uri: str, on_machine) -> None:
    job = job_at(uri)
    with FolderLock(Path(job.output), FolderUse.SEARCH), kept_output(job, resume=False) as kept:
        RunFolder(Path(job.output)).write_job(job)
        with Store(default_url(job.output)) as store:
            store.create_job(job)
            kept.on_epoch_end(make_result(0), EpochReport(epoch=1.0, phase=Phase.FINETUNE, metrics={}))
    on_machine("reader")
    assert len(Front.open(uri)) == 0


def test_a_second_driver_is_refused_while_the_first_one_works(uri: str, on_machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "StorageLease", functools.partial(StorageLease, heartbeat=0.05))
    job = job_at(uri)
    with kept_output(job, resume=False) as kept:
        RunFolder(Path(job.output)).write_job(job)
        kept.keep()
        on_machine("second")
        with pytest.raises(OutputError, match="another autoslim search is running there"), kept_output(job, resume=True):
            pass


def test_an_output_that_holds_a_search_is_not_begun_anew_and_one_without_is_not_resumed(uri: str, on_machine) -> None:
    with pytest.raises(OutputError, match="holds no search"):
        read_kept_job(uri)
    with pytest.raises(OutputError, match="holds no search"), kept_output(job_at(uri), resume=True):
        pass
    run_trial(job_at(uri), 0, resume=False)
    with pytest.raises(OutputError, match=r"holds a search already; add --resume"), kept_output(job_at(uri), resume=False):
        pass


def test_what_is_left_here_of_an_output_that_was_deleted_is_forgotten(uri: str, on_machine) -> None:
    job = job_at(uri)
    run_trial(job, 0, resume=False)
    for path in sorted(Path(Mirror.of(uri).uri.path).rglob("*"), reverse=True):  # type: ignore[union-attr]
        path.unlink() if path.is_file() else path.rmdir()
    run_trial(job, 1, resume=False)
    assert trials(job) == [1]


def test_without_a_uri_nothing_is_kept_elsewhere(tmp_path: Path) -> None:
    with kept_output(make_job(str(tmp_path)), resume=False) as kept:
        kept.keep()
        kept.on_trial_end(make_result(0), "50%")
        assert kept.mirror.uri is None
    assert list(tmp_path.iterdir()) == []


def test_a_part_of_an_output_at_a_uri_is_not_resumed_as_a_folder(uri: str, on_machine) -> None:
    job = job_at(uri)
    run_trial(job, 0, resume=False)
    with pytest.raises(OutputError, match=f"has a part of the search at {uri}"):
        read_job(Path(job.output), None)
