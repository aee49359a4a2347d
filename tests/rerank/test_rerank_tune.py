import optuna
import pytest

from sealr.config import ConfigError, load_config
from sealr.rerank import tune
from sealr.settings import RerankConfig


def test_a_trial_is_what_its_overrides_say():
    found = {"lora.r": 4, "scoring.pools": 2, "scoring.dropout": 0.3, "lr": 0.0004, "layers": 2}
    base = load_config("demo").rerank  # pools of 20
    chosen = tune.suggest(optuna.trial.FixedTrial(found), base)
    assert chosen.scoring.negative_source == "hard" and chosen.scoring.n_hard_negatives == 40 and chosen.layers == 2
    assert load_config("demo", "", tune.overrides(chosen)).rerank == chosen
    against_all = tune.suggest(optuna.trial.FixedTrial(found | {"scoring.pools": 0}), chosen)
    assert against_all.scoring.negative_source == "full" and (against_all.lora.r, against_all.lr) == (4, 0.0004)
    assert load_config("demo", "", tune.overrides(against_all)).rerank.scoring.negative_source == "full"


def test_the_first_trial_is_what_is_set():
    config = load_config(
        "demo",
        "",
        "rerank.layers=4 rerank.lora.r=8 rerank.scoring.negative_source=hard rerank.scoring.n_hard_negatives=100",
    ).rerank
    first = tune.current(config)
    assert first["scoring.pools"] == 5 and first["lr"] == config.lr
    assert tune.suggest(optuna.trial.FixedTrial(first), config) == config
    assert "layers" not in tune.current(RerankConfig(layers=0))  # all layers are not among the depths searched


def test_fewer_hard_negatives_than_candidates_are_refused():
    with pytest.raises(
        ConfigError, match=r"rerank.scoring.n_hard_negatives \(10\) is less than rerank.n_reranked \(20\)"
    ):
        load_config("demo", "", "rerank.scoring.negative_source=hard rerank.scoring.n_hard_negatives=10")


def test_other_rankers_are_refused():
    with pytest.raises(ConfigError, match="not of palr"):
        tune.suggest(optuna.trial.FixedTrial({}), RerankConfig(ranker="palr"))
