"""A whole job where everybody's newest two reviews say what no other does: the twin cannot know it, the served can."""

import shutil
from dataclasses import replace

import mlflow
import numpy as np
import pandas as pd
import pytest

import sealr
from sealr import tracking
from sealr.data.manifest import StageResult, run_stage
from sealr.data.tables import read_json, read_table, write_json
from sealr.pipeline import local
from sealr.pipeline.job import Job
from sealr.pipeline.refitting import refit
from sealr.registry import gate, promote
from sealr.retrieve.train import load
from sealr.satisfaction.model import Satisfaction
from sealr.serving.recommender import Recommender

FIRST, SECOND = "x1", "x2"  # everybody's newest two items, in this order; nobody takes them elsewhere
SETTINGS = {
    "data.k_core": 1,
    "data.category": "things",
    "label.cache": False,
    "retrieve": {
        "model": "fusion",
        "parts": [{"model": "sasrec"}, {"model": "cooccurrence", "cooccurrence": {"decay": 0.5}}],
        **{"hidden": 16, "layers": 1, "dropout": 0.1, "epochs": 4, "eval_every": 1, "lr": 0.01, "n_retrieved": 12},
    },
    "rerank": {"finetune_share": 0.5, "n_reranked": 10, "max_history": 4, "epochs": 2, "batch_size": 8, "lr": 0.01},
}
pytestmark = pytest.mark.slow


def reviews() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user:02}", item, 86_400 * (10_000 + place), 1.0 + 4 * (item != SECOND), f"{item} is what it is")
        for user in range(40)
        for place, item in enumerate([*(f"i{n:02}" for n in rng.permutation(14)[:5]), FIRST, SECOND])
    ]
    return pd.DataFrame(rows, columns=["user", "item", "timestamp", "rating", "text"])


@pytest.fixture(scope="module", autouse=True)
def workplace(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder := tmp_path_factory.mktemp("refit"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("SEALR_HOME", raising=False)
        yield folder


@pytest.fixture(scope="module")
def fit(toy_llama, toy_labeller):
    models = {"rerank.base": str(toy_llama), "label.model": str(toy_labeller)}
    return lambda **more: sealr.fit(reviews(), config=SETTINGS | models | more, name="shop", quiet=True)


@pytest.fixture(scope="module")
def model(fit):
    return fit()


def test_the_served_model_knows_what_only_the_newest_two_items_say(model):
    twin, served = load(model.manifests["candidates"].folder), model.recommender.retriever
    place = [served.items.index(item) + 1 for item in (FIRST, SECOND)]
    assert twin.items == served.items
    assert twin.popularity[place].tolist() == [0, 0] and served.popularity[place].tolist() == [40, 40]
    assert served.score([["i03", FIRST]])[0].argmax() == place[1] != twin.score([["i03", FIRST]])[0].argmax()
    newest = model.recommend(history=[{"item": "i03"}, {"item": FIRST}], k=10)  # the toy LLM has its own opinion
    assert SECOND in newest["item"].tolist()
    moved = [
        not np.array_equal(one, other)
        for one, other in zip(twin.model.state_dict().values(), served.model.state_dict().values(), strict=True)
    ]
    assert sum(moved) > len(moved) / 2


def test_settings_epochs_and_weights_are_those_of_the_twin(model):
    made = model.manifests
    twin, again = (read_json(made[name].path("retriever.json")) for name in ("candidates", "refit-retriever"))
    assert twin["weights"] == again["weights"] and twin["epochs"] == again["epochs"]
    assert len(twin["epochs"]) == 2 and twin["epochs"][0] > 0 == twin["epochs"][1]
    served = read_json(model.folder / "retriever" / "retriever.json")
    assert served == twin and served["config"]["n_retrieved"] == 12 and served["best"]
    fusion = read_json(made["rankings"].path("fusion.json"))
    assert read_json(model.folder / "model.json")["weights"] == {
        "llm": fusion["weight"],
        "satisfaction": fusion["satisfaction_weight"],
    }


def test_a_taught_network_is_refitted_with_a_refitted_teacher(fit):
    own = {"retrieve.model": "sasrec", "retrieve.parts": [], "retrieve.teacher": SETTINGS["retrieve"]["parts"]}
    made = fit(**own).manifests
    twin, again = (read_json(made[name].path("retriever.json")) for name in ("candidates", "refit-retriever"))
    assert twin["teacher"] == again["teacher"] and twin["sharpness"] == again["sharpness"] > 0
    assert twin["epochs"] == again["epochs"] and len(twin["teacher"]["weights"]) == 2
    evaluated = made["candidates"].folder.parent.parent / "retriever"
    teachers = [read_json(path)["inputs"].get("teacher") for path in evaluated.glob("*/manifest.json")]
    assert any(teachers) and made["refit-retriever"].inputs["teacher"] not in teachers, "the teacher is refitted, too"
    served = load(made["refit-retriever"].folder)
    place = served.items.index(SECOND) + 1
    assert served.model.item_weights().shape == (served.popularity.size, 16), "one network is served"
    assert served.score([["i03", FIRST]])[0].argmax() == place


def test_an_equal_fit_refits_nothing_again(fit, model):
    again = fit()
    assert all(manifest.reused for manifest in again.manifests.values()) and "refit-retriever" in again.manifests


def test_what_validation_switched_off_is_not_refitted(model):
    fusion = read_json(model.manifests["rankings"].path("fusion.json"))
    refitted = {"refit-retriever"} | ({"refit-adapter"} if fusion["weight"] else set())
    assert fusion["satisfaction_weight"] == 0, "too few users choose it"
    assert {name for name in model.manifests if name.startswith("refit-")} == refitted


def test_a_placebo_is_not_refitted(model):
    shuffled = replace(model._job.config, rerank=replace(model._job.config.rerank, sentiment="shuffled"))
    assert refit(Job(shuffled, "no run"), {"reviews": "as it was"}) == {"reviews": "as it was"}


@pytest.fixture
def weighty(model):
    """The manifests of the twin, as if validation had given the LLM and satisfaction a weight; and its job."""
    chosen = read_json(model.manifests["rankings"].path("fusion.json")) | {"weight": 0.5, "satisfaction_weight": 0.3}

    def work(folder):
        write_json(chosen, folder / "fusion.json")
        shutil.copy(model.manifests["rankings"].path("rankings.parquet"), folder)
        return StageResult({}, model.manifests["rankings"].metrics)

    with tracking.job("weighty", model._job.config) as run_id:
        made = {name: manifest for name, manifest in model.manifests.items() if not name.startswith("refit-")}
        made["rankings"] = run_stage("rerank", "shop", {"weighty": True}, made, ("registry",), work)
        yield replace(model._job, run_id=run_id), made


def test_the_llm_and_satisfaction_are_refitted_where_they_have_a_weight(weighty):
    job, made = weighty
    again = refit(job, made)
    assert set(again) - set(made) == {"refit-retriever", "refit-adapter", "refit-satisfaction"}
    adapter, twin = again["refit-adapter"], again["adapter"]
    assert adapter.rows["train_users"] == twin.rows["train_users"] + twin.rows["valid_users"]
    assert adapter.metrics["epochs"] == adapter.metrics["best_epoch"] == twin.metrics["best_epoch"]
    served = Recommender.load(local.packed(job, again))
    assert served.weights.llm == 0.5 and served.weights.satisfaction == 0.3
    place = served.retriever.item_to_id[SECOND]
    held_out = Satisfaction.load(made["satisfaction"].folder)
    assert served.forecast.table[place, 0] < -1 < held_out.table[place, 0], "its one star is in held-out reviews only"
    assert served.ranker.table[place].norm() > 0


def test_a_refit_that_is_interrupted_resumes_and_ends_with_the_same_files(weighty, monkeypatch, caplog):
    job, made = weighty
    expected = {name: manifest.files for name, manifest in refit(job, made).items()}
    monkeypatch.setenv("SEALR_HOME", str(made["reviews"].folder.parents[2].with_name("interrupted")))

    def interrupted(epoch, metrics):
        if epoch == 1 and not stopped:
            stopped.append(epoch)
            raise KeyboardInterrupt

    stopped = []
    monkeypatch.setattr(tracking, "log_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        refit(job, made)
    caplog.set_level("INFO")
    found = {name: manifest.files for name, manifest in refit(job, made).items()}
    assert found == expected and "refit-retriever: resuming" in caplog.text


def test_the_registered_version_is_the_refitted_model_with_the_twins_evidence(model):
    registered = model.register("refitted")
    assert model.register("refitted").version == registered.version == "1"
    client = promote.MlflowClient()
    version = client.get_model_version("refitted", "1")
    metrics = model.manifests["rankings"].metrics
    assert float(version.tags[promote.METRIC]) == metrics["valid_ndcg@10"]
    digest = model.manifests["refit-retriever"].digest
    stages = mlflow.artifacts.load_dict(f"models:/refitted/1/artifacts/{gate.NOTES}/{gate.STAGES}")
    assert stages["refit-retriever"]["digest"] == digest
    assert model.manifests["refit-retriever"].key in promote.stage_keys()
    sentence = "evaluated without each user's two newest reviews; the served model has the same settings, epochs and"
    assert f"{sentence} weights, and has learned from all 280 reviews." in " ".join(version.description.split())
    loaded = sealr.load("models:/refitted/1")
    assert loaded.recommend("u01", k=5).equals(model.recommend("u01", k=5))
    lengths = {user: len(items) for user, (items, *_) in loaded.recommender.histories.items()}
    table = read_table(model.manifests["reviews"].path("reviews.parquet"), "reviews")
    assert lengths == table.groupby("user").size().to_dict()  # what it has learned from, user by user
