"""Times RecTools' SASRec and prints one JSON object. Runs in RecTools' environment (rectools.txt), without sealr.

    <python with rectools> benchmarks/peers/rectools_sasrec.py --sequences Beauty.txt.gz --share 0.2

Model, data preparation and trainer are RecTools' own, with softmax over the catalogue; what has no option keeps its
default. ``--share`` runs only that share of an epoch's batches and extrapolates. ``--accuracy`` trains until NDCG@10 of
the validation items has not risen for ten epochs, and ranks with the best epoch. Validation is not part of an epoch's
time. Lists hold ten items, so a rank beyond is given as 11.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from common import parser, peak_mb, sequences
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from rectools.dataset import Dataset
from rectools.models import SASRecModel

LENGTH = 10  # of the lists


class Clock(Callback):
    """Seconds of each training epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        self.started = time.perf_counter()

    def on_train_epoch_end(self, *_: Any) -> None:
        self.seconds.append(time.perf_counter() - self.started)


class ValidationGain(Callback):
    """NDCG@10 of the validation items over the catalogue, logged as ``val_ndcg``."""

    def on_validation_epoch_start(self, *_: Any) -> None:
        self.gains: list[torch.Tensor] = []

    def on_validation_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        logits, targets = outputs["logits"].view(len(batch["y"]), -1), batch["y"]  # (B, 1 + items), (B, 1)
        logits[:, 0] = -torch.inf  # padding
        ranks = (logits > logits.gather(1, targets)).sum(1) + 1
        self.gains.append(torch.where(ranks <= LENGTH, 1 / torch.log2(ranks + 1.0), 0.0))

    def on_validation_epoch_end(self, trainer: Any, module: Any) -> None:
        module.log("val_ndcg", torch.cat(self.gains).mean())


def main() -> None:
    arguments = parser(__doc__).parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    out, sys.stdout = sys.stdout, sys.stderr  # the libraries' own lines go to the log
    result = measure(arguments)
    json.dump(result, out)
    print(file=out)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    import rectools

    frame = pd.DataFrame(
        [(user, item, place) for user, items in sequences(arguments.sequences) for place, item in enumerate(items)],
        columns=["user_id", "item_id", "datetime"],
    )
    frame = frame.assign(weight=1, datetime=pd.to_datetime(frame["datetime"], unit="D"))
    last = frame.groupby("user_id").cumcount(ascending=False)
    users = frame["user_id"].unique()
    lengths = (frame.groupby("user_id").size() - 3).clip(0, arguments.max_len)  # predictions of each user
    lengths = lengths[lengths > 0]

    epoch = Dataset.construct(frame[last >= 2])
    model = build(arguments, lengths, 1, accuracy=False)
    model.fit(epoch)
    clock, *_ = (c for c in model.fit_trainer.callbacks if isinstance(c, Clock))
    batches = -(-len(lengths) // model.batch_size)
    ran = batches if arguments.full else max(1, int(arguments.share * batches))
    seconds, predictions = sum(clock.seconds) * batches / ran, int(lengths.sum())
    training_peak = peak_mb()
    known = Dataset.construct(frame[last >= 1])  # all but the test item
    started = time.perf_counter()
    model.recommend(users, known, k=LENGTH, filter_viewed=False)
    scoring = time.perf_counter() - started
    result = {
        "system": f"RecTools {rectools.__version__}",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in model.torch_model.parameters()),
        "predictions": predictions,
        "timed_share": ran / batches,
        "seconds_epoch": seconds,
        "predictions_second": predictions / seconds,
        "users_second": len(users) / scoring,
        "training_peak_mb": training_peak,
        "peak_mb": peak_mb(),
    }
    if arguments.accuracy:
        result |= accurate(arguments, lengths, frame, known)
    return result


def build(arguments: argparse.Namespace, lengths: pd.Series, epochs: int, accuracy: bool, folder: str = "") -> Any:
    """RecTools' model. With ``accuracy`` its trainer validates, stops early and keeps the best epoch in FOLDER."""

    def trainer() -> Trainer:
        options: dict[str, Any] = {"enable_checkpointing": False}
        callbacks: list[Callback] = [Clock()]
        if accuracy:
            best = {"monitor": "val_ndcg", "mode": "max"}
            callbacks += [ValidationGain(), EarlyStopping(**best, patience=10), ModelCheckpoint(folder, **best)]
            options = {}
        elif not arguments.full:
            options |= {"limit_train_batches": arguments.share}
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        return Trainer(max_epochs=epochs, devices=1, accelerator="auto", callbacks=callbacks, **quiet, **options)

    seed_everything(arguments.seed)
    dropout = {} if arguments.dropout is None else {"dropout_rate": arguments.dropout}
    return SASRecModel(
        n_blocks=arguments.layers,
        n_heads=arguments.heads,
        n_factors=arguments.hidden,
        session_max_len=arguments.max_len,
        batch_size=round(arguments.batch_size * len(lengths) / lengths.sum()),
        loss="softmax",
        get_trainer_func=trainer,
        get_val_mask_func=newest if accuracy else None,
        **dropout,
    )


def newest(interactions: pd.DataFrame) -> Any:
    """Which rows are a user's newest: the validation items."""
    return (interactions.groupby("user_id")["datetime"].transform("max") == interactions["datetime"]).to_numpy()


def accurate(arguments: argparse.Namespace, lengths: pd.Series, frame: pd.DataFrame, known: Any) -> dict[str, Any]:
    """Metrics of the test items after training with early stopping, by the best epoch."""
    with tempfile.TemporaryDirectory() as folder:
        model = build(arguments, lengths, arguments.accuracy, accuracy=True, folder=folder)
        started = time.perf_counter()
        model.fit(known)
        seconds = time.perf_counter() - started
        [best] = Path(folder).glob("*.ckpt")
        model.load_weights_from_checkpoint(best)
        clock, *_ = (c for c in model.fit_trainer.callbacks if isinstance(c, Clock))
        [stop] = (c for c in model.fit_trainer.callbacks if isinstance(c, EarlyStopping))
    targets = frame.groupby("user_id", sort=False).tail(1).set_index("user_id")["item_id"]
    lists = model.recommend(targets.index, known, k=LENGTH, filter_viewed=False)
    hits = lists[lists["item_id"] == lists["user_id"].map(targets)]
    ranks = pd.Series(LENGTH + 1, index=targets.index)
    ranks.update(hits.set_index("user_id")["rank"])
    gains = 1 / (ranks + 1).map(lambda rank: torch.log2(torch.tensor(float(rank))).item())
    test = {f"hit@{k}": float((ranks <= k).mean()) for k in (5, 10)}
    test |= {f"ndcg@{k}": float(gains.where(ranks <= k, 0).mean()) for k in (5, 10)}
    return {
        "epochs": len(clock.seconds),
        "valid": float(stop.best_score),
        "seconds_training": seconds,
        "test": test,
        "ranks": {str(user): int(rank) for user, rank in ranks.items()},
    }


if __name__ == "__main__":
    main()
