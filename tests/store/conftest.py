import pytest

from autoslim.core.urls import default_url
from autoslim.store import Store


@pytest.fixture
def store(tmp_path):
    with Store(default_url(tmp_path)) as store:
        yield store
