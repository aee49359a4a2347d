"""A small job: a toy LLM and a toy labeller for speed, everything else real."""

import os

import pytest
import yaml

from tests.e2e.jobs import BIN, environment, free_port, serve


@pytest.fixture(scope="module")
def project(tmp_path_factory, toy_llama, toy_labeller):
    """A folder with the configuration of a small job, and the environment that keeps all state in it."""
    folder = tmp_path_factory.mktemp("project")
    data = {
        "data": {"name": "tiny", "source": "demo", "demo_users": 40, "category": "beauty products"},
        "label": {"model": str(toy_labeller), "cache": False},
        "retrieve": {"hidden": 16, "epochs": 30, "eval_every": 1, "patience": 30, "n_retrieved": 20, "dropout": 0.1},
        "evaluate": {"users": 12, "valid_users": 12},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(data))
    base = {
        "rerank": {
            "base": str(toy_llama),
            "finetune_share": 0.5,
            "n_reranked": 12,
            "max_history": 4,
            "epochs": 2,
            "lr": 0.01,
        }
    }
    (folder / "toy.yaml").write_text(yaml.safe_dump(base))
    return folder


@pytest.fixture(scope="module")
def prefect_server(project):
    """A real Prefect server, as a team would run it."""
    port = free_port()
    env = environment(project) | {"PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    arguments = [str(BIN / "prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    for _ in serve(arguments, f"http://127.0.0.1:{port}/api/health", project / "prefect.log", env, project):
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
        yield
        del os.environ["PREFECT_API_URL"]
