"""Finished jobs without training: stage folders as the stages leave them, and the MLflow runs that name them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from sealr import tracking
from sealr.config import load_config
from sealr.content.profiles import Profiles
from sealr.data.ingest import ingest
from sealr.data.manifest import StageResult, run_stage
from sealr.data.sequences import build
from sealr.data.tables import EMOTIONS, read_table, write_json, write_table
from sealr.evaluate.evaluate import evaluate
from sealr.evaluate.gladness import gladness
from sealr.rerank.rerank import FUSED, GLAD
from sealr.rerank.satisfying import FORECAST, PLACEBO
from sealr.retrieve import models
from sealr.retrieve.retriever import Retriever, save
from sealr.satisfaction.learn import REASONS
from sealr.satisfaction.reasons import item_feelings

FELT = {5: ("joy", 2), 4: ("approval", 2), 3: ("neutral", 0), 2: ("disappointment", -1), 1: ("anger", -2)}
POOL = 20
HOSTILE = "<script>alert('$x$')</script> & \"co\""
STAGES = ("ingest", "label", "satisfaction", "content", "retriever", "retrieve", "finetune", "rerank", "evaluate")
CURVES = [{"epoch": n, "train_loss": 5.0 - n, "valid_loss": 5.5 - n, "valid_ndcg@10": n / 9} for n in (1, 2, 3)]


class FinishedJob:
    """Writes a job of 90 demo users up to a stage. Every title and text is HOSTILE where ``hostile``."""

    def __init__(self, until: str = "evaluate", kind: str = "finetune", hostile: bool = False) -> None:
        settings = "data.demo_users=90 retrieve.hidden=8 retrieve.layers=1 retrieve.content=none evaluate.bootstrap=100"
        self.config, self.hostile, self.made = load_config("demo", "smollm2-135m", settings), hostile, {}
        with tracking.job(kind, self.config) as self.run_id:
            for name in STAGES[: STAGES.index(until) + 1]:
                self.stage(name)

    def stage(self, name: str) -> None:
        work = getattr(self, name)
        inputs = {"content": self.made["content"]} if name == "retriever" else {}
        settings = {"labeller": "toy 1", "hostile": self.hostile}

        def run() -> None:
            self.made[name] = run_stage(name, "demo", settings, inputs, ("data/prune.py",), work)

        if name == "content":  # it is made within another stage
            return run()
        shown = "retriever sasrec" if name == "retriever" else name
        with tracking.stage(shown, self.run_id, {}):
            run()
            tracking.log_manifest(self.made[name])

    def table(self, stage: str, name: str) -> pd.DataFrame:
        return read_table(self.made[stage].path(f"{name}.parquet"), name)

    def ingest(self, folder):
        made = ingest(self.config.data, folder, {})
        write_table(pd.DataFrame({
            "source": "r.csv", "line": [3, 7, 9], "reason": ["k-core", "k-core", "missing user"], "record": "x",
        }), folder / "rejected.parquet", "rejected")  # fmt: skip
        if self.hostile:
            for name, column in (("items", "title"), ("reviews", "text")):
                table = read_table(folder / f"{name}.parquet", name)
                write_table(table.assign(**{column: HOSTILE}), folder / f"{name}.parquet", name)
        return StageResult(made.rows | {"read": made.rows["reviews"] + 3, "rejected": 3}, made.metrics)

    def label(self, folder):
        reviews = self.table("ingest", "reviews")
        felt = [FELT[round(star)] for star in reviews["rating"]]
        labels = reviews[["user", "position"]].assign(
            emotion=[e for e, _ in felt],
            score=0.9,
            sentiment=[s for _, s in felt],
            expected=[float(s) for _, s in felt],
        )
        labels = labels.assign(reason=None, **{f"p_{e}": (labels["emotion"] == e).astype(float) for e in EMOTIONS})
        write_table(labels, folder / "labels.parquet", "labels")
        return StageResult({"labelled": len(labels), "null": 0}, {"pearson_rating": 0.97})

    def satisfaction(self, folder):
        sequences = build(self.table("ingest", "reviews"))
        item_feelings(self.table("label", "labels"), sequences).to_parquet(folder / REASONS)
        return StageResult({"reviews": 9})

    def content(self, folder):
        n = len(self.table("ingest", "items"))
        vectors = torch.nn.functional.normalize(torch.randn(n + 1, 6, generator=torch.manual_seed(0)), dim=1)
        vectors[0] = 0
        Profiles({"reviews": vectors, "metadata": 0 * vectors}, {}, {}).save(folder)
        return StageResult()

    def retriever(self, folder):
        config, items = self.config.retrieve, build(self.table("ingest", "reviews")).items
        torch.manual_seed(0)
        model = models.build(config, len(items)).eval()
        popularity = np.array([-np.inf, *range(len(items))], dtype=np.float32)
        save(Retriever(config, items, model, popularity), folder, {})
        write_json([{"epoch": n, "train_loss": 1 / n, "ndcg@10": n / 10} for n in (1, 2, 3)], folder / "history.json")
        return StageResult({}, {"best_epoch": 3})

    def retrieve(self, folder):
        figures = {"gain": [0.05, 0.02, 0.08], "over_placebo": [0.06, 0.03, 0.09]}
        write_json({"words": "Texts help.", "figures": figures}, folder / "texts.json")
        return self.retriever(folder)

    def finetune(self, folder):
        write_json(CURVES, folder / "history.json")
        return StageResult({}, {"best_epoch": 2})

    def rerank(self, folder):
        sequences = build(self.table("ingest", "reviews"))
        rows = range(len(sequences))
        rng, frames = np.random.default_rng(0), []
        for row, target in zip(rows, sequences.targets("test", rows), strict=True):
            others = rng.permutation(np.setdiff1d(np.arange(1, sequences.n_items + 1), [target]))
            pool = np.append(others[: POOL - 1], target)
            base, llm, glad = (
                rng.normal(size=POOL),
                rng.normal(size=POOL) + 1.5 * (pool == target),
                rng.normal(size=POOL),
            )
            scores = {"retriever": base, "scoring": llm, FUSED: base + llm, GLAD: base + llm + 0.5 * glad}
            for ranker, values in scores.items():
                order = np.argsort(-values)
                names = [sequences.items[i - 1] for i in pool[order]]
                part = {"user": sequences.users[row], "item": names, "rank": range(1, POOL + 1), "score": values[order]}
                frames += [pd.DataFrame(part | {"ranker": ranker, "split": split}) for split in ("test", "injected")]
        write_table(pd.concat(frames), folder / "rankings.parquet", "rankings")
        names = ("weight", "HR@10", "HR@10 liked minus disliked")
        test = [dict(zip(names, row, strict=True)) for row in ((0.0, 0.6, 0.1), (0.5, 0.58, 0.2), (1.0, 0.5, 0.25))]
        rises = {FORECAST: [0.13, 0.01, 0.24], PLACEBO: [-0.04, -0.11, 0.04]}
        write_json({
            "weight": 1.0, "satisfaction_weight": 0.5, "test_users": [sequences.users[row] for row in rows],
            "satisfaction": {name: {"rise": rise, "test": test} for name, rise in rises.items()},
        }, folder / "fusion.json")  # fmt: skip
        return StageResult()

    def evaluate(self, folder):
        sequences, labels = build(self.table("ingest", "reviews")), self.table("label", "labels")
        users = sequences.users
        ranks = np.arange(1, len(sequences) + 1) % POOL + 1
        glad = gladness(self.table("ingest", "reviews"), labels, sequences)
        rankings = self.table("rerank", "rankings")
        findings = ["Texts help."]
        return evaluate(rankings, ranks, users, 1.0, sequences, glad, self.config.evaluate, folder, (), None, findings)
