"""Prefect flows: thin tasks over the plain functions of sealr/. Nothing outside this package knows Prefect.

Prefect and its libraries read their settings when they are imported, so the project's defaults stand here, where every
flow passes first. What the user has set in the environment always wins.
"""

import os

from sealr.data.manifest import state_dir

DEFAULTS = {
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait do not spin: with a server or a second job beside it, that is many times faster
    "PREFECT_HOME": str(state_dir() / "prefect"),  # keep Prefect's database inside the project's state
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",  # a first start migrates a database; 20 s is not always enough
    "PREFECT_LOGGING_EXTRA_LOGGERS": "sealr",  # the stages' own lines show in the Prefect UI
    "PREFECT_LOGGING_LEVEL": "INFO",
    "GX_ANALYTICS_ENABLED": "false",
    "TOKENIZERS_PARALLELISM": "false",  # the tokenizers library warns at every fork otherwise
    "TRANSFORMERS_VERBOSITY": "error",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
state_dir().mkdir(parents=True, exist_ok=True)  # Prefect makes its home when it is imported, but not the folders above
for _name, _value in DEFAULTS.items():
    os.environ.setdefault(_name, _value)
