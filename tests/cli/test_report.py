"""`autoslim report`: writes the report of a search from its folder."""

from __future__ import annotations

import json

import pytest
from helpers.html_page import section
from helpers.sample_search import end, fill, make_job

from autoslim.core.run_folder import RunFolder
from autoslim.core.urls import default_url
from autoslim.store import JobState, Store


@pytest.fixture
def stopped(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.root.mkdir()
    job = make_job(str(folder.root))
    folder.write_job(job)
    with Store(default_url(folder.root)) as store:
        fill(store, job)
        end(store, job.id, JobState.STOPPED)
    return folder


def test_a_stopped_search_has_a_report(autoslim, stopped):
    code, out, err = autoslim("report", "run")
    assert (code, out.strip()) == (0, str(stopped.report)), err
    text = stopped.report.read_text()
    assert "it is stopped." in text
    assert "none was delivered" in section(text, "budgets")


def test_programs_get_the_file(autoslim, stopped):
    code, out, err = autoslim("report", "run", "--json")
    assert code == 0, err
    assert json.loads(out) == {"file": str(stopped.report), "failed": {}}


def test_a_folder_that_moved_is_read_where_it_is(autoslim, stopped, tmp_path):
    stopped.root.rename(tmp_path / "elsewhere")
    code, out, err = autoslim("report", "elsewhere")
    assert code == 0, err
    assert out.strip() == str(tmp_path / "elsewhere" / "report.html")


def test_a_section_that_cannot_be_drawn_is_named(autoslim, stopped):
    with Store(default_url(stopped.root)) as store:
        store.set_chosen("digits-1", {"50%": 99})
    code, out, err = autoslim("report", "run", "--json")
    assert (code, json.loads(out)["failed"]) == (0, {}), err
    stopped.environment.write_text('{"versions": {}, "resources": {"cpu": 1}, "dataset": "gone"}')
    code, _, err = autoslim("report", "run")
    assert code == 0, err
    assert "cannot be read" in section(stopped.report.read_text(), "budgets")


def test_what_is_no_search_is_refused(autoslim):
    code, _, err = autoslim("report", "elsewhere")
    assert (code, "holds no search" in err) == (2, True)
