"""Two versions asked in hindsight: figures by hand, rows set aside, and the real command on a real store."""

import json
import math
from collections import Counter
from types import SimpleNamespace

import mlflow
import numpy as np
import pandas as pd
import pytest

from sealr.cli import main
from sealr.data.sources.lines import DataFileError
from sealr.registry import hindsight, hindsight_run
from sealr.registry.hindsight import AGAIN, HindsightError, Taken, judge, read_taken
from sealr.serving import recommender as serving
from sealr.serving.packing import Weights
from tests.registry.test_promote import empty, store  # noqa: F401  (fixtures)
from tests.serving.small_model import OnlyAnger, small_recommender
from tests.serving.toy_model import ITEMS, USERS, toy_registration

NAMES = ("version 1", "version 2")
SECOND, THIRD = 1 / math.log2(3), 0.5  # NDCG of ranks 2 and 3


class Version:
    """What a comparison reads of a model: its users, their histories, its items and its lists."""

    def __init__(self, lists, stored=None, items="wxyz", users="plain"):
        self.lists, self.stored_as = lists, str
        self.config = SimpleNamespace(registry=SimpleNamespace(users=users))
        ids = {item: n for n, item in enumerate(items, 1)}
        self.retriever = SimpleNamespace(items=list(items), item_to_id=ids)
        self.histories = {user: ([ids[i] for i in (stored or {}).get(user, "")], None, None) for user in lists}
        self.knows = self.histories.__contains__

    def predict(self, frame, params):
        assert params == {"top_k": 10}
        return pd.DataFrame({"items": [list(self.lists[user]) for user in frame["user"]]})


def taken(*rows, aside=()):
    rows = [(*row, math.nan)[:3] for row in rows]
    return Taken(pd.DataFrame(rows, columns=["user", "item", "rating"]), Counter(aside))


def means(made, name):
    return [interval[0] for interval in made.figures[name]]


def test_users_count_alike_and_an_item_that_nobody_knows_is_a_miss_for_both():
    first, second = Version({"ann": "xyz", "bob": "xyz"}), Version({"ann": "zw", "bob": "yx"}, items="wxyzn")
    made = judge(first, second, NAMES, taken(("ann", "y"), ("bob", "q"), ("ann", "z"), ("bob", "n")), 200)
    assert (made.users, made.rows, made.aside) == (2, 4, Counter())
    assert made.unknown == {"both versions": 1, "version 1": 1}
    # ann: ranks 2 and 3 against a miss and 1; bob: only misses
    assert means(made, "HR@10") == pytest.approx([0.5, 0.25, -0.25])
    assert means(made, "NDCG@10") == pytest.approx([(SECOND + THIRD) / 4, 0.25, 0.25 - (SECOND + THIRD) / 4])
    _, low, high = made.figures["HR@10"][2]
    assert (low, high) == (-0.5, 0)  # both ann, or both bob
    assert "HR@10 liked" not in made.figures


def test_what_a_version_cannot_be_asked_is_set_aside_with_its_reason():
    first = Version({"ann": "x", "bob": "x"}, {"ann": "wy"})
    second = Version({"ann": "x", "eve": "x"}, {"ann": "wz"})
    rows = [
        ("ann", "x"),
        ("ann", "w"),
        ("ann", "y"),
        ("ann", "z"),
        ("bob", "x"),
        ("eve", "x"),
        ("eve", "y"),
        ("z", "x"),
    ]
    made = judge(first, second, NAMES, taken(*rows, aside=[AGAIN]), 200)
    assert (made.users, made.rows) == (1, 1) and means(made, "HR@10") == [1, 1, 0]
    assert made.aside == {
        AGAIN: 1,
        "item in the user's history in both versions": 1,
        "item in the user's history in version 1": 1,
        "item in the user's history in version 2": 1,
        "user unknown to version 1": 2,
        "user unknown to version 2": 1,
        "user unknown to both versions": 1,
    }
    assert "set aside: 2 rows, user unknown to version 1" in hindsight_run.counts(made)
    assert hindsight_run.conclusion(made) == "Only 1 of the users can be compared, and fewer than 30 decide nothing."


def many(first, second, ratings=None):
    """Thirty users who take x, with the lists that all of them get."""
    users = [f"u{n}" for n in range(30)]
    rows = [(user, "x", math.nan if ratings is None else ratings[n]) for n, user in enumerate(users)]
    sides = (Version(dict.fromkeys(users, items)) for items in (first, second))
    return judge(*sides, NAMES, taken(*rows), 200)


def test_equal_versions_have_a_difference_of_0_and_others_are_better_or_worse():
    equal = many("yx", "yx")
    assert equal.figures["NDCG@10"][2] == (0, 0, 0) and equal.figures["HR@10"][0] == (1, 1, 1)
    assert hindsight_run.conclusion(equal) == (
        "By NDCG@10, version 2 and version 1 cannot be told apart: +0.0000 (+0.0000 to +0.0000) contains 0."
    )
    said = "version 2 would have been {} than version 1 for what these users took: {}0.3691"
    assert said.format("better", "+") in hindsight_run.conclusion(many("yx", "xy"))
    assert said.format("worse", "-") in hindsight_run.conclusion(many("xy", "yx"))


def test_liked_and_disliked_items_have_figures_of_their_own_from_30_users_on():
    assert list(many("xy", "yz", [4.0] * 30).figures) == ["HR@10", "NDCG@10", "HR@10 liked"]
    assert means(many("xy", "yz", [3.0] * 30), "HR@10 disliked") == [1, 0, -1]
    assert list(many("xy", "yz", [5.0] * 29 + [3.5]).figures) == ["HR@10", "NDCG@10"]


def test_nothing_to_compare_says_why():
    with pytest.raises(HindsightError, match=r"nothing can be compared: user unknown to version 2 \(2 rows\)"):
        judge(Version({"ann": "x"}), Version({}), NAMES, taken(("ann", "x"), ("ann", "y")), 200)
    with pytest.raises(HindsightError, match=r"version 2: no histories of users are kept \(registry.users=none\)"):
        judge(Version({"ann": "x"}), Version({}, users="none"), NAMES, taken(("ann", "x")), 200)


def test_a_real_model_is_asked_as_a_server_asks_it(monkeypatch):
    monkeypatch.setattr(serving.Labeller, "from_config", lambda config: OnlyAnger())
    monkeypatch.setattr(hindsight, "ROWS", 1)
    first, second = small_recommender(Weights(0.0), llm=False), small_recommender(Weights(50.0))
    (given,) = second.predict(pd.DataFrame({"user": ["ann"]}), {})["items"]
    made = judge(first, second, NAMES, taken(("ann", given[2]), ("ann", "i02"), ("all", "new")), 200)
    assert made.aside == {"item in the user's history in both versions": 1} and made.unknown == {"both versions": 1}
    assert means(made, "NDCG@10")[1] == THIRD / 2  # ann's rank is 3, and "new" is a miss


@pytest.mark.filterwarnings("ignore:``mlflow.metrics:FutureWarning")  # deprecated
def test_the_figures_are_those_of_mlflow_for_one_item_a_user():
    lists = {f"u{n}": "wxyz"[n % 3 :] for n in range(12)}
    rows = [(user, "wxyzn"[n % 5]) for n, user in enumerate(lists)]
    made = judge(Version(lists), Version(lists), NAMES, taken(*rows), 200)
    targets = pd.Series([[item] for _, item in rows])
    answers = pd.Series([list(items) for items in lists.values()])
    for name, metric in (("HR@10", mlflow.metrics.recall_at_k(10)), ("NDCG@10", mlflow.metrics.ndcg_at_k(10))):
        scores = metric.eval_fn(answers, targets).scores
        assert 0 < np.mean(scores) < 1 and means(made, name)[0] == pytest.approx(np.mean(scores))


def test_files_of_any_format_and_rows_that_are_none(tmp_path):
    (tmp_path / "next.csv").write_text("user;item;rating;shop\n7;i1;5;a\n7;i1;2;b\n;i2;;c\n8;i2;;d\n9;i3;six;e\n")
    found = read_taken(tmp_path / "next.csv")
    assert found.rows.values.tolist()[0] == ["7", "i1", 5.0] and math.isnan(found.rows["rating"][1])
    assert found.aside == {AGAIN: 1, "missing user": 1, "rating not a number": 1}
    pd.DataFrame({"user": [7, 8], "item": ["i1", "i2"]}).to_parquet(tmp_path / "next.parquet")
    (tmp_path / "next.jsonl").write_text('{"user": 7, "item": "i1"}\n{"user": "8", "item": "i2"}\n')
    for name in ("next.parquet", "next.jsonl"):
        assert read_taken(tmp_path / name).rows[["user", "item"]].values.tolist() == [["7", "i1"], ["8", "i2"]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("user,itm\nann,x\n", "no column item; did you mean itm? It needs user and item; its columns: user, itm"),
        ("name,thing\nann,x\n", "no column user. It needs"),
        ("user,item\n", "has no rows"),
        ("", "has no rows"),
        ('user,item\nann,"x\n', "row 2"),
    ],
)
def test_a_file_that_cannot_be_compared_is_a_sentence(content, said, tmp_path):
    (tmp_path / "next.csv").write_text(content)
    with pytest.raises((HindsightError, DataFileError)) as error:
        read_taken(tmp_path / "next.csv")
    assert said in str(error.value) and "next.csv" in str(error.value)


@pytest.mark.slow
def test_the_command_compares_two_registered_versions_and_mlflow_shows_it(parts, store, monkeypatch, capsys):  # noqa: F811
    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main(["compare", *arguments, "--next", "next.csv"])
        return (end.value.code, *capsys.readouterr())

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/mlflow.db")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.setenv("SEALR_HOME", str(store / "state"))
    for satisfaction in (0.0, 100.0):
        with mlflow.start_run(experiment_id="0"):
            toy_registration(parts, store / "state", weight=0.0, satisfaction=satisfaction)
    rows = [f"{user},{ITEMS[(start + 7) % 12]}" for start, user in enumerate(USERS)]  # six items on, and then one
    (store / "next.csv").write_text("\n".join(["user,item", *rows, "stranger,i01"]))
    assert "both version 1" in run("models:/sealr/1", "models:/sealr@champion")[2]
    assert "sealr has no version 3" in run("models:/sealr/1", "models:/sealr/3")[2]
    code, out, err = run("models:/sealr@champion", "models:/sealr/2")
    assert code == 0 and "version 2 minus version 1" in out, err
    assert "compared: 24 rows of 24 users\nset aside: 1 row, user unknown to both versions\nOnly 24 " in out
    (made,) = mlflow.search_runs(experiment_names=["sealr"], output_format="list")
    made = mlflow.get_run(made.info.run_id)  # a search leaves models out
    assert made.info.run_id in out and made.info.run_name == "compare v1 v2"
    assert made.data.tags["mlflow.note.content"].startswith("Only 24 of the users")
    assert len(made.inputs.model_inputs) == 2 and made.inputs.dataset_inputs[0].dataset.name == "toy.next"
    text = mlflow.artifacts.load_text(f"{made.info.artifact_uri}/comparison.json")
    figures = json.loads(text)["figures"]
    assert '"u1"' not in text and figures["NDCG@10"][0][0] != figures["NDCG@10"][1][0]
    for place in (0, 1):
        model = mlflow.get_logged_model(mlflow.models.get_model_info(f"models:/sealr/{place + 1}").model_id)
        shown = {m.key: m.value for m in model.metrics if m.dataset_name == "toy.next" and m.run_id == made.info.run_id}
        assert [shown[f"NDCG_at_10{end}"] for end in ("", ".low", ".high")] == figures["NDCG@10"][place]
    assert made.data.metrics["difference.NDCG_at_10"] == figures["NDCG@10"][2][0]
