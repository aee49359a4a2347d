import pytest
from prefect.testing.utilities import prefect_test_harness


@pytest.fixture(scope="session")
def prefect():
    """A temporary Prefect server; one a session, because starting one takes a while."""
    with prefect_test_harness(server_startup_timeout=180):
        yield
