import sys
from pathlib import Path

# `sample_search` lies one folder up, for the tests of three folders.
sys.path.append(str(Path(__file__).parents[1]))

import pytest

from autoslim.store import Store, default_url


@pytest.fixture
def store(tmp_path):
    with Store(default_url(tmp_path)) as store:
        yield store
