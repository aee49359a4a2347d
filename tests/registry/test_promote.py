"""Aliases, decisions and rollbacks on a real registry (SQLite); the comparison itself is in test_gate.py."""

import shutil

import mlflow
import numpy as np
import pytest

from sealr.data.sequences import Sequences
from sealr.data.tables import write_json
from sealr.registry import gate, promote
from sealr.registry.gate import HELD, PROMOTED, REFUSED, Evidence, Verdict

USERS = [f"u{n}" for n in range(40)]
SEQUENCES = Sequences(USERS, ["a", "b", "c"], np.tile([1, 2, 3], len(USERS)), np.arange(len(USERS) + 1) * 3)


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A new tracking database: making one takes seconds, copying it does not."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_registered_models()
    return path


@pytest.fixture
def store(empty, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty, tmp_path / "mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    yield tmp_path
    mlflow.set_tracking_uri(None)


def showed(ranks, data="same", popularity=0):
    return Evidence(data, 0.25, USERS, list(ranks), [popularity] * 40, {})


def register(store, evidence, content="abc", data="demo", hold=""):
    """A version that carries its evidence, and what the gate made of it."""
    with mlflow.start_run() as run:
        folder = store / run.info.run_id
        write_json(vars(evidence), folder / "artifacts" / gate.NOTES / gate.EVIDENCE)
        tags = {promote.METRIC: "0.1", promote.DATA: data, promote.CONTENT: content}
        version = promote.create("sealr", folder.as_uri(), run.info.run_id, tags)
    return settle(version, evidence, hold)


def settle(version, evidence, hold=""):
    feelings = np.zeros((len(SEQUENCES.flat), 2), dtype=np.float32)
    return promote.assign_aliases(
        "sealr", version, lambda uri, number: gate.judge(evidence, uri, number, SEQUENCES, feelings, None, 500, hold)
    )


def tags(version):
    return mlflow.MlflowClient().get_model_version("sealr", version).tags


def never(uri, number):
    raise AssertionError("nobody is to be compared")


LOW, HIGH = showed([5] * 40), showed([1] * 30 + [5] * 10)
LITTLE = showed([4] * 3 + [6] + [5] * 36)  # better on three users, worse on one


def tries(version=None):
    """Comparisons that a champion, or popularity, has stood."""
    client = mlflow.MlflowClient()
    opponent = client.get_model_version("sealr", version) if version else client.get_registered_model("sealr")
    return int(opponent.tags.get(promote.TRIED, 0))


def test_a_first_version_that_beats_popularity_is_champion(store):
    done = register(store, LOW)
    assert done.aliases == ("challenger", "champion") and "the opponent is popularity" in done.reason
    assert tags("1")[promote.GATE + "decision"] == PROMOTED and tries() == 1 and tries("1") == 0


def test_a_first_version_that_does_not_waits_and_is_told_how_to_be_promoted_by_hand(store):
    done = register(store, showed([5] * 40, popularity=5))
    assert done.aliases == ("challenger",) and promote.champion("sealr") is None
    assert "no significant gain; there is no champion" in done.reason
    assert '`sealr promote 1 --name sealr --reason "..."` makes it one' in done.reason
    assert promote.assign_aliases("sealr", "1", never).reason == done.reason  # a rerun is no new try
    register(store, showed([6] * 40, popularity=5))
    assert tries() == 2 and tags("2")[promote.GATE + "try"] == "2"
    assert promote.promote_manually("sealr", "1", "it is a start") is None and promote.champion("sealr") == "1"


def test_every_try_against_one_champion_raises_the_bar(store):
    """Six of 40 users gain and nobody loses, p = 1 / 64: enough for a first try, .0304, and not for a second, .0076."""
    register(store, LOW)
    register(store, LITTLE)
    assert tries("1") == 1 and float(tags("2")[promote.GATE + "level"]) == pytest.approx(0.030396, rel=1e-3)
    better = showed([1] * 6 + [5] * 34)
    done = register(store, better)
    assert done.aliases == ("challenger",) and "where try 2 needs 0.0076" in done.reason and tries("1") == 2
    register(store, HIGH)  # a clear gain: the new champion has stood no comparison
    assert promote.champion("sealr") == "4" and tries("1") == 3 and tries("4") == 0


def test_the_same_gain_wins_at_the_first_try(store):
    register(store, LOW)
    assert register(store, showed([1] * 6 + [5] * 34)).aliases == ("challenger", "champion")


def test_two_versions_compared_again_are_the_same_try(store):
    """Held by drift it has been compared; a later night without drift is no second try."""
    register(store, LOW)
    register(store, HIGH, hold="the data have drifted (emotions: 0.3)")
    assert tries("1") == 1
    assert settle("2", HIGH).aliases == ("challenger", "champion")
    assert tries("1") == 1 and tags("2")[promote.GATE + "try"] == "1"


def test_a_version_that_could_not_be_compared_has_not_tried(store):
    register(store, LOW)
    few = Evidence("same", 0.25, USERS[:29], [1] * 29, [0] * 29, {})
    done = register(store, few)
    assert (
        done.aliases == ("challenger",) and "there are 29 gate users, and fewer than 30 decide nothing" in done.reason
    )
    assert "so about 120 users are needed" in done.reason
    assert tries("1") == 0 and tags("2")[promote.GATE + "decision"] == HELD


def test_a_significant_gain_is_promoted_and_leaves_its_figures(store):
    register(store, LOW)
    done = register(store, HIGH)
    assert done.aliases == ("challenger", "champion") and "a significant gain" in done.reason
    found = {k.removeprefix(promote.GATE): v for k, v in tags("2").items() if k.startswith(promote.GATE)}
    assert found["decision"] == PROMOTED and found["against"] == "1" and found["users"] == "40"
    challenger, champion, low = (float(found[k]) for k in ("challenger", "champion", "low"))
    assert champion == pytest.approx(1 / np.log2(6), abs=1e-5) and 0 < low < challenger - champion == pytest.approx(
        float(found["difference"]), abs=1e-5
    )


def test_a_gain_that_chance_may_give_is_refused(store):
    register(store, LOW)
    done = register(store, LITTLE)
    assert done.aliases == ("challenger",) and "no significant gain" in done.reason
    assert tags("2")[promote.GATE + "decision"] == REFUSED and float(tags("2")[promote.GATE + "difference"]) > 0
    assert promote.champion("sealr") == "1"


def test_a_refusal_is_not_computed_again_for_the_same_champion(store):
    register(store, LOW)
    first = register(store, LITTLE)
    assert promote.assign_aliases("sealr", "2", never).reason == first.reason
    register(store, HIGH)  # another champion
    with pytest.raises(AssertionError, match="nobody"):
        promote.assign_aliases("sealr", "2", never)


def test_drift_holds_what_would_have_been_promoted_and_lets_it_go_later(store):
    register(store, LOW)
    done = register(store, HIGH, hold="the data have drifted (emotions: 0.3)")
    assert (
        done.aliases == ("challenger",)
        and done.reason.startswith("the data have drifted")
        and "a significant gain" in done.reason
    )
    assert tags("2")[promote.GATE + "decision"] == HELD
    assert settle("2", HIGH).aliases == ("challenger", "champion")


def test_a_champion_of_another_data_set_stays(store):
    register(store, LOW, data="yelp")
    done = register(store, HIGH)
    assert done.aliases == ("challenger",) and "yelp" in done.reason and tags("2")[promote.GATE + "decision"] == HELD


def test_a_rollback_restores_the_champion_before_and_the_version_does_not_come_back_by_itself(store):
    register(store, LOW)
    register(store, HIGH)
    assert promote.rollback("sealr", "support calls") == ("1", "2")
    assert promote.champion("sealr") == "1" and "support calls" in tags("1")[promote.GATE + "restored"]
    again = promote.assign_aliases("sealr", "2", never)  # the next night, with nothing changed
    assert again.aliases == ("challenger",) and "support calls" in again.reason
    assert promote.promote_manually("sealr", "2", "it was the network") == "1"
    assert promote.champion("sealr") == "2" and promote.ROLLED_BACK not in tags("2")


def test_a_version_that_was_replaced_by_hand_comes_back_only_by_hand(store):
    register(store, LOW)
    register(store, HIGH)
    promote.promote_manually("sealr", "1", "2 shows empty lists")
    again = promote.assign_aliases("sealr", "2", never)  # the next night
    assert promote.champion("sealr") == "1" and "version 1 took its place by hand: 2 shows empty lists" in again.reason
    assert promote.rollback("sealr", "it was the shop") == ("2", "1") and promote.ROLLED_BACK not in tags("2")


def test_a_champion_that_changes_during_the_comparison_is_compared_with_again(store):
    register(store, LOW)
    register(store, LITTLE)
    with mlflow.start_run() as run:
        version = promote.create(
            "sealr", "file:///nowhere", run.info.run_id, {promote.DATA: "demo", promote.CONTENT: "other"}
        )
    asked = []

    def judge(uri, number):
        asked.append(uri)
        if len(asked) == 1:
            promote.promote_manually("sealr", "2", "meanwhile")
        return Verdict(PROMOTED, "better")

    assert promote.assign_aliases("sealr", version, judge).aliases == ("challenger", "champion")
    assert asked == ["models:/sealr/1", "models:/sealr/2"] and tags(version)[promote.GATE + "against"] == "2"
    promote.rollback("sealr", "not so")

    def restless(uri, number):
        promote.promote_manually("sealr", "1" if uri.endswith("/2") else "2", "and again")
        return Verdict(PROMOTED, "better")

    mlflow.MlflowClient().delete_model_version_tag("sealr", version, promote.ROLLED_BACK)
    done = promote.assign_aliases("sealr", version, restless)
    assert "changed 3 times" in done.reason and promote.champion("sealr") != version


def test_rolling_back_twice_goes_two_champions_back_and_then_says_that_there_is_none(store):
    for ranks in ([9] * 40, [5] * 40, [1] * 40):
        register(store, showed(ranks))
    assert promote.champion("sealr") == "3"
    assert promote.rollback("sealr", "first") == ("2", "3")
    assert promote.rollback("sealr", "second") == ("1", "2")
    with pytest.raises(promote.PromotionError, match="no earlier champion"):
        promote.rollback("sealr", "third")
    assert promote.champion("sealr") == "1"
    promote.promote_manually("sealr", "3", "after all")
    assert promote.rollback("sealr", "once more") == ("1", "3")


def test_rollback_passes_over_a_deleted_version_and_a_champion_set_in_the_ui(store):
    for ranks in ([9] * 40, [5] * 40, [1] * 40):
        register(store, showed(ranks))
    client = mlflow.MlflowClient()
    client.delete_model_version("sealr", "2")
    assert promote.rollback("sealr", "why not") == ("1", "3")
    client.set_registered_model_alias("sealr", promote.CHAMPION, "3")  # by hand, in the UI: no history written
    assert promote.rollback("sealr", "again") == ("1", "3")


def test_a_kill_between_history_and_alias_changes_nothing(store, monkeypatch):
    register(store, LOW)
    with monkeypatch.context() as patch:
        real = mlflow.MlflowClient.set_registered_model_alias

        def killed(self, name, alias, version):
            if alias == promote.CHAMPION:
                raise KeyboardInterrupt
            real(self, name, alias, version)

        patch.setattr(mlflow.MlflowClient, "set_registered_model_alias", killed)
        with pytest.raises(KeyboardInterrupt):
            register(store, HIGH)
    assert promote.champion("sealr") == "1"
    with pytest.raises(promote.PromotionError):
        promote.rollback("sealr", "there is nothing")
    assert settle("2", HIGH).aliases == ("challenger", "champion")
    assert promote.rollback("sealr", "now there is") == ("1", "2")


def test_the_same_content_is_found(store):
    assert promote.find("sealr", "abc") is None
    register(store, LOW)
    assert (promote.find("sealr", "abc"), promote.find("sealr", "xyz")) == ("1", None)
    assert promote.champion("nobody") is None


def test_a_registry_that_fails_promotes_nobody(store, monkeypatch):
    register(store, LOW)

    def busy(*_, **__):
        raise mlflow.MlflowException("503 registry busy")

    with mlflow.start_run() as run:
        version = promote.create(
            "sealr", "file:///nowhere", run.info.run_id, {promote.DATA: "demo", promote.CONTENT: "other"}
        )
    monkeypatch.setattr(mlflow.MlflowClient, "get_registered_model", busy)
    with pytest.raises(mlflow.MlflowException, match="busy"):
        promote.assign_aliases("sealr", version, lambda uri, number: Verdict(PROMOTED, "never asked"))


def test_by_hand_mistakes_are_one_sentence(store):
    register(store, LOW)
    register(store, LITTLE)
    assert promote.promote_manually("sealr", "2", "the shop\n asked for it") == "1"
    assert tags("2")[promote.GATE + "reason"] == "by hand: the shop asked for it"
    assert promote.rollback("sealr", "they changed their mind") == ("1", "2")
    for call, arguments, message in (
        (promote.promote_manually, ("sealr", "1", "x"), "champion already"),
        (promote.promote_manually, ("sealr", "9", "x"), "9"),
        (promote.promote_manually, ("sealr", "2", " "), "a reason is needed"),
        (promote.rollback, ("sealr", "x"), "no earlier champion"),
        (promote.rollback, ("nobody", "x"), "no earlier champion|nobody"),
    ):
        with pytest.raises(promote.PromotionError, match=message):
            call(*arguments)
    assert promote.champion("sealr") == "1"
