"""Times RecBole's SASRec and prints one JSON object. Runs in RecBole's environment (recbole.txt), without sealr.

    <python with recbole> benchmarks/peers/recbole_sasrec.py --sequences Beauty.txt.gz --share 0.05

An epoch is a pass of RecBole's own trainer and data loader over all prefixes of the training part (131,413 predictions
on Beauty). ``--share`` runs only that share of the batches and extrapolates the seconds of an epoch by the number of
predictions; ``--full`` runs one whole epoch. Validation and checkpoints are not part of an epoch's time.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from common import parser, peak_mb, sequences

NAME = "sequences"  # of the data set: RecBole wants a folder and a file of this name


def main() -> None:
    arguments = parser(__doc__).parse_args()
    path = arguments.sequences.resolve()
    started = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # RecBole writes logs where it stands
        try:
            write_atomic_file(path, Path(folder))
            result = measure(arguments, Path(folder))
        finally:
            os.chdir(started)
    json.dump(result, sys.stdout)
    print()


def write_atomic_file(path: Path, folder: Path) -> None:
    """Writes ``<folder>/sequences/sequences.inter``: user, item, and the position in the sequence as the time."""
    (folder / NAME).mkdir()
    with open(folder / NAME / f"{NAME}.inter", "w") as out:
        out.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user, items in sequences(path):
            out.writelines(f"{user}\t{item}\t{place}\n" for place, item in enumerate(items))


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    import recbole
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.model.sequential_recommender import SASRec
    from recbole.trainer import Trainer
    from recbole.utils import init_seed

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    # torch.load has refused pickled objects since 2.6, and RecBole's checkpoints hold one. They are this process's own.
    load = torch.load
    torch.load = lambda *args, **options: load(*args, **{"weights_only": False} | options)
    settings = {
        "data_path": str(folder),
        "checkpoint_dir": str(folder / "saved"),
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "train_neg_sample_args": None,  # cross-entropy over the catalogue needs none
        "loss_type": "CE",
        "hidden_size": arguments.hidden,
        "inner_size": 4 * arguments.hidden,
        "n_layers": arguments.layers,
        "n_heads": arguments.heads,
        "MAX_ITEM_LIST_LENGTH": arguments.max_len,
        "train_batch_size": arguments.batch_size,
        "metrics": ["Hit", "NDCG"],
        "topk": [5, 10],
        "valid_metric": "NDCG@10",
        "use_gpu": torch.cuda.is_available(),
        "show_progress": False,
        "seed": arguments.seed,
        "epochs": max(arguments.accuracy, 1),
    }
    if arguments.dropout is not None:
        settings |= {"hidden_dropout_prob": arguments.dropout, "attn_dropout_prob": arguments.dropout}
    argv, sys.argv = sys.argv, sys.argv[:1]  # RecBole reads the command line, and warns about what it does not know
    config = Config(model="SASRec", dataset=NAME, config_dict=settings)
    sys.argv = argv
    init_seed(config["seed"], config["reproducibility"])
    train_data, valid_data, test_data = data_preparation(config, create_dataset(config))
    model = SASRec(config, train_data.dataset).to(config["device"])
    trainer = Trainer(config, model)

    batches = len(train_data) if arguments.full else max(1, math.ceil(arguments.share * len(train_data)))
    timed = Counted(train_data, batches)
    started = time.perf_counter()
    trainer._train_epoch(timed, 0)
    seconds = time.perf_counter() - started
    predictions = len(train_data.dataset)
    training_peak = peak_mb()
    started = time.perf_counter()
    trainer.evaluate(test_data, load_best_model=False)
    scoring = time.perf_counter() - started
    result = {
        "system": f"RecBole {recbole.__version__}",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "predictions": predictions,
        "timed_predictions": timed.predictions,
        "timed_share": timed.predictions / predictions,
        "seconds_epoch": seconds * predictions / timed.predictions,
        "predictions_second": timed.predictions / seconds,
        "users_second": len(test_data.dataset) / scoring,
        "training_peak_mb": training_peak,
        "peak_mb": peak_mb(),  # with the ranking of all users
    }
    if arguments.accuracy:
        init_seed(config["seed"], config["reproducibility"])
        trainer = Trainer(config, SASRec(config, train_data.dataset).to(config["device"]))
        started = time.perf_counter()
        best, _ = trainer.fit(train_data, valid_data, verbose=False)
        seconds = time.perf_counter() - started
        test = trainer.evaluate(test_data, load_best_model=True)
        result |= {
            "epochs": len(trainer.train_loss_dict),
            "valid": float(best),
            "seconds_training": seconds,
            "test": {name.lower(): float(value) for name, value in test.items()},
        }
        result["ranks"] = ranks(trainer, test_data)
    return result


def ranks(trainer: Any, test_data: Any) -> dict[str, int]:
    """Each user's rank of the test item among all items, by the model that was evaluated most recently."""
    import torch

    found: dict[str, int] = {}
    with torch.no_grad():
        for interaction, _, row, target in test_data:  # for each target: its row in the batch and its item
            scores = trainer.model.full_sort_predict(interaction.to(trainer.device)).view(len(interaction), -1)
            scores[:, 0] = -torch.inf  # padding
            target = target.to(scores.device)
            place = (scores[row] > scores[row, target][:, None]).sum(1) + 1
            users = test_data.dataset.id2token("user_id", interaction["user_id"][row].cpu().numpy())
            found |= {str(user): int(rank) for user, rank in zip(users, place, strict=True)}
    return found


class Counted:
    """The first batches of a RecBole data loader, and the number of their predictions."""

    def __init__(self, loader: Any, batches: int) -> None:
        self.loader, self.batches, self.predictions = loader, batches, 0

    def __iter__(self) -> Iterator[Any]:
        for interaction in islice(self.loader, self.batches):
            self.predictions += len(interaction)
            yield interaction


if __name__ == "__main__":
    main()
