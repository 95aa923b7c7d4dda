"""Videos that the tests of scoring share."""

import pytest
from clips import write_clips


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips"))
