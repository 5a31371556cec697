import logging
import socket
import threading
import time

import pytest
from helpers.sample_search import end, make_result

from autoslim.report.tracking import BackgroundSync, MlflowSync


def test_thread_follows_the_search_and_logs_the_rest_on_close(store, job, client):
    thread = BackgroundSync(MlflowSync(store, job.id), every=0.05).start()
    deadline = time.monotonic() + 20
    while (
        not (experiment := client.get_experiment_by_name("autoslim")) or len(client.search_runs([experiment.experiment_id])) < 5
    ):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    store.finish_trial(job.id, make_result(3))
    end(store, job.id)
    assert thread.close(timeout=20)
    runs = client.search_runs([experiment.experiment_id])
    assert "RUNNING" not in {run.info.status for run in runs}


def test_mlflow_that_is_down_is_reported_once_and_what_is_missing_stays_in_the_store(store, job, caplog):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        thread = BackgroundSync(MlflowSync(store, job.id, tracking_uri=uri), every=0.01, longest=0.05).start()
        time.sleep(0.5)
        assert not thread.close(timeout=20)
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING and record.name.startswith("autoslim")]
    kept = f"what could not be logged is kept in the store and logged later by `autoslim sync {job.output}`"
    assert kept in warning.getMessage()
    assert MlflowSync(store, job.id).sync() == 5


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.short
def test_recovery_is_logged(store, job, caplog, tmp_path):
    caplog.set_level(logging.INFO, logger="autoslim")
    # A file where MLflow wants a folder for its artifacts, until somebody moves it away.
    obstacle = tmp_path / "out" / "mlartifacts"
    obstacle.write_text("in the way")
    thread = BackgroundSync(MlflowSync(store, job.id), every=0.05, longest=0.1).start()
    deadline = time.monotonic() + 20
    while "kept in the store" not in caplog.text:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    obstacle.unlink()
    assert thread.close(timeout=20)
    assert "can be used again; everything is logged" in caplog.text


@pytest.mark.faults
@pytest.mark.timeout(60)
def test_server_that_never_answers_does_not_hold_up_the_end(store, job, caplog):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        mirror = MlflowSync(store, job.id, tracking_uri=f"http://127.0.0.1:{silent.getsockname()[1]}")
        thread = BackgroundSync(mirror, every=0.01).start()
        time.sleep(0.5)
        assert not thread.close(timeout=0.5)
    assert "kept in the store" in caplog.text


class BrokenMirror(MlflowSync):
    def sync(self):
        raise ZeroDivisionError("a mistake of ours")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_mistake_of_ours_is_told_and_not_taken_for_an_outage(store, job, monkeypatch, caplog):
    told = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_type))
    thread = BackgroundSync(BrokenMirror(store, job.id), every=0.01).start()
    assert not thread.close(timeout=20)
    assert told == [ZeroDivisionError]
    assert "kept in the store" not in caplog.text


def test_nothing_is_sent_when_nothing_has_changed(store, job):
    mirror = MlflowSync(store, job.id)
    mirror.sync()
    for _ in range(20):
        assert mirror.sync() == 0
