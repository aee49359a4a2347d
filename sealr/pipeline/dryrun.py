"""``sealr run --dry-run`` predicts what a job takes, stage by stage, without running or tracking it.

The base LLM and data are not downloaded for this. The labeller and the reader of texts are: parts of them are measured.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pandas as pd

from sealr.config import ConfigError, load_config
from sealr.data.download import data_dir, local_path
from sealr.data.ingest import ingest
from sealr.data.sequences import Sequences, build
from sealr.data.tables import read_table
from sealr.pipeline.forecast import forecast, table
from sealr.rerank.plan import busy_seconds, machine_rates, plan, shape_of, text, workload
from sealr.settings import DataConfig


def dry_run(data: str = "demo", base: str = "smollm2-135m", overrides: str = "") -> None:
    """Prints the seconds of each stage, and parameters, memory and tokens of fine-tuning. Raises ConfigError."""
    config = load_config(data, base, overrides)
    shape = shape_of(config.rerank.base)
    started = busy_seconds()
    reviews, items = read_tables(config.data)
    ingested, sequences = busy_seconds() - started, build(reviews)
    work, again = (workload(config, shape, sequences, items, refit=refit) for refit in (False, True))
    rates = machine_rates(config.rerank, shape)
    made, refitted = (plan(config.rerank, shape, read, rates) for read in (work, again))
    print(table(forecast(config, reviews, sequences, ingested, made, refitted, rates)))
    print(f"\n{text(config.rerank, made, work, rates, refitted)}")


def local_tables(config: DataConfig) -> tuple[Sequences, pd.DataFrame]:
    """Sequences and items of a data set, as `read_tables`."""
    reviews, items = read_tables(config)
    return build(reviews), items


def read_tables(config: DataConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Reviews and items of a data set. Raises ConfigError if its files are not on this machine."""
    paths = {"reviews": local_path(config.reviews, data_dir()), "items": local_path(config.items, data_dir())}
    files = {name: path for name, path in paths.items() if path.exists()} if config.source != "demo" else {}
    if config.source != "demo" and "reviews" not in files:
        raise ConfigError(f"{paths['reviews']} is missing: get the data set with `sealr ingest --data {config.name}`")
    with tempfile.TemporaryDirectory() as folder:
        ingest(config, Path(folder), files)
        reviews, items = (read_table(Path(folder) / f"{name}.parquet", name) for name in ("reviews", "items"))
        return reviews, items
