"""Fixtures shared by all tests. Weights of tests are toys; nothing here needs a network."""

import pytest

from tests import toys


@pytest.fixture(scope="session")
def toy_llama(tmp_path_factory):
    return toys.toy_llama(tmp_path_factory.mktemp("toy") / "llama")


@pytest.fixture(scope="session")
def toy_labeller(tmp_path_factory):
    return toys.toy_labeller(tmp_path_factory.mktemp("toy") / "labeller")
