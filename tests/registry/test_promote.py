import mlflow
import pytest

from sealr.registry import promote


def tags(ndcg, data="demo", lists="a"):
    return {promote.METRIC: str(ndcg), promote.DATA: data, promote.VALIDATION: lists}


def test_first_version_is_champion():
    assert promote.decide(tags(0.0), None) == (True, "there was no champion")


def test_better_on_validation_wins_and_equal_does_not():
    assert promote.decide(tags(0.2), tags(0.1)) == (True, "validation NDCG@10 0.2000 beats the champion's 0.1000")
    assert promote.decide(tags(0.1), tags(0.1))[0] is False


def test_other_validation_lists_are_said():
    assert "different validation lists" in promote.decide(tags(0.2), tags(0.1, lists="b"))[1]


def test_champion_of_another_data_set_stays():
    wins, reason = promote.decide(tags(0.9), tags(0.1, data="yelp"))
    assert not wins and "yelp" in reason


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    yield
    mlflow.set_tracking_uri(None)


def test_aliases_move(store, tmp_path):
    (tmp_path / "m").mkdir()
    with mlflow.start_run() as run:
        versions = [promote.register("sealr", str(tmp_path / "m"), run.info.run_id, tags(v)) for v in (0.2, 0.1, 0.3)]
    assert [v.aliases for v in versions] == [("challenger", "champion"), ("challenger",), ("challenger", "champion")]
    client = mlflow.MlflowClient()
    assert client.get_model_version_by_alias("sealr", "champion").version == client.get_model_version_by_alias("sealr", "challenger").version == 3


def test_the_same_content_is_not_registered_twice(store, tmp_path):
    (tmp_path / "m").mkdir()
    assert promote.registered("sealr", "abc") is None
    with mlflow.start_run() as run:
        promote.register("sealr", str(tmp_path / "m"), run.info.run_id, tags(0.2) | {promote.CONTENT: "abc"})
    known = promote.registered("sealr", "abc")
    assert (known.version, known.aliases) == ("1", ("challenger", "champion"))
    assert promote.registered("sealr", "xyz") is None
