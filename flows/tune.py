"""Search for retriever settings on validation: ``mlflow run . -e tune -P data=s3rec-beauty -P set="retrieve.model=bsarec"``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import numpy as np
import torch
import typer
from prefect import flow

from flows import steps
from flows.job import Data, Overrides, open_job, run
from flows.retrievers import item_content, labelled_feelings, reads_feelings
from sealr import tracking
from sealr.config import RetrieveConfig, to_dict
from sealr.data.manifest import state_dir, text_digest
from sealr.data.sequences import build
from sealr.data.tables import read_table
from sealr.retrieve import tune as tuning
from sealr.retrieve.train import OnEpoch

Trials = Annotated[int, typer.Option(min=1, help="Trials the study shall have; those of earlier runs count.")]


@flow(name="tune", flow_run_name="tune-{data}")
def tune(data: str = "demo", trials: int = 20, overrides: str = "") -> None:
    """Optuna on the retriever's validation NDCG@10; every trial is a nested MLflow run."""
    with open_job("tune", data, "", overrides) as job:
        config = job.config.retrieve
        reviews = steps.ingest(job)
        labels = steps.label(job, reviews) if reads_feelings(config) else None
        sequences = build(read_table(reviews.path("reviews.parquet"), "reviews"))
        content = torch.from_numpy(np.load(item_content(job, reviews).path("content.npy"))) if config.content else None

        @contextmanager
        def track(title: str, chosen: RetrieveConfig) -> Iterator[OnEpoch]:
            with tracking.stage(title, job.run_id, chosen):
                yield tracking.log_epoch

        felt = labelled_feelings(config, labels, sequences)
        folder = state_dir() / job.name / "tune" / reviews.digest[:16]
        name = f"{config.model}-{text_digest(to_dict(config))[:8]}"  # other fixed settings are another study
        study = tuning.tune(config, sequences, trials, folder, name, track, content, felt)
        text = tuning.summary(study)
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
        tracking.log_metrics({"best.valid_ndcg@10": study.best_value}, job.run_id)
        tracking.log_file(folder / f"{name}.md", job.run_id)
        best = " ".join(f"retrieve.{name}={value}" for name, value in study.best_params.items())
        print(f"\n{text}\nbest, validation NDCG@10 {study.best_value:.4f}; use it with\n  --set '{best}'")


def main(data: Data = "demo", trials: Trials = 20, overrides: Overrides = "") -> None:
    """Search for retriever settings on validation."""
    run(tune, data=data, trials=trials, overrides=overrides)


if __name__ == "__main__":
    typer.run(main)
