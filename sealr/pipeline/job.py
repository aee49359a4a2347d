"""What all stages of one job share: its configuration and its MLflow run."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sealr import resources, tracking
from sealr.data.manifest import REFIT, Manifest, StageResult, run_stage
from sealr.data.tables import write_json
from sealr.data.validate import CHECK_STAGE, CHECKS, validate_file
from sealr.settings import Config


@dataclass(frozen=True)
class Job:
    """One run of the pipeline, or one cell of a comparison.

    cell: the comparison's system that the stages belong to; empty for a job of its own. refit: its stages learn from
    everybody's whole history and hold nothing out, see `sealr.pipeline.refitting`.
    """

    config: Config
    run_id: str  # MLflow parent run
    cell: str = ""
    refit: bool = False

    @property
    def name(self) -> str:
        """Name of the data set, and of its folder in the state folder."""
        return self.config.data.name

    def named(self, stage: str) -> str:
        """The name of a stage, which is another one in a refit."""
        return f"{REFIT}{stage}" if self.refit else stage

    def stage(self, name: str, config: Any) -> AbstractContextManager[None]:
        """Opens the MLflow run of a stage, named after the stage and the cell. config: becomes its parameters."""
        return tracking.stage(f"{self.named(name)} {self.cell}".strip(), self.run_id, config)

    def validate_table(self, made: Manifest, table: str) -> None:
        """Checks ``<table>.parquet`` of a stage against its expectations.

        The check is a stage of its own, so a changed expectation repeats the check and nothing else. The job that makes
        the check logs its Data Docs to MLflow; they take megabytes, so later jobs on the same table do not.
        Raises ``ValidationFailed`` when an expectation is not met; the Data Docs are logged all the same.
        """
        inputs = {"table": made.path(f"{table}.parquet"), "suite": resources.folder("expectations") / f"{table}.json"}
        folders: list[Path] = []

        def work(folder: Path) -> StageResult:
            folders.append(folder)
            report = validate_file(inputs["table"], table, folder)
            write_json([asdict(check) for check in report.met], folder / CHECKS)
            return StageResult({"rows": report.rows}, {"expectations": report.checked})

        code = ("data/large_tables.py", "data/validate.py", "pipeline/job.py")
        try:
            run_stage(f"{CHECK_STAGE}{table}", self.name, {}, inputs, code, work)
        finally:
            for folder in folders[-1:]:
                tracking.log_folder(folder / table, f"data_docs/{table}")
