import optuna
import pytest

from sealr.config import ConfigError, load_config
from sealr.rerank import tune
from sealr.settings import RerankConfig


def test_a_trial_is_what_its_overrides_say():
    found = {"lora.r": 4, "scoring.hard": 50, "scoring.dropout": 0.3, "lr": 0.0004, "layers": 2}
    chosen = tune.suggest(optuna.trial.FixedTrial(found), RerankConfig())
    assert chosen.scoring.negatives == "hard" and chosen.scoring.hard == 50 and chosen.layers == 2
    assert load_config("demo", "", tune.overrides(found) + " rerank.epochs=9").rerank.scoring.negatives == "hard"
    found["scoring.hard"] = 0
    against_all = tune.suggest(optuna.trial.FixedTrial(found), chosen)
    assert against_all.scoring.negatives == "full"
    given = load_config("demo", "", tune.overrides(found)).rerank
    assert (given.lora.r, given.lr, given.layers, given.scoring.dropout) == (4, 0.0004, 2, 0.3)
    assert given.scoring.negatives == "full"


def test_the_first_trial_is_what_is_set():
    config = load_config("demo", "", "rerank.layers=4 rerank.lora.r=8 rerank.scoring.negatives=hard rerank.scoring.hard=50").rerank
    first = tune.current(config)
    assert tune.suggest(optuna.trial.FixedTrial(first), RerankConfig()).layers == 4
    assert first["scoring.hard"] == 50 and first["lr"] == config.lr
    assert "layers" not in tune.current(RerankConfig(layers=0))  # all layers are not among the depths searched


def test_other_rankers_are_refused():
    with pytest.raises(ConfigError, match="not of palr"):
        tune.suggest(optuna.trial.FixedTrial({}), RerankConfig(ranker="palr"))
