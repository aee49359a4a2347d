import pytest

from sealr.config import ConfigError, flatten, from_dict, load_config, to_dict
from sealr.settings import Config


def test_overrides_win_over_files():
    config = load_config("demo", "smollm2-135m", "retrieve.epochs=3 rerank.lora.r=4 data.start_date=2020-01-01")
    assert config.retrieve.epochs == 3 and config.rerank.lora.r == 4 and config.rerank.lora.alpha == 16


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("retrieve.epohcs=3", "retrieve.epohcs"),
        ("retrieve.epochs=many", "retrieve.epochs.*integer"),
        ("rerank.finetune_share=0.7", "rerank.finetune_share.*0.5"),
        ("epochs", "section.field=value"),
        ("retrieve.model=ease retrieve.index=approximate", "retrieve.index=approximate.*ease has none"),
        ("retrieve.model=fusion retrieve.index=approximate", "fusion has none.*sasrec.*retrieve.index=exact"),
    ],
)
def test_mistakes_name_the_field(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config("demo", "smollm2-135m", override)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match="demo"):
        load_config("amazon-shoes")


def test_missing_file_and_broken_yaml_are_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere.yaml does not exist"):
        load_config(str(tmp_path / "nowhere.yaml"))
    broken = tmp_path / "broken.yaml"
    broken.write_text("data: {name: [")
    with pytest.raises(ConfigError, match="broken.yaml: not valid YAML"):
        load_config(str(broken))


def test_round_trip_and_flatten():
    config = load_config("demo", "llama2-7b")
    assert from_dict(Config, to_dict(config)) == config
    assert flatten(to_dict(config))["rerank.lora.r"] == 8


def test_the_two_base_models_differ_in_names_and_sizes_only():
    small, large = (to_dict(load_config("demo", b))["rerank"] for b in ("smollm2-135m", "llama2-7b"))
    assert small.keys() == large.keys()
    assert {k for k in small if small[k] != large[k]} <= {"base", "quantization", "dtype", "lr", "lora"}
