"""A server around the toy model, in this process."""

import pytest
from fastapi.testclient import TestClient

from sealr.serving.follower import Follower, ServerOptions
from sealr.serving.server import create_app


@pytest.fixture
def in_a_server(monkeypatch):
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")


@pytest.fixture(scope="session")
def follower(model_folder):
    follower = Follower(ServerOptions(model=str(model_folder)))
    follower.update()
    return follower


@pytest.fixture
def client(follower, in_a_server):
    with TestClient(create_app(ServerOptions(), follower), raise_server_exceptions=False) as client:
        yield client
