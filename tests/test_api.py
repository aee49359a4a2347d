"""The Python API on DataFrames: what a notebook user types, and what is said about mistakes."""

import subprocess
import sys

import mlflow
import numpy as np
import pandas as pd
import pytest

import sealr
from sealr.config import ConfigError
from sealr.data import frames
from sealr.data.sources.demo import generate
from sealr.data.tables import read_json, read_table
from sealr.serving.request import BadRequest

USERS = 40
SMALL = {
    "data.category": "beauty products",
    "label.cache": False,
    "retrieve": {"hidden": 16, "epochs": 10, "eval_every": 1, "n_retrieved": 20, "dropout": 0.1},
    "rerank": {"finetune_share": 0.5, "n_reranked": 12, "max_history": 4, "epochs": 2, "lr": 0.01},
    "evaluate": {"users": 12, "valid_users": 12},
}
HISTORY = [{"item": "D0001", "text": "I love it"}, {"item": "D0002", "sentiment": -2}, {"item": "D0003"}]


@pytest.fixture(scope="module")
def demo():
    reviews, items, _ = generate(USERS, 7)
    return reviews, items


@pytest.fixture(scope="module")
def settings(toy_llama, toy_labeller):
    return SMALL | {"rerank.base": str(toy_llama), "label.model": str(toy_labeller)}


@pytest.fixture(scope="module", autouse=True)
def workplace(tmp_path_factory):
    """A working folder without a tracking server, as a notebook has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder := tmp_path_factory.mktemp("notebook"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("SEALR_HOME", raising=False)
        yield folder


@pytest.fixture(scope="module")
def model(demo, settings):
    return sealr.fit(*demo, config=settings, quiet=True)


@pytest.fixture(scope="module")
def registered(model):
    return model.register("my-shop")


@pytest.fixture(scope="module")
def fast(demo, settings):
    """A retriever alone; the frames have names and types of their own, and the LLM is not on this machine."""
    reviews, items = demo
    reviews = reviews.assign(when=pd.to_datetime(reviews["timestamp"], unit="s")).drop(columns=["timestamp", "rating"])
    reviews = reviews.rename(columns={"user": "customer_id", "item": "asin"})
    return sealr.fit(
        reviews,
        items,
        config=settings | {"rerank.base": "nowhere"},
        columns={"user": "customer_id", "item": "asin", "timestamp": "when"},
        name="fast",
        llm=False,
        quiet=True,
    )


def test_importing_sealr_loads_no_library():
    code = "import sys, sealr; sys.exit(bool({'torch', 'pandas', 'mlflow'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.slow
def test_no_prefect_is_needed():
    code = "import sys, sealr.api, sealr.pipeline.local; sys.exit('prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.slow
def test_recommend_gives_ranked_rows(model, demo):
    reviews, items = demo
    table = model.recommend(["u0001", "u0002"], k=5)
    assert list(table) == ["user", "item", "title", "rank", "score", "reason"]
    assert table["user"].tolist() == ["u0001"] * 5 + ["u0002"] * 5
    assert table["rank"].tolist() == [1, 2, 3, 4, 5] * 2
    assert (table.groupby("user")["score"].diff().dropna() <= 0).all()
    seen = reviews.groupby("user")["item"].agg(set)
    assert not any(item in seen[user] for user, item in zip(table["user"], table["item"], strict=True))
    assert table["title"].tolist() == table["item"].map(items.set_index("item")["title"]).tolist()
    assert model.recommend("u0001", k=5).equals(table.head(5))
    assert model.recommend(pd.Series(["u0001"]), k=5).equals(table.head(5))
    assert len(model.recommend(k=2)) == 2 * len(model.users)


@pytest.mark.slow
def test_recommend_to_a_history(model):
    table = model.recommend(history=HISTORY, k=3)
    assert len(table) == 3 and table["user"].isna().all()
    frame = pd.DataFrame(HISTORY).assign(rating=5.0)
    assert model.recommend(history=frame, k=3).equals(table)
    assert model.recommend("somebody new", history=HISTORY, k=3)["user"].tolist() == ["somebody new"] * 3
    explained = model.recommend(history=HISTORY, k=3, explain=True)
    assert explained["item"].tolist() == table["item"].tolist()
    assert explained["reason"].str.contains("because of|in spite of").all()


@pytest.mark.slow
def test_satisfaction_has_no_weight_where_too_few_users_choose_it(model):
    """Twelve validation users choose nothing, and the parameter then changes nothing."""
    assert model.recommender.forecast is None and "satisfaction" not in repr(model)
    assert (
        "Satisfaction is off: too few"
        in read_json(model.manifests["rankings"].path("fusion.json"))["satisfaction_in_words"]
    )
    assert model.manifests["satisfaction"].rows["reviews"] > 100
    usual = model.recommend(["u0001", "u0002"], k=5)
    assert model.recommend(["u0001", "u0002"], k=5, satisfaction_weight=0).equals(usual)


@pytest.fixture(scope="module")
def silent(demo, settings):
    """A whole job on reviews without stars and without texts."""
    reviews = demo[0].drop(columns="rating").assign(text="")
    return sealr.fit(reviews, config=settings, columns={"rating": None}, name="silent", quiet=True)


@pytest.mark.slow
def test_without_stars_and_texts_there_is_no_satisfaction_and_all_else_works(silent):
    made = silent.manifests
    assert made["labels"].rows["labelled"] == 0 and made["satisfaction"].rows["reviews"] == 0
    fusion = read_json(made["rankings"].path("fusion.json"))
    assert fusion["satisfaction_weight"] == 0 and "satisfaction" not in fusion
    rankers = set(read_table(made["rankings"].path("rankings.parquet"), "rankings")["ranker"])
    assert rankers == {"retriever", "scoring", "fused"}
    assert not (silent.folder / "satisfaction").exists() and silent.recommender.forecast is None
    usual = silent.recommend("u0001", k=3)
    assert len(usual) == 3 and silent.recommend("u0001", k=3, satisfaction_weight=2).equals(usual)
    assert len(silent.recommend(history=[{"item": "D0001", "rating": 5, "text": "I love it"}], k=3)) == 3
    assert "fused" in set(silent.evaluate()["system"])
    assert silent.register("silent").version == "1"


@pytest.mark.slow
def test_seen_items_on_request(model, demo):
    reviews, items = demo
    everything = model.recommend("u0001", k=len(items), exclude_seen=False)
    assert set(reviews.loc[reviews["user"] == "u0001", "item"]) <= set(everything["item"])


@pytest.mark.slow
def test_an_unknown_user_gets_popular_items_and_a_warning(model):
    with pytest.warns(UserWarning, match="'nobody' is not known.*popular items"):
        table = model.recommend(["nobody"], k=3)
    assert table["reason"].str.startswith("popular").all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"users": "u0001", "k": 0}, "top_k must be a whole number"),
        ({"users": [1.5]}, "user must be an id"),
        ({"history": [{"text": "no item"}]}, "each with an item"),
        ({"users": "u0001", "exclude_seen": "yes"}, "exclude_seen must be true or false"),
        ({"users": "u0001", "satisfaction_weight": -1}, "satisfaction_weight must be a number from 0"),
        ({"users": "u0001", "satisfaction_weight": "high"}, "satisfaction_weight must be a number from 0"),
        ({"users": "u0001", "satisfaction_weight": True}, "satisfaction_weight must be a number from 0"),
        ({"history": [{"item": "D0001", "rating": 6}]}, "rating must be a number of stars from 1 to 5"),
    ],
)
def test_wrong_requests(model, arguments, message):
    with pytest.raises(BadRequest, match=message):
        model.recommend(**arguments)


@pytest.mark.slow
def test_evaluate_shows_protocols_and_intervals(model):
    table = model.evaluate()
    assert list(table)[:3] == ["protocol", "system", "users"]
    assert list(table)[-3:] == ["NDCG@10 difference", "low", "high"]
    values = table.set_index(["protocol", "system"])
    fused = values.loc["full", "fused"]
    difference = fused["NDCG@10"] - values.loc["full", "retriever"]["NDCG@10"]
    assert fused["NDCG@10 difference"] == pytest.approx(difference)
    assert fused["low"] <= difference <= fused["high"]
    beyond_chance = values.loc["injected", "fused"]["NDCG@10"] - values.loc["injected", "chance"]["NDCG@10"]
    assert values.loc["injected", "fused"]["NDCG@10 difference"] == pytest.approx(beyond_chance)
    assert values.loc["full", "retriever"][["NDCG@10 difference", "low", "high"]].isna().all()


@pytest.mark.slow
def test_the_served_model_answers_the_same(model, registered):
    assert registered.version == "1" and registered.aliases == ("challenger",)
    assert "fewer than 30 decide nothing" in registered.reason
    assert model.register("my-shop").version == "1"  # nothing changed
    mine = model.recommend(["u0001", "u0003"], k=4)
    loaded = sealr.load("models:/my-shop@challenger")
    assert loaded.recommend(["u0001", "u0003"], k=4).equals(mine)
    assert loaded.recommend(history=HISTORY, explain=True).equals(model.recommend(history=HISTORY, explain=True))
    assert sealr.load(model.folder).recommend(["u0001", "u0003"], k=4).equals(mine)
    served = mlflow.pyfunc.load_model("models:/my-shop/1").predict(
        pd.DataFrame({"user": ["u0001", "u0003"]}), {"top_k": 4}
    )
    assert np.concatenate(served["items"].to_list()).tolist() == mine["item"].tolist()
    assert np.concatenate(served["scores"].to_list()).tolist() == mine["score"].tolist()
    assert np.concatenate(served["reasons"].to_list()).tolist() == mine["reason"].tolist()


@pytest.mark.slow
def test_a_loaded_model_only_recommends(model):
    loaded = sealr.load(model.folder)
    for what in (loaded.evaluate, lambda: loaded.register("again")):
        with pytest.raises(ValueError, match="on the model that sealr.fit returns"):
            what()
    assert repr(loaded) == repr(model)
    assert "40 users" in repr(model) and "sasrec" in repr(model)


@pytest.mark.slow
def test_an_equal_fit_repeats_no_work(model, demo, settings):
    again = sealr.fit(*(frame.copy() for frame in demo), config=settings, quiet=True)
    assert all(manifest.reused for manifest in again.manifests.values())
    assert again.folder == model.folder


@pytest.mark.slow
def test_a_retriever_alone(fast, model, demo):
    assert set(fast.manifests) == {"reviews", "candidates"}
    assert "no re-ranker" in repr(fast)
    stored, usual = (read_table(m.manifests["reviews"].path("reviews.parquet"), "reviews") for m in (fast, model))
    assert stored.drop(columns="rating").equals(usual.drop(columns="rating")) and stored["rating"].isna().all()
    table = fast.recommend("u0001", k=3)
    assert len(table) == 3 and not table["reason"].str.contains("LLM|felt").any()
    metrics = fast.evaluate()
    assert metrics.loc[0, "users"] == USERS
    assert metrics.loc[0, "low"] <= metrics.loc[0, "NDCG@10"] <= metrics.loc[0, "high"]
    assert sealr.load(fast.folder).recommend("u0001", k=3).equals(table)
    with pytest.raises(ValueError, match="llm=True"):
        fast.register("my-shop")


def test_frames_are_stored_once_with_plain_types(tmp_path, monkeypatch):
    monkeypatch.setenv("SEALR_HOME", str(tmp_path))
    reviews = pd.DataFrame(
        {"user": [7.0, None], "item": ["a", 5], "timestamp": ["2020-01-02", "2020-01-03T10:00+02:00"]}
    )
    items = pd.DataFrame({"item": ["a"], "categories": [["Beauty", "Hair"]], "unused": [object()]})
    stored, settings = frames.store(reviews, items, {"text": None}, "mine")
    assert pd.read_parquet(stored.path("reviews.parquet"))["user"].tolist()[0] == "7"
    assert pd.read_parquet(stored.path("reviews.parquet"))["item"].tolist() == ["a", "5"]
    assert pd.read_parquet(stored.path("items.parquet")).to_dict("records") == [
        {"item": "a", "categories": "Beauty > Hair"}
    ]
    assert (
        settings["data.time_unit"] == "iso"
        and settings["data.columns.text"] == ""
        and settings["data.columns.title"] == ""
    )
    again, _ = frames.store(reviews.copy(), items, {"text": None}, "mine")
    assert again.reused and again.folder == stored.folder
    changed, _ = frames.store(reviews.head(1), items, {"text": None}, "mine")
    assert changed.folder != stored.folder


@pytest.mark.parametrize(
    ("change", "arguments", "error", "message"),
    [
        (lambda r: r.rename(columns={"user": "user_id"}), {}, ValueError, "no column 'user'; did you mean user_id"),
        (lambda r: r.drop(columns="text"), {}, ValueError, "columns={'text': None} if there is none"),
        (lambda r: r, {"columns": {"usr": "user"}}, ValueError, "did you mean user"),
        (lambda r: r, {"columns": {"rating": "stars"}}, ValueError, "no column 'stars'"),
        (lambda r: r.head(0), {}, ValueError, "reviews has no rows"),
        (lambda r: r.to_dict("records"), {}, TypeError, "must be a pandas DataFrame, got list"),
        (lambda r: pd.concat([r, r["user"]], axis=1), {}, ValueError, "2 columns named 'user'"),
        (lambda r: r, {"config": {"retrieve.epoch": 3}}, ConfigError, "did you mean retrieve.epochs"),
        (lambda r: r, {"config": "retrieve.epochs=3"}, TypeError, "config is a mapping"),
        (lambda r: r, {"config": {"retrieve.epochs": "many"}}, ConfigError, "retrieve.epochs"),
        (lambda r: r, {"name": "../up"}, ValueError, "data.name"),
    ],
)
def test_mistakes_are_one_sentence(demo, change, arguments, error, message):
    with pytest.raises(error, match=message):
        sealr.fit(change(demo[0]), quiet=True, llm=False, **arguments)


def test_nothing_to_load(tmp_path):
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "far" / "away" / "model.json").write_text("{}", encoding="utf-8")  # somebody else's
    with pytest.raises(FileNotFoundError, match="holds no model"):
        sealr.load(tmp_path)
