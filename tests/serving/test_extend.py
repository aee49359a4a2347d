"""New items in a packed model: what changes, what does not, and what is refused."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from sealr import tracked
from sealr.content.profiles import build_profiles
from sealr.content.readers import Reader
from sealr.data.sequences import build
from sealr.data.tables import read_json, write_json, write_table
from sealr.registry import gate, promote
from sealr.registry.items import add_items
from sealr.registry.package import log_packed
from sealr.rerank.scoring.train import train_scoring
from sealr.retrieve.fusion import fuse
from sealr.retrieve.models.fusion import part_configs
from sealr.retrieve.retriever import load
from sealr.retrieve.train import train
from sealr.satisfaction.learn import Forecast, learn
from sealr.serving.extend import ItemsError, extend, read_items
from sealr.serving.packing import Weights, histories, pack
from sealr.serving.recommender import Recommender
from sealr.settings import (
    Config,
    ContentConfig,
    DataConfig,
    LabelConfig,
    RegistryConfig,
    RerankConfig,
    RetrieveConfig,
    SatisfactionConfig,
)
from tests import toys
from tests.serving.toy_model import toy_tables

NEW = ["a new thing", "n2"]  # the first one sorts before all others
WORDS = ("red", "polish", "string", "guitar", "cable", "drum", "stick", "reed", "amp", "pedal", "tuner", "stand")
LOAD = """
import json, sys
from pathlib import Path
import pandas as pd
from sealr.serving.recommender import Recommender
history = [{"item": sys.argv[2], "rating": 5}, {"item": "i03"}]
answers = Recommender.load(Path(sys.argv[1])).predict(pd.DataFrame({"history": [history]}), {"top_k": 14})
print(json.dumps(answers.drop(columns="user").to_dict("records")))
"""


def toy_reviews():
    """Reviews of an item say its own word, and one of three things that are said of all."""
    reviews, labels = toy_tables()
    more = ("is fine", "works great", "broke")
    reviews["text"] = [f"{3 * WORDS[int(item[1:])]} {more[n % 3]}" for n, item in enumerate(reviews["item"])]
    return reviews, labels


@pytest.fixture(scope="module")
def config(tmp_path_factory, toy_llama, toy_labeller):
    encoder = toys.toy_encoder(tmp_path_factory.mktemp("encoder"))
    shape = {"hidden": 8, "layers": 1, "max_len": 6, "epochs": 2, "eval_every": 1, "n_retrieved": 10}
    parts = ({"model": "sasrec", "content": "reviews"}, {"model": "ease"})
    rerank = RerankConfig("scoring", "transductive", base=str(toy_llama), n_reranked=10, epochs=1, batch_size=8)
    return Config(
        data=DataConfig("toy"),
        label=LabelConfig(str(toy_labeller)),
        retrieve=RetrieveConfig("fusion", parts, content_scale=4.0, **shape),
        content=ContentConfig(reader=str(encoder), max_tokens=32),
        rerank=replace(rerank, scoring=replace(rerank.scoring, content="both")),
        registry=RegistryConfig(include_base=True),
    )


@pytest.fixture(scope="module")
def packed(config, tmp_path_factory):
    """A fusion, a scoring LLM and satisfaction, all with weight. Items have review texts and no titles."""
    folder = tmp_path_factory.mktemp("stages")
    stages = {n: folder / n for n in ("reviews", "content", "candidates", "adapter", "satisfaction")}
    for stage in stages.values():
        stage.mkdir()
    reviews, labels = toy_reviews()
    sequences = build(reviews)
    items = pd.DataFrame({"item": sequences.items, "title": None, "brand": None, "categories": None})
    write_table(items, stages["reviews"] / "items.parquet", "items")
    reader = Reader(config.content)

    def read(texts):
        yield 0, reader.vectors(texts).astype(np.float16).astype(np.float32)

    told = sequences.values(reviews, "text")
    profiles = build_profiles(items, told, np.arange(len(told)), sequences, 50, read)
    profiles.save(stages["content"])
    parts = part_configs(config.retrieve)
    for part in parts:
        content = None if part.content == "none" else profiles.table(part.content, part.content_scale, 0)
        train(part, sequences, folder / part.model, content=content)
    fuse(config.retrieve, [load(folder / part.model) for part in parts], sequences, stages["candidates"])
    felt = np.zeros((len(sequences.flat), 2), np.float32)
    content = profiles.table("both", config.retrieve.content_scale, 0).numpy()
    train_scoring(config.rerank, "things", sequences, felt, ([], []), stages["candidates"], content, stages["adapter"])
    learn(reviews, labels, SatisfactionConfig(), None, stages["satisfaction"])
    known = histories(sequences, felt, Forecast.load(stages["satisfaction"]).stars)
    pack(folder / "model", config, Weights(0.5, 0.3), stages, known)
    return folder / "model"


@pytest.fixture
def rows(tmp_path):
    """A file with two new items: the reviews of the first are the training reviews of item i05."""
    reviews, _ = toy_reviews()
    told = reviews["text"][(reviews["item"] == "i05") & (reviews["position"] < 4)]
    lines = [{"item": NEW[0], "title": "Brand new", "text": text} for text in told]
    return write_lines(tmp_path / "new.jsonl", [*lines, {"item": NEW[1], "text": "a drum for the road"}])


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def extended(packed, rows, tmp_path):
    assert extend(packed, read_items(rows), tmp_path / "extended") == NEW
    return tmp_path / "extended"


def ask(folder, frame, **params):
    return Recommender.load(folder).predict(pd.DataFrame(frame), params)


@pytest.mark.slow
def test_answers_without_new_items_stay_as_they_were(packed, extended):
    users = [
        [{"item": f"i{n:02d}"}, {"item": f"i{(n + step) % 12:02d}", "rating": 4}] for n in range(12) for step in (3, 4)
    ]
    before, after = (ask(folder, {"history": users}, top_k=10).to_dict("records") for folder in (packed, extended))
    # All candidates are shown, so where no new item is shown, none was a candidate
    stays = [old == now for old, now in zip(before, after, strict=True) if not {*now["items"]} & {*NEW}]
    assert all(stays) and 0 < len(stays) < len(users)
    old = json.loads((packed / "retriever" / "items.json").read_text())
    assert json.loads((extended / "retriever" / "items.json").read_text()) == [*old, *NEW]
    unknown = ask(extended, {"user": ["nobody"]}, top_k=12)["items"][0]
    assert not {*unknown} & {*NEW}  # nobody has taken them


@pytest.mark.slow
def test_a_new_item_with_the_reviews_of_another_is_its_neighbour(extended):
    retriever = load(extended / "retriever")
    old = np.arange(1, 13)
    twin = retriever.item_to_id["i05"]
    nearest = retriever.similarity(retriever.item_to_id[NEW[0]], old)
    assert old[nearest.argmax()] == twin
    part = retriever.model.parts[0]
    np.testing.assert_allclose(part.items.content[13], part.items.content[twin], atol=1e-3)
    scores = part.score(*[retriever._inputs([np.array([1, 2]), np.array([8])], None)[0]])
    ranks = (-scores).argsort(1).argsort(1)
    assert (abs(ranks[:, 13] - ranks[:, twin]) <= 2).all()
    answers = ask(extended, {"history": [[{"item": "i03"}, {"item": "i04"}]]}, top_k=14)
    assert {*NEW} <= {*answers["items"][0]} and "Brand new" in answers["titles"][0]


@pytest.mark.slow
def test_a_clean_process_loads_the_model_and_reads_histories_with_new_items(extended):
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(extended), NEW[0]],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout.splitlines()[-1])
    assert answer["warnings"] == [] and NEW[0] not in answer["items"] and NEW[1] in answer["items"]
    assert len(answer["items"]) == 12 and "LLM #" in answer["reasons"][0]


@pytest.mark.slow
def test_items_can_be_added_twice(extended, tmp_path):
    more = write_lines(tmp_path / "more.jsonl", [{"item": 7, "text": "a cable"}])
    extend(extended, read_items(more), tmp_path / "twice")
    (answer,) = ask(tmp_path / "twice", {"user": ["u3"]}, top_k=20)["items"]
    assert {*NEW, "7"} <= {*answer}


@pytest.mark.slow
def test_models_and_items_that_do_not_fit(packed, tmp_path):
    def fails(records, reason, model=packed):
        with pytest.raises(ItemsError, match=reason):
            extend(model, read_items(write_lines(tmp_path / "bad.jsonl", records)), tmp_path / "none")
        assert not (tmp_path / "none").exists()

    new = {"item": "x", "text": "fine"}
    fails([new, {"item": "i03", "text": "fine"}], "'i03': the model has it already")
    fails([{"item": "x", "title": "A title"}], "'x' has nothing that the model reads: it needs a text")
    ids = tmp_path / "ids"
    train(RetrieveConfig(hidden=8, layers=1, max_len=6, epochs=1), build(toy_tables()[0]), ids / "retriever")
    write_json(read_json(packed / "model.json"), ids / "model.json")
    fails([new], "reads no texts of items, so it could never recommend new ones", ids)
    changed = tmp_path / "changed"
    changed.mkdir()
    for name in ("retriever", "content.safetensors"):
        (changed / name).symlink_to(packed / name)
    write_json(read_json(packed / "model.json") | {"reader": "another"}, changed / "model.json")
    fails([new], "is here not the model that read the texts of the other items", changed)


def test_files_of_items(tmp_path):
    table = pd.DataFrame({"item": ["007", "x"], "title": [" A title ", ""], "text": ["", "fine"]})
    table.to_csv(tmp_path / "new.csv", index=False)
    table.to_parquet(tmp_path / "new.parquet")
    found = read_items(tmp_path / "new.csv")
    assert found["item"].tolist() == ["007", "x"] and found["title"].tolist() == ["A title", ""]
    assert found["brand"].tolist() == ["", ""]
    pd.testing.assert_frame_equal(found, read_items(tmp_path / "new.parquet"))

    def fails(records, reason):
        with pytest.raises(ItemsError, match=reason):
            read_items(write_lines(tmp_path / "bad.jsonl", records))

    fails([{"item": "x", "price": 3}], "bad.jsonl has a column 'price'; its columns may be item, title, brand")
    fails([{"title": "x"}], "needs a column item and at least one row; it has title")
    fails([{"item": "x", "text": "a"}, {"item": " ", "text": "b"}], "row 2 has no item id")
    fails([{"item": "x", "title": "a"}, {"item": "x", "brand": "b"}], "item 'x' has several rows without a text")
    assert len(read_items(write_lines(tmp_path / "good.jsonl", 2 * [{"item": "x", "text": "Good"}]))) == 2
    two = [{"item": "x", "title": title, "text": f"about {title}"} for title in "ab"]
    fails(two, "'x' has several values in column title")


@pytest.mark.slow
def test_a_version_with_new_items_takes_the_champions_place_and_can_be_rolled_back(
    packed, config, rows, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    try:
        notes = tmp_path / gate.NOTES
        write_json({"users": []}, notes / gate.EVIDENCE)
        (notes / gate.CARD).write_text("# The card\n")
        with mlflow.start_run(experiment_id="0"):
            logged = log_packed(config, packed, notes, 0.5, ["i00", "i01"])
        given = {
            promote.CONTENT: "abc",
            promote.DATA: "toy",
            promote.STAGES: "k",
            promote.GATE + "at": "then",
        }
        first = promote.create("sealr", logged.model_uri, logged.run_id, given, "", logged.model_id)
        promote.promote_manually("sealr", first, "the first")

        made = add_items("models:/sealr@champion", rows)
        assert (made.version, made.items, made.champion) == ("2", NEW, True)
        version = mlflow.MlflowClient().get_model_version("sealr", "2")
        assert mlflow.get_run(version.run_id).data.tags[tracked.ORIGIN] == logged.run_id  # for its report
        assert version.tags[promote.GATE + "reason"] == "by hand: 2 items added to version 1"
        assert version.tags[promote.STAGES] == "k" and version.description.startswith("2 items added")
        answer = mlflow.pyfunc.load_model("models:/sealr@champion").predict(
            pd.DataFrame({"user": ["u3"]}), {"top_k": 14}
        )
        assert {*NEW} <= {*answer["items"][0]}
        assert gate.read_note("models:/sealr/2", gate.EVIDENCE, dict) == {"users": []}

        with pytest.raises(ItemsError, match="and 1 more: the model has it already"):
            add_items("models:/sealr@champion", rows)
        again = add_items("models:/sealr/1", rows)  # the same file for the same version
        assert (again.version, again.champion) == ("2", True)
        assert promote.rollback("sealr", "a test") == ("1", "2")
    finally:
        mlflow.set_tracking_uri(None)
