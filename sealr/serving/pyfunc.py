"""The model file that MLflow stores and runs (models from code), an adapter of `sealr.serving.recommender`."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.environment_variables import _MLFLOW_IS_IN_SERVING_ENVIRONMENT as IN_A_SERVER
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext

from sealr.serving.available import VARIABLE
from sealr.serving.recommender import Recommender
from sealr.serving.request import FAILED, BadRequest, Limits

log = logging.getLogger("sealr.serve")


class SealrModel(PythonModel):
    def load_context(self, context: PythonModelContext) -> None:
        self.limits = Limits.from_environment()
        self.recommender = Recommender.load(Path(context.artifacts["sealr"]))
        if path := os.environ.get(VARIABLE):
            self.recommender.watch(Path(path))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """One row a request in, one row an answer out; see docs/serving.md."""
        try:
            limits = self.limits if IN_A_SERVER.get() else None  # a batch job sends whole partitions of a table
            return self.recommender.predict(model_input, params or {}, limits)
        except BadRequest as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from None
        except Exception as error:  # the caller gets a sentence, the log the trace
            log.exception("prediction failed")
            raise MlflowException(
                f"the model failed on this request ({type(error).__name__}); its log has the details",
                error_code=INTERNAL_ERROR,
                error_class=FAILED,
            ) from None


set_model(SealrModel())
