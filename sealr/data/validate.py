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

from sealr import resources

log = logging.getLogger(__name__)
SAMPLES = 5  # rows shown per failed expectation
KEYS = ("user", "position", "item", "rank", "split", "emotion")  # columns shown with every sample row
_one_at_a_time = threading.Lock()  # Great Expectations keeps its context in a global variable


@dataclass(frozen=True)
class Failure:
    expectation: str  # as Great Expectations names it, e.g. expect_column_values_to_be_between
    columns: str
    limits: str  # the expectation's other arguments
    unexpected: int | None  # number of offending values; None if the expectation is about the whole table or column
    total: int  # number of values checked
    observed: str  # the value found for the table or column, or why the check could not run
    note: str
    samples: tuple[dict[str, Any], ...]  # offending rows: index ("row"), KEYS and the checked columns

    def __str__(self) -> str:
        counted = self.unexpected is not None
        found = f"{self.unexpected:,} of {self.total:,} values unexpected" if counted else self.observed
        lines = [f"{self.expectation}({', '.join(p for p in (self.columns, self.limits) if p)}): {found}"]
        details = [self.note] if self.note else []
        details += [", ".join(f"{k}={_short(v)}" for k, v in row.items()) for row in self.samples]
        return "\n".join(lines + [f"    {detail}" for detail in details])


@dataclass(frozen=True)
class ValidationReport:
    suite: str
    rows: int
    checked: int  # expectations evaluated
    left_out: int  # expectations skipped because the table has too few rows
    failures: tuple[Failure, ...]
    docs: Path | None  # index.html of the Data Docs

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


def validate(frame: pd.DataFrame, suite_name: str, docs_dir: Path | None = None) -> ValidationReport:
    """Checks a table against ``expectations/<suite_name>.json``.

    docs_dir: the HTML report goes to ``<docs_dir>/<suite_name>/``, also after a failure.
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
        docs = _write_docs(context, docs_dir / suite_name) if docs_dir else None
    failures = tuple(
        _failure(r, checked) for r in result.results if not r.success and not _missing_elsewhere(r, checked)
    )
    run = len(suite.expectations)
    report = ValidationReport(suite_name, len(frame), run, total - run, failures, docs)
    if failures:
        raise ValidationFailed(report)
    seconds = time.monotonic() - started
    log.info("%s: %d rows meet %d expectations, checked in %.1f s", suite_name, len(frame), run, seconds)
    return report


def _emotion_share(labels: pd.DataFrame) -> pd.Series:
    """For each row, the share of labelled rows with its emotion."""
    if "emotion" not in labels:
        return pd.Series(float("nan"), index=labels.index)
    return labels["emotion"].map(labels["emotion"].value_counts(normalize=True)).astype("float64")


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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
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


def _write_docs(context: Any, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder.resolve())}
    index = {"class_name": "DefaultSiteIndexBuilder"}
    site = {"class_name": "SiteBuilder", "site_index_builder": index, "store_backend": store}
    context.add_data_docs_site("site", site)
    context.build_data_docs("site")
    return folder / "index.html"


def _columns(kwargs: dict[str, Any]) -> list[str]:
    return [kwargs["column"]] if "column" in kwargs else list(kwargs.get("column_list", ()))


def _missing_elsewhere(result: Any, frame: pd.DataFrame) -> bool:
    """Whether this failed only because of a missing column, which expect_column_to_exist reports."""
    config = result.expectation_config
    return config.type != "expect_column_to_exist" and any(c not in frame for c in _columns(config.kwargs))


def _failure(result: Any, frame: pd.DataFrame) -> Failure:
    config, found = result.expectation_config, result.result
    columns = _columns(config.kwargs)
    named = ("column", "column_list", "batch_id")
    limits = {k: v for k, v in config.kwargs.items() if k not in named and v is not None}
    observed = f"observed {found['observed_value']}" if "observed_value" in found else ""
    if config.type == "expect_column_to_exist":
        observed = f"the table has no such column, only: {', '.join(map(str, frame.columns))}"
    shown = [c for c in dict.fromkeys([*KEYS, *columns]) if c in frame]
    rows = frame.loc[found.get("partial_unexpected_index_list", [])[:SAMPLES], shown]
    samples = tuple(
        {"row": index, **row} for index, row in zip(rows.index.tolist(), rows.to_dict("records"), strict=True)
    )
    return Failure(
        config.type,
        "column " + ", ".join(columns) if columns else "",
        ", ".join(f"{k}={_short(v)}" for k, v in limits.items()),
        found.get("unexpected_count"),
        found.get("element_count", len(frame)),
        observed or _exception(result.exception_info) or "not met",
        config.notes if isinstance(config.notes, str) else " ".join(config.notes or ()),
        samples,
    )


def _exception(info: dict[str, Any]) -> str:
    """The messages of a check that could not run, which are nested by metric if a metric failed."""
    entries = [info] if "exception_message" in info else list(info.values())
    messages = (entry.get("exception_message") for entry in entries if isinstance(entry, dict))
    return "; ".join(dict.fromkeys(str(message) for message in messages if message))


def _short(value: Any) -> str:
    value = value.item() if hasattr(value, "item") else value
    text = repr(int(value) if isinstance(value, float) and value.is_integer() else value)
    return text if len(text) <= 80 else text[:77] + "..."
