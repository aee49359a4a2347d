"""Prefect flows over the stages of `sealr.pipeline`. Only this folder imports Prefect."""

from __future__ import annotations

import logging
import os
import warnings
from importlib.metadata import version

# Libraries that log every detail at the level at which the stages log results
NOISY = "prefect httpx mlflow alembic great_expectations transformers huggingface_hub matplotlib git urllib3".split()


def defaults() -> dict[str, str]:
    """The environment variables of a job, for those that the user has not set.

    `prefect.yaml` repeats the ones that matter in a worker's processes, which import Prefect before they import a flow.
    """
    from sealr.data.manifest import state_dir

    return {
        "GX_ANALYTICS_ENABLED": "false",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "OMP_WAIT_POLICY": "PASSIVE",  # waiting threads sleep: with a second process on the same cores, much faster
        # Of this version alone: an older Prefect cannot open the database that a newer one has migrated
        "PREFECT_HOME": str(state_dir() / f"prefect-{version('prefect')}"),
        "PREFECT_LOGGING_EXTRA_LOGGERS": "sealr",  # the stages' own log lines show in the Prefect UI
        "PREFECT_LOGGING_LEVEL": "INFO",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # lines of helper threads belong to no run
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",  # the first start migrates a database
        "TOKENIZERS_PARALLELISM": "false",  # the tokenizers library warns at every fork otherwise
        "TRANSFORMERS_VERBOSITY": "error",
    }


def set_defaults() -> None:
    """Sets `defaults` in this process. Call it before Prefect or torch is imported: they read them at import."""
    for name, value in defaults().items():
        os.environ.setdefault(name, value)


def quiet_libraries() -> None:
    """Shows our own log lines from INFO, and those of other libraries from WARNING."""
    logging.getLogger("sealr").setLevel(logging.INFO)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("transformers").setLevel(logging.ERROR)  # it warns of its own coming changes
    for category in (FutureWarning, DeprecationWarning, UserWarning):
        warnings.filterwarnings("ignore", category=category)
