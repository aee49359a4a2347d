"""Loads two registered versions, compares them in hindsight (`sealr.registry.hindsight`), and shows it in MLflow.

Both versions' figures are logged under the same names, with the logged model and one data set: so MLflow's page of each
model and its comparison of both have them. `mlflow.models.evaluate` is not used. For one item a user, its deprecated
recall@k and NDCG@k are the same numbers. But they have no intervals, and what each user took, beside the lists, becomes
an artifact. Here artifacts hold counts and figures, and no users.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities import DatasetInput, InputTag, LoggedModelInput

from sealr import tracking
from sealr.data.manifest import text_digest
from sealr.evaluate.statistics import shown
from sealr.registry import promote
from sealr.registry.hindsight import NDCG, Hindsight, HindsightError, Taken, judge, read_taken
from sealr.registry.rule import FEWEST
from sealr.serving.batch import fetched, resolved
from sealr.serving.recommender import Recommender


@dataclass(frozen=True)
class Version:
    """A registered version, looked up once: an alias may move meanwhile."""

    name: str
    number: str

    @classmethod
    def find(cls, uri: str) -> Version:
        return cls(uri.removeprefix("models:/").partition("@")[0].partition("/")[0], resolved(uri) or "")

    @property
    def uri(self) -> str:
        return promote.uri(self.name, self.number)


def compare(first: str, second: str, file: Path) -> tuple[Hindsight, str]:
    """The comparison of the versions at two URIs, and the id of its MLflow run. file: see `read_taken`.

    Raises HindsightError, and what reading the file or loading a model raises.
    """
    taken, versions = read_taken(file), (Version.find(first), Version.find(second))
    if versions[0] == versions[1]:
        raise HindsightError(f"{first} and {second} are both version {versions[0].number}: name two versions")
    with tempfile.TemporaryDirectory(prefix="sealr-compare-") as scratch:
        folders = [fetched(version.uri, Path(scratch) / str(n))[0] for n, version in enumerate(versions)]
        a, b = (Recommender.load(folder) for folder in folders)
        made = judge(a, b, (_title(versions, 0), _title(versions, 1)), taken, b.config.evaluate.bootstrap)
    return made, _log(made, versions, taken, file, b.config.data.name)


def _title(versions: Sequence[Version], place: int, word: str = "version ") -> str:
    name = "" if versions[0].name == versions[1].name else f"{versions[place].name} "
    return f"{name}{word}{versions[place].number}"


def _log(made: Hindsight, versions: Sequence[Version], taken: Taken, file: Path, data: str) -> str:
    """Logs a comparison to a run of its own and returns the run's id. data: name of the data set."""
    digest = text_digest(taken.rows.astype(str).values.tolist())[:16]
    columns = {"user": "str", "item": "str", "rating": "float32"}
    dataset = tracking.dataset(f"{data}.next", digest, str(file), columns, len(taken.rows))
    models = [str(mlflow.models.get_model_info(version.uri).model_id) for version in versions]
    name = f"compare {_title(versions, 0, 'v')} {_title(versions, 1, 'v')}"
    tracking.choose_experiment()
    with mlflow.start_run(run_name=name, tags={promote.DATA: data}) as run:
        used = DatasetInput(dataset, [InputTag("mlflow.data.context", "evaluation")])
        mlflow.MlflowClient().log_inputs(run.info.run_id, [used], [LoggedModelInput(model) for model in models])
        for place, model in enumerate(models):
            mlflow.log_metrics(_metrics(made, place), model_id=model, dataset=dataset)
        counts = {"users": made.users, "rows": made.rows, "rows_set_aside": made.aside.total()}
        mlflow.log_metrics({f"difference.{k}": v for k, v in _metrics(made, 2).items()} | counts)
        mlflow.log_dict(vars(made), "comparison.json")
        tracking.describe(run.info.run_id, markdown(made))
    return str(run.info.run_id)


def _metrics(made: Hindsight, place: int) -> dict[str, float]:
    """Figures of a version (0, 1) or of the difference (2), with the ends of their intervals."""
    ends = ("", ".low", ".high")
    figures = {name + end: v for name, found in made.figures.items() for end, v in zip(ends, found[place], strict=True)}
    return tracking.plain(figures)


def table(made: Hindsight) -> list[list[str]]:
    """Rows of cells, the header first: each figure of both versions and of the difference, with intervals."""
    first, second = made.names
    rows = [["", first, second, f"{second} minus {first}"]]
    for name, (a, b, apart) in made.figures.items():
        rows.append([name, shown(*a, sign=""), shown(*b, sign=""), shown(*apart)])
    return rows


def counts(made: Hindsight) -> list[str]:
    """What was compared, what was not, and why."""
    lines = [f"compared: {_rows(made.rows)} of {made.users:,} {'user' if made.users == 1 else 'users'}"]
    lines += [f"a miss for {who}, which does not know the item: {_rows(n)}" for who, n in made.unknown.items()]
    return lines + [f"set aside: {_rows(n)}, {reason}" for reason, n in made.aside.most_common()]


def _rows(n: int) -> str:
    return f"{n:,} {'row' if n == 1 else 'rows'}"


def conclusion(made: Hindsight) -> str:
    """One sentence: what the interval of the difference in NDCG@10 says."""
    (first, second), apart = made.names, made.figures[NDCG][2]
    if made.users < FEWEST:
        return f"Only {made.users} of the users can be compared, and fewer than {FEWEST} decide nothing."
    if apart[1] <= 0 <= apart[2]:
        return f"By {NDCG}, {second} and {first} cannot be told apart: {shown(*apart)} contains 0."
    word = "better" if apart[1] > 0 else "worse"
    return f"By {NDCG}, {second} would have been {word} than {first} for what these users took: {shown(*apart)}."


def markdown(made: Hindsight) -> str:
    """The result as Markdown, for the page of the run."""
    header, *rows = [f"| {' | '.join(cells)} |" for cells in table(made)]
    lines = [conclusion(made), "", header, "|---|---|---|---|", *rows, "", *(f"* {line}" for line in counts(made))]
    return "\n".join(lines)
