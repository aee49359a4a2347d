"""Fixtures shared by all tests. Weights of tests are toys; nothing here needs a network."""

import logging
import os
import sys
from contextlib import contextmanager

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each worker has a core. Read when torch is imported, here and in processes that tests start
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests import toys


@pytest.fixture(autouse=True)
def no_active_experiment():
    """MLflow keeps the experiment chosen last for the whole process; the next test has another database, without it."""
    yield
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
    if fluent := sys.modules.get("mlflow.tracking.fluent"):
        fluent._active_experiment_id = None


@pytest.fixture(autouse=True)
def no_active_run():
    """A run left active would take in what the next test logs, and stop its own run from starting."""

    def active():
        fluent = sys.modules.get("mlflow.tracking.fluent")
        return [run.info.run_id for run in fluent._active_run_stack.get()] if fluent else []

    before = active()  # of a fixture of the module
    yield
    if (left := active()) != before:
        sys.modules["mlflow.tracking.fluent"]._active_run_stack.set([])
        pytest.fail(f"the test leaves run {left} active, before it {before}")


@pytest.fixture(autouse=True)
def own_logging():
    """A command sets up the package's logger for its process; every test finds it as Python made it."""
    logging.disable(logging.NOTSET)  # an interrupted command silences what is left of its process
    logging.getLogger("sealr")
    for name, logger in list(logging.root.manager.loggerDict.items()):  # threads of libraries add loggers meanwhile
        if name.partition(".")[0] == "sealr" and isinstance(logger, logging.Logger):
            logger.disabled, logger.propagate = False, True  # configuring from a file disables existing loggers
            logger.handlers.clear()
            logger.setLevel(logging.NOTSET)


class Captured(logging.Handler):
    """What pytest's caplog offers and tests use. Its one handler stays closed once a library configures logging."""

    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)

    @property
    def messages(self):
        return [record.getMessage() for record in self.records]

    @property
    def text(self):
        return "".join(f"{r.levelname} {r.name} {r.getMessage()}\n" for r in self.records)

    def clear(self):
        self.records.clear()

    def set_level(self, level, logger=None):
        logging.getLogger(logger).setLevel(level)

    @contextmanager
    def at_level(self, level, logger=None):
        found = logging.getLogger(logger)
        before = found.level
        found.setLevel(level)
        yield
        found.setLevel(before)


@pytest.fixture
def caplog(own_logging):
    handler, root = Captured(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture(scope="session")
def toy_llama(tmp_path_factory):
    return toys.toy_llama(tmp_path_factory.mktemp("toy") / "llama")


@pytest.fixture(scope="session")
def toy_labeller(tmp_path_factory):
    return toys.toy_labeller(tmp_path_factory.mktemp("toy") / "labeller")


@pytest.fixture(scope="session")
def parts(tmp_path_factory, toy_llama, toy_labeller):
    """A trained toy model, ready to be packed."""
    from tests.serving.toy_model import toy_parts

    return toy_parts(tmp_path_factory.mktemp("parts"), toy_llama, toy_labeller)


@pytest.fixture(scope="session")
def model_folder(parts, tmp_path_factory):
    """An MLflow model that ranks with a toy LLM."""
    from tests.serving.toy_model import toy_pyfunc

    return toy_pyfunc(parts, tmp_path_factory.mktemp("pyfunc") / "model")
