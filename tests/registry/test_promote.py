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


def test_other_validation_users_cannot_be_compared():
    wins, reason = promote.decide(tags(0.9), tags(0.1, lists="b"))
    assert not wins and "other users or reviews" in reason


def test_champion_of_another_data_set_stays():
    wins, reason = promote.decide(tags(0.9), tags(0.1, data="yelp"))
    assert not wins and "yelp" in reason


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    yield
    mlflow.set_tracking_uri(None)


def create(value, content="abc"):
    with mlflow.start_run() as run:
        return promote.create("sealr", "file:///nowhere", run.info.run_id, tags(value) | {promote.CONTENT: content})


def test_aliases_move(store):
    settled = [promote.settle("sealr", create(v)) for v in (0.2, 0.1, 0.3)]
    assert [s.aliases for s in settled] == [("challenger", "champion"), ("challenger",), ("challenger", "champion")]
    client = mlflow.MlflowClient()
    assert {a: int(v) for a, v in client.get_registered_model("sealr").aliases.items()} == {"challenger": 3, "champion": 3}


def test_the_same_content_is_found(store):
    assert promote.find("sealr", "abc") is None
    create(0.2)
    assert (promote.find("sealr", "abc"), promote.find("sealr", "xyz")) == ("1", None)


def test_a_kill_before_the_aliases_is_mended_by_the_next_run(store):
    version = create(0.2)  # killed here
    assert promote.settle("sealr", promote.find("sealr", "abc")) == promote.Registration(
        "sealr", version, ("challenger", "champion"), "there was no champion"
    )
    assert promote.settle("sealr", version).aliases == ("challenger", "champion")


def test_a_registry_that_fails_promotes_nobody(store, monkeypatch):
    promote.settle("sealr", create(0.9))
    version = create(0.1, "other")

    def busy(*_, **__):
        raise mlflow.MlflowException("503 registry busy")

    monkeypatch.setattr(mlflow.MlflowClient, "get_registered_model", busy)
    with pytest.raises(mlflow.MlflowException, match="busy"):
        promote.settle("sealr", version)
