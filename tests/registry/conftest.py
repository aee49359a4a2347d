import pytest

from tests.serving.toy_model import toy_parts, toy_pyfunc


@pytest.fixture(scope="session")
def parts(tmp_path_factory, toy_llama, toy_labeller):
    return toy_parts(tmp_path_factory.mktemp("parts"), toy_llama, toy_labeller)


@pytest.fixture(scope="session")
def model_folder(parts, tmp_path_factory):
    """An MLflow model that ranks with a toy LLM."""
    return toy_pyfunc(parts, tmp_path_factory.mktemp("pyfunc") / "model")
