"""The Python API: `fit` a recommender on DataFrames, `load` one from the registry. See docs/api.md.

It runs the stages of `sealr.pipeline`, so unchanged stages are skipped and an interrupted `fit` resumes when it is
called again. It needs neither a Prefect nor an MLflow server.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sealr.config import load_config
from sealr.data import frames
from sealr.data.tables import read_json
from sealr.flows import NOISY

if TYPE_CHECKING:  # these modules import torch, transformers and MLflow
    from sealr.data.manifest import Manifest
    from sealr.pipeline.job import Job
    from sealr.registry.promote import Registration
    from sealr.serving.recommender import Recommender

ANSWER = ["user", "item", "title", "rank", "score", "reason"]
METRICS = ["protocol", "system", "users", "HR@5", "HR@10", "NDCG@5", "NDCG@10"]  # the first columns of `evaluate`
BATCH = 256  # users ranked together


class Model:
    """A recommender that `fit` trained or `load` read.

    folder: the packed model on disk; `load` reads it as well.
    manifests: what `fit` made, by name: reviews, labels, candidates, adapter, rankings, results, and what it refitted,
    such as refit-retriever. Each knows its ``folder``, ``metrics`` and ``rows``. Empty after `load`.
    """

    def __init__(self, folder: Path, job: Job | None = None, manifests: Mapping[str, Manifest] | None = None):
        from sealr.serving.recommender import Recommender

        self.folder, self.manifests, self._job = folder, dict(manifests or {}), job
        self.recommender: Recommender = Recommender.load(folder)

    def __repr__(self) -> str:
        config, weights = self.recommender.config, self.recommender.weights
        reranker = f"{config.rerank.ranker} re-ranker of weight {weights.llm:g}" if weights.llm else "no re-ranker"
        reranker += f", satisfaction of weight {weights.satisfaction:g}" if weights.satisfaction else ""
        known = f"{len(self.recommender.histories):,} users, {len(self.recommender.retriever.items):,} items"
        return f"<sealr.Model of {config.data.name!r}: {known}; {config.retrieve.model} retriever, {reranker}>"

    @property
    def users(self) -> list[str]:
        """Ids of the users whose history the model has stored. Raises BadRequest if it keeps no ids."""
        return self.recommender.users

    def recommend(
        self,
        users: str | int | Iterable[str | int] | None = None,
        history: pd.DataFrame | Sequence[Mapping[str, Any]] | None = None,
        k: int = 10,
        exclude_seen: bool | None = None,
        explain: bool = False,
        satisfaction_weight: float = 1.0,
        include_items: Sequence[str] | None = None,
        exclude_items: Sequence[str] | None = None,
        categories: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """The k best items for each user, or for one history.

        users: ids as in the reviews; one or several. None, without a history: all users that the model knows.
        history: what one user bought, oldest first: a list of ``{"item": id, "text": review}`` or a DataFrame with
        these columns. ``rating``, 1 to 5 stars, may stand beside the text. ``sentiment``, from -2 to 2, may replace the
        text. All three may be missing. With a user that the model knows, it follows the stored history.
        exclude_seen: whether items of the history are left out; None: as the model was trained.
        explain: find reasons by leaving out each of the newest items in turn. This takes about 20 times as long.
        satisfaction_weight: 0 ranks by what users will take, 1 as validation chose, more by what they will be glad of.
        include_items: only these items, such as those in stock. exclude_items: none of these. categories: only items
        of any of these. All three act before candidates are chosen; an empty list is as none.

        Returns one row a recommendation: user, item, title, rank (from 1), score (higher is better; comparable
        within one user only) and reason. An unknown user gets popular items and a warning.
        Raises BadRequest, a ValueError, if an argument is malformed, or a key of a history or a category is unknown.

        >>> model.recommend(["u1", "u2"], k=5)
        >>> model.recommend(history=[{"item": "B1", "text": "I love it"}], k=5)
        """
        if history is not None:
            if isinstance(history, pd.DataFrame):
                from sealr.serving.request import KEY, refuse_unknown

                refuse_unknown(KEY, history.columns)  # also where all values are missing
            events = history.to_dict("records") if isinstance(history, pd.DataFrame) else list(history)
            asked = pd.DataFrame({"user": pd.Series([users], dtype=object), "history": [events]})
        else:
            users = self.users if users is None else users
            ids = [users] if isinstance(users, str) or not isinstance(users, Iterable) else list(users)
            asked = pd.DataFrame({"user": pd.Series(ids, dtype=object)})
        params: dict[str, Any] = {"top_k": k, "exclude_seen": exclude_seen, "explain": explain}
        params |= {"satisfaction_weight": satisfaction_weight, "categories": categories}
        params |= {"include_items": include_items, "exclude_items": exclude_items}
        parts = [asked.iloc[start : start + BATCH] for start in range(0, len(asked), BATCH)]
        answers = [a for part in parts for a in self.recommender.predict(part, params).to_dict("records")]
        notes = list(dict.fromkeys(note for answer in answers for note in answer["warnings"]))
        if notes:
            more = f" (and {len(notes) - 3} more warnings)" if len(notes) > 3 else ""
            warnings.warn("; ".join(notes[:3]) + more, stacklevel=2)
        rows = [
            (answer["user"], item, title, rank, score, reason)
            for answer in answers
            for rank, (item, title, score, reason) in enumerate(
                zip(answer["items"], answer["titles"], answer["scores"], answer["reasons"], strict=True), start=1
            )
        ]
        return pd.DataFrame(rows, columns=ANSWER)

    def evaluate(self) -> pd.DataFrame:
        """Metrics on the users' held-out last items: one row for each protocol and system.

        HR@k and NDCG@k are means over users, from 0 to 1. "NDCG@10 difference" is the gain over the retriever (protocol
        full) or over chance (protocol injected); "low" and "high" bound its 95 % interval. Without an LLM there is one
        row, of the retriever, and the interval is that of its NDCG@10. The numbers were computed by `fit`.
        Raises ValueError if the model was loaded: it carries no held-out data.
        """
        job, made = self._fitted("evaluate")
        if "results" not in made:
            from sealr.pipeline.local import retriever_metrics

            return retriever_metrics(job, made)
        results = read_json(made["results"].path("results.json"))
        rows, differences = pd.DataFrame(results["rows"]), results["differences"]
        table = rows[[*METRICS, *(column for column in rows if column not in METRICS)]].copy()
        beside = {"full": "minus retriever", "injected": "minus chance, injected"}
        names = [f"NDCG@10, {s} {beside.get(p, '')}" for p, s in zip(rows["protocol"], rows["system"], strict=True)]
        table[["NDCG@10 difference", "low", "high"]] = [differences.get(name, [np.nan] * 3) for name in names]
        return table

    def register(self, name: str) -> Registration:
        """Registers the model in MLflow under ``name`` and lets the gate decide whether it becomes champion.

        Returns name, version, aliases and the gate's reason. The first version becomes champion if it beats popularity
        on users on whom nothing was chosen, and a later one if it beats the champion there (docs/operate.md).
        Registering the same model again returns the same version.
        Raises ValueError if the model was loaded, has no LLM, or is a placebo.
        """
        job, made = self._fitted("register")
        if "results" not in made:
            raise ValueError(
                "the gate compares re-ranked lists, and this model has no LLM: call sealr.fit with llm=True"
            )
        from sealr.pipeline.registering import register

        config = replace(job.config, registry=replace(job.config.registry, name=name))
        with _session():
            registration = register(replace(job, config=config), made)
        if registration is None:
            raise ValueError("a placebo of shuffled feelings or texts, or of random weights, is not registered")
        return registration

    def _fitted(self, what: str) -> tuple[Job, dict[str, Manifest]]:
        if self._job is None:
            raise ValueError(f"a loaded model cannot {what}: call {what}() on the model that sealr.fit returns")
        return self._job, self.manifests


def fit(
    reviews: pd.DataFrame,
    items: pd.DataFrame | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    columns: Mapping[str, str | None] | None = None,
    name: str = "notebook",
    base: str = "smollm2-135m",
    llm: bool = True,
    home: str | Path | None = None,
    quiet: bool = False,
) -> Model:
    """Trains a recommender: cleans and labels the reviews, trains retriever and LLM, evaluates both, and refits them.

    The model that it returns has learned from all reviews. Its metrics are those of a twin that has not learned from
    anybody's two newest reviews.

    reviews: one row a review, with columns user, item, timestamp (datetimes, seconds since 1970 or ISO 8601 text, UTC
    unless they say otherwise), text, and optionally rating (1 to 5). Equal timestamps keep the frame's order.
    items: one row an item, with columns item and optionally title, brand and categories.
    config: settings by dotted name, such as ``{"retrieve.epochs": 20, "data.k_core": 1}``; see ``sealr config show``.
    columns: names in your frames, such as ``{"user": "customer_id"}``; ``{"text": None}`` if there are no texts.
    name: of the data set: a folder of the state folder, a tag in MLflow.
    base: the base LLM: a name in configs/ or a YAML file.
    llm: False stops after the retriever. This takes seconds instead of minutes and needs no LLM weights.
    home: the state folder; None: SEALR_HOME, else ``.sealr`` in the working folder.
    quiet: hides the progress lines.

    The run is tracked at MLFLOW_TRACKING_URI, else in ``mlflow.db`` in the working folder.
    Raises TypeError for anything but a DataFrame, ConfigError for a wrong setting, and other ValueErrors for missing
    columns, empty frames and data of which nothing is left.

    >>> model = sealr.fit(reviews, items, config={"retrieve.epochs": 20}, columns={"user": "customer_id"})
    """
    if not isinstance(config or {}, Mapping):
        raise TypeError(f"config is a mapping such as {{'retrieve.epochs': 20}}, not {type(config).__name__}")
    with _session(home, quiet):
        load_config("", base, {"data.name": name} | dict(config or {}))  # mistakes come before anything is written
        stored, settings = frames.store(reviews, items, columns or {}, name)
        configuration = load_config("", base, settings | dict(config or {}))
        try:
            from sealr import tracking
            from sealr.pipeline import local, stages
            from sealr.pipeline.job import Job
            from sealr.pipeline.refitting import refit

            with tracking.job("fit", configuration) as run_id:
                job = Job(configuration, run_id)
                with job.stage("frames", {}):
                    tracking.log_manifest(stored)
                made = refit(job, stages.through_evaluation(job) if llm else local.through_retrieval(job))
                return Model(local.packed(job, made), job, made)
        except ModuleNotFoundError as error:
            raise ImportError(f"training needs the package {error.name}: pip install 'sealr[train]'") from error


def load(source: str | Path) -> Model:
    """Reads a model to recommend with: ``models:/name@champion``, ``models:/name/3``, ``runs:/...`` or a folder.

    Raises FileNotFoundError if a folder holds no model, and MLflow's MlflowException if the registry has none.

    >>> sealr.load("models:/my-shop@champion").recommend("u1")
    """
    with _session(quiet=True):
        from sealr.serving.packing import located

        return Model(located(source))


@contextmanager
def _session(home: str | Path | None = None, quiet: bool = False) -> Iterator[None]:
    """The state folder and the loggers as the call wants them; afterwards as they were."""
    ours, handler = logging.getLogger("sealr"), logging.StreamHandler()
    levels = {logger: logger.level for logger in (ours, *map(logging.getLogger, NOISY))}
    environment = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "MLFLOW_LOGGING_LEVEL": "WARNING"}
    environment |= {"SEALR_HOME": str(home)} if home else {}
    before = {key: os.environ.get(key) for key in environment}
    for logger in levels:
        logger.setLevel(logging.WARNING)
    if not quiet:
        ours.setLevel(logging.INFO)
    if not (shown := ours.hasHandlers()):
        ours.addHandler(handler)
    os.environ.update(environment)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None) if value is None else os.environ.update({key: value})
        for logger, level in levels.items():
            logger.setLevel(level)
        if not shown:
            ours.removeHandler(handler)
