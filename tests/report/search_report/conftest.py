"""A search with one delivered model, and its report, for tests that only look at them."""

from __future__ import annotations

import pytest
from helpers.searched_folder import SearchedFolder

from autoslim.report.search_report import read_content, render_report
from autoslim.report.search_report.content import SearchContent


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> SearchedFolder:
    folder = SearchedFolder(tmp_path_factory.mktemp("searched"))
    folder.search()
    folder.deliver()
    return folder


@pytest.fixture(scope="session")
def content(searched: SearchedFolder) -> SearchContent:
    with searched.store() as store:
        return read_content(searched.output, store, searched.job.id, cost="0.1 CPU hours; 0.2 GB")


@pytest.fixture(scope="session")
def report(content: SearchContent) -> str:
    rendered = render_report(content)
    assert rendered.failed == {}
    return rendered.html
