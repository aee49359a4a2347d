"""Makes the report of a job and logs it to the job's MLflow run; finds it there again."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from sealr import tracked, tracking
from sealr.data.tables import atomic_path
from sealr.report import sources
from sealr.report.page import render
from sealr.report.results import results
from sealr.report.words import conclusion

log = logging.getLogger(__name__)
FILE = "report.html"  # the artifact's name


def make_report(run_id: str) -> Path:
    """Makes the report of a finished job from its stage folders and logs it. Returns the logged file.

    run_id: of the job's MLflow run. Raises ReportError, TrackingError, and OSError for a file that is gone.
    """
    found = sources.find(run_id)
    with tempfile.TemporaryDirectory(prefix="sealr-report-") as scratch:
        path = Path(scratch) / FILE
        with atomic_path(path) as temporary:
            temporary.write_text(render(found), encoding="utf-8")
        tracking.log_file(path, found.run_id)
    tracking.describe(found.run_id, f"{conclusion(found, results(found))}\n\nThe report is the artifact `{FILE}`.")
    logged = tracked.find_artifact(found.run_id, FILE)
    assert logged is not None
    return logged


def report(run_id: str) -> None:
    """The last step of a job. A job whose report fails is finished all the same: the failure is only logged."""
    try:
        path = make_report(run_id)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        log.warning("there is no report (%s); all else is done; `sealr report %s --debug` says more", said, run_id)
    else:
        log.info("report: %s", path)


def open_report(run_id: str = "", again: bool = False) -> Path:
    """The report of a job as a file of this machine.

    run_id: of the job or one of its stages; empty for the newest whole job. again: makes it anew, even if
    it was logged. Raises ReportError, TrackingError.
    """
    run_id = run_id or tracked.newest_job(sources.WHOLE)
    if not run_id:
        raise sources.ReportError(f"there is no job yet at {tracking.address()}: `sealr run` makes one")
    try:
        run_id = tracked.job_of(run_id)
    except ValueError as error:
        raise sources.ReportError(str(error)) from None
    logged = None if again else tracked.find_artifact(run_id, FILE)
    try:
        return logged or make_report(run_id)
    except (KeyError, TypeError) as error:
        raise sources.ReportError(
            f"the files of MLflow run {run_id} cannot be read ({type(error).__name__}: {error}); if another release "
            "ran the job, use that one, or run the job again"
        ) from error
