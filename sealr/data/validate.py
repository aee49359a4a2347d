"""Checks tables between stages with Great Expectations; the suites are ``expectations/<table>.json``.

An expectation's ``notes`` say what a failure means. ``meta.min_rows`` skips an expectation about a distribution for
smaller tables. Besides the columns of its table, a suite may use the helper columns in ``HELPERS``.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pyarrow.parquet as pq

from sealr import resources
from sealr.data import large_tables
from sealr.data.data_docs import make_offline
from sealr.data.large_tables import Sample
from sealr.data.tables import read_table

log = logging.getLogger(__name__)
CHECK_STAGE = "gate-"  # start of the names of stages that check a table
CHECKS = "checks.json"  # of such a stage: the expectations that were met
SAMPLES = 5  # rows shown per failed expectation
KEYS = ("user", "position", "item", "rank", "split", "emotion")  # columns shown with every sample row
_one_at_a_time = threading.Lock()  # Great Expectations keeps its context in a global variable


@dataclass(frozen=True)
class Failure:
    expectation: str  # as Great Expectations names it, e.g. expect_column_values_to_be_between
    arguments: str  # columns and limits
    unexpected: int | None  # number of offending values; None if the expectation is about the whole table or column
    total: int  # number of values checked
    found: str  # the number of offending values, what was observed, or why the check could not run
    note: str
    samples: tuple[dict[str, Any], ...]  # offending rows: index ("row"), KEYS and the checked columns

    def __str__(self) -> str:
        details = [self.note] if self.note else []
        details += [", ".join(f"{k}={_short(v)}" for k, v in row.items()) for row in self.samples]
        return "\n    ".join([f"{self.expectation}({self.arguments}): {self.found}", *details])


@dataclass(frozen=True)
class Check:
    """An expectation that was met."""

    expectation: str  # as Great Expectations names it
    arguments: str  # columns and limits
    found: str  # what was observed, or the number of offending values that `mostly` allows


@dataclass(frozen=True)
class ValidationReport:
    suite: str
    rows: int
    checked: int  # expectations evaluated
    left_out: int  # expectations skipped because the table has too few rows
    failures: tuple[Failure, ...]
    docs: Path | None  # index.html of the Data Docs
    met: tuple[Check, ...] = ()

    @property
    def success(self) -> bool:
        return not self.failures


class ValidationFailed(ValueError):
    """A table fails its expectations; the message lists each failure with sample rows, ``report`` holds them."""

    def __init__(self, report: ValidationReport):
        self.report = report
        failed = f"{len(report.failures)} of {report.checked} expectations"
        head = f"the {report.suite} table ({report.rows:,} rows) fails {failed}:"
        docs = [f"Data Docs: {report.docs}"] if report.docs else []
        super().__init__("\n".join([head, *(f"  {failure}" for failure in report.failures), *docs]))


def validate_file(path: Path, suite_name: str, docs_dir: Path | None = None) -> ValidationReport:
    """As `validate`, for a Parquet file of any size: of a large table all rows are counted, and a sample is judged.

    Shares (``mostly``) and deviations are those of the sample; all other expectations are checked on every row.
    """
    if pq.ParquetFile(path).metadata.num_rows <= large_tables.ROWS:
        return validate(read_table(path, suite_name), suite_name, docs_dir)
    with _one_at_a_time, _quiet():
        _context()
        found = [expectation.configuration for expectation in _load_suite(suite_name).expectations]
    drawn = large_tables.sample(path, suite_name, [(c.type, c.kwargs) for c in found], SAMPLES)
    return validate(drawn.frame, suite_name, docs_dir, drawn)


def validate(
    frame: pd.DataFrame, suite_name: str, docs_dir: Path | None = None, drawn: Sample | None = None
) -> ValidationReport:
    """Checks a table against ``expectations/<suite_name>.json``.

    docs_dir: the HTML report goes to ``<docs_dir>/<suite_name>/``, also after a failure. drawn: the sample of a larger
    table that the frame is.
    Raises ValidationFailed if an expectation is not met, ValueError if the suite is missing or invalid.
    """
    started = time.monotonic()
    with _one_at_a_time, _quiet():
        context, suite = _context(), _load_suite(suite_name)
        from great_expectations import ValidationDefinition

        total = len(suite.expectations)
        suite.expectations = [e for e in suite.expectations if len(frame) >= (e.meta or {}).get("min_rows", 0)]
        checked = frame.reset_index(drop=True)
        for name, helper in HELPERS.get(suite_name, {}).items():
            checked[name] = helper(checked)
        asset = context.data_sources.add_pandas("table").add_dataframe_asset(suite_name)
        data = asset.add_batch_definition_whole_dataframe("whole")
        definition = ValidationDefinition(name=suite_name, data=data, suite=context.suites.add(suite))
        result = context.validation_definitions.add(definition).run(
            batch_parameters={"dataframe": checked},
            result_format={"result_format": "SUMMARY", "partial_unexpected_count": SAMPLES},
        )
        docs = _write_docs(context, docs_dir / suite_name, bool(result.success)) if docs_dir else None
    failures = tuple(failure for r in result.results if not r.success and (failure := _failure(r, checked, drawn)))
    run, rows = len(suite.expectations), drawn.rows if drawn else len(frame)
    met = tuple(_check(r, checked, drawn) for r in result.results if r.success)
    report = ValidationReport(suite_name, rows, run, total - run, failures, docs, met)
    if failures:
        raise ValidationFailed(report)
    seconds = time.monotonic() - started
    sampled = f" ({len(frame):,} of them as a sample)" if drawn else ""
    log.info("%s: %d rows%s meet %d expectations, checked in %.1f s", suite_name, rows, sampled, run, seconds)
    return report


def _emotion_share(labels: pd.DataFrame) -> pd.Series:
    """For each row, the share of labelled rows with its emotion."""
    emotions = labels.get("emotion", pd.Series(None, labels.index, dtype=object))
    return emotions.map(emotions.value_counts(normalize=True)).astype("float64")


HELPERS: dict[str, dict[str, Callable[[pd.DataFrame], pd.Series]]] = {"labels": {"emotion_share": _emotion_share}}


def _context() -> Any:
    """A context in memory. Imported late, because the import takes seconds and reads the environment."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    from great_expectations import get_context
    from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults

    memory, quiet = InMemoryStoreBackendDefaults(), cast(Any, {"globally": False})
    project = DataContextConfig(analytics_enabled=False, progress_bars=quiet, store_backend_defaults=memory)
    return get_context(mode="ephemeral", project_config=project)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences tracebacks and deprecation warnings of the library: failures are reported once, by `validate`."""
    logger = logging.getLogger("great_expectations")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)


def _load_suite(name: str) -> Any:
    from great_expectations.core.expectation_suite import ExpectationSuite, expectationSuiteSchema

    path = resources.folder("expectations") / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.json")))
        raise ValueError(f"there is no expectation suite {name!r} in expectations/; known: {known}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        suite = ExpectationSuite(**expectationSuiteSchema.load(values))
    except Exception as error:  # the library raises errors of several packages
        raise ValueError(f"{path} is not a valid expectation suite: {error}") from None
    if len(suite.expectations) != len(values["expectations"]):  # the library only logs an invalid expectation
        raise ValueError(f"{path}: {len(values['expectations']) - len(suite.expectations)} expectations are not valid")
    return suite


def _write_docs(context: Any, folder: Path, success: bool) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder.resolve())}
    site = {"class_name": "SiteBuilder", "store_backend": store}
    context.add_data_docs_site("site", site | {"site_index_builder": {"class_name": "DefaultSiteIndexBuilder"}})
    context.build_data_docs("site")
    return make_offline(folder, folder.name, success)


def _check(result: Any, frame: pd.DataFrame, drawn: Sample | None) -> Check:
    unexpected, total = _counts(result, len(frame), drawn)
    found = "true"
    if unexpected is not None:
        found = f"{unexpected:,} of {total:,} values unexpected"
    elif "observed_value" in result.result:
        found = f"observed {_short(result.result['observed_value'])}"
    return Check(result.expectation_config.type, _arguments(result.expectation_config)[1], found)


def _counts(result: Any, rows: int, drawn: Sample | None) -> tuple[int | None, int]:
    """Offending values, None if the expectation is about the whole table or column, and values checked."""
    config, values = result.expectation_config, result.result
    if drawn and (counted := drawn.unexpected.get(large_tables.key(config.type, config.kwargs))) is not None:
        return counted, drawn.rows
    return values.get("unexpected_count"), values.get("element_count", rows)


def _arguments(config: Any) -> tuple[list[str], str]:
    """The columns that an expectation is about, and its arguments as text."""
    limits = {k: v for k, v in config.kwargs.items() if k != "batch_id" and v is not None}
    columns = [limits.pop("column")] if "column" in limits else list(limits.pop("column_list", ()))
    arguments = ["column " + ", ".join(columns)] if columns else []
    return columns, ", ".join([*arguments, *(f"{k}={_short(v)}" for k, v in limits.items())])


def _failure(result: Any, frame: pd.DataFrame, drawn: Sample | None) -> Failure | None:
    """None if only a missing column made this fail, which expect_column_to_exist reports."""
    config, values = result.expectation_config, result.result
    columns, arguments = _arguments(config)
    unexpected, total = _counts(result, len(frame), drawn)
    if config.type == "expect_column_to_exist":
        found = f"the table has no such column, only: {', '.join(map(str, frame.columns))}"
    elif any(c not in frame for c in columns):
        return None
    elif unexpected is not None:
        found = f"{unexpected:,} of {total:,} values unexpected"
    elif "observed_value" in values:
        found = f"observed {values['observed_value']}"
    else:
        found = _exception(result.exception_info) or "not met"
    note = config.notes if isinstance(config.notes, str) else " ".join(config.notes or ())
    shown = [c for c in dict.fromkeys([*KEYS, *columns]) if c in frame]
    rows = frame.loc[values.get("partial_unexpected_index_list", [])[:SAMPLES], shown]
    if drawn:
        rows.index = pd.Index(drawn.numbers[rows.index])
    samples = tuple(rows.rename_axis("row").reset_index().to_dict("records"))
    return Failure(config.type, arguments, unexpected, total, found, note, samples)


def _exception(info: dict[str, Any]) -> str:
    """The messages of a check that could not run, which are nested by metric if a metric failed."""
    entries = [info] if "exception_message" in info else list(info.values())
    messages = (entry.get("exception_message") for entry in entries if isinstance(entry, dict))
    return "; ".join(dict.fromkeys(str(message) for message in messages if message))


def _short(value: Any) -> str:
    value = value.item() if hasattr(value, "item") else value
    text = repr(int(value) if isinstance(value, float) and value.is_integer() else value)
    return text if len(text) <= 80 else text[:77] + "..."
