"""What the steps of one job share."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sealr import resources, tracking
from sealr.data.manifest import Manifest, StageResult, run_stage
from sealr.data.tables import read_table
from sealr.data.validate import validate
from sealr.settings import Config


@dataclass(frozen=True)
class Job:
    """Its configuration and its MLflow run."""

    config: Config
    run_id: str  # the job's MLflow run
    cell: str = ""  # of a table whose cells are chains of their own, all in one job; else empty

    @property
    def name(self) -> str:
        return self.config.data.name

    def stage(self, name: str, config: Any) -> AbstractContextManager[None]:
        """The MLflow run of a stage. It says which cell it belongs to."""
        return tracking.stage(f"{name} {self.cell}".strip(), self.run_id, config)

    def validate_table(self, made: Manifest, table: str) -> None:
        """Validates a table that a stage made, once for each content and suite; its Data Docs go to MLflow either way.

        A changed expectation checks the table again and repeats no other work.
        """
        inputs = {"table": made.path(f"{table}.parquet"), "suite": resources.folder("expectations") / f"{table}.json"}
        folders: list[Path] = []

        def work(folder: Path) -> StageResult:
            folders.append(folder)
            report = validate(read_table(inputs["table"], table), table, folder)
            return StageResult({"rows": report.rows}, {"expectations": report.checked})

        try:
            folders.append(run_stage(f"gate-{table}", self.name, {}, inputs, ("data/validate.py",), work).folder)
        finally:
            for folder in folders[-1:]:
                tracking.log_folder(folder / table, f"data_docs/{table}")
