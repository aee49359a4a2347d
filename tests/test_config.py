import subprocess
import sys

import pytest

from sealr.config import (
    REMOVED,
    RENAMED,
    ConfigError,
    flatten,
    from_dict,
    load_config,
    override,
    shell_quote,
    to_dict,
)
from sealr.settings import Config, RetrieveConfig


def test_overrides_win_over_files():
    config = load_config("demo", "smollm2-135m", "retrieve.epochs=3 rerank.lora.r=4 data.start_date=2020-01-01")
    assert config.retrieve.epochs == 3 and config.rerank.lora.r == 4 and config.rerank.lora.alpha == 16


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("retrieve.epohcs=3", r"unknown setting retrieve.epohcs; did you mean retrieve.epochs\?$"),
        ("retrive.epochs=3", r"did you mean retrieve.epochs\?$"),
        ("rerank.lora.rank=3", r"unknown setting rerank.lora.rank"),
        ("epochs=3", r"unknown setting epochs; did you mean \w+.epochs\?$"),
        ("rerank.lora=3", "rerank.lora must be a section"),
        ("retrieve.epochs.most=3", "retrieve.epochs must be a whole number"),
        ("retrieve.pool=3", "retrieve.pool was renamed: use retrieve.n_retrieved$"),
        ("registry.drift_hold=true", "registry.drift_hold was renamed: use registry.drift.hold$"),
        ("rerank.scoring.target_feeling=weight", "rerank.scoring.target_feeling was removed: it showed no benefit$"),
        (
            "'retrieve.parts=[{model: ease}, {model: sasrec, epoch: 3}]'",
            r"parts\[1\]: .*did you mean retrieve.epochs\?$",
        ),
        ("'retrieve.parts=[{model: ease, ease: {l3: 4}}]'", r"parts\[0\]: .*did you mean retrieve.ease.l2\?$"),
        ("'retrieve.parts=[{model: sasrec, pool: 4}]'", r"parts\[0\]: retrieve.pool was renamed"),
        ("retrieve.heads=3", "retrieve.heads=3 does not divide retrieve.hidden=64"),
        ("rerank.n_reranked=200", "rerank.n_reranked .200. is more than retrieve.n_retrieved .100."),
        ("rerank.user_split=transductive rerank.ranker=palr", "user_split=transductive needs rerank.ranker=scoring"),
        ("retrieve.epochs=many", "retrieve.epochs must be a whole number"),
        ("rerank.finetune_share=0.7", "rerank.finetune_share.*0.5"),
        ("epochs", "section.field=value"),
        ("retrieve.model=ease retrieve.index=approximate", "retrieve.index=approximate.*ease has none"),
        ("retrieve.model=fusion retrieve.index=approximate", "fusion has none.*sasrec.*retrieve.index=exact"),
    ],
)
def test_mistakes_name_the_field(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config("demo", "smollm2-135m", override)


def test_all_mistakes_are_listed():
    with pytest.raises(ConfigError) as caught:
        load_config("demo", "", "retrieve.heads=7 rerank.processes=9 rerank.batch_size=4")
    assert str(caught.value).splitlines() == [
        "several settings are wrong:",
        "  retrieve.heads=7 does not divide retrieve.hidden=64",
        "  rerank.processes (9) is more than rerank.batch_size (4), which the processes share",
    ]


def test_a_mistake_in_a_file_names_the_file_and_one_in_an_override_does_not(tmp_path):
    def message(text, overrides=""):
        (tmp_path / "mine.yaml").write_text(f"data: {{name: mine}}\nretrieve: {{{text}}}")
        with pytest.raises(ConfigError) as caught:
            load_config(str(tmp_path / "mine.yaml"), "", overrides)
        return str(caught.value)

    assert message("epoch: 3") == "mine.yaml: unknown setting retrieve.epoch; did you mean retrieve.epochs?"
    assert message("epochs: 3", "retrieve.epoch=3").startswith("unknown setting retrieve.epoch; did")
    assert message("epochs: many").startswith("mine.yaml: retrieve.epochs must be a whole number, not 'many'")
    assert message("epochs: 3", "retrieve.epochs=many").startswith("retrieve.epochs must be a whole number, not 'many'")


def test_overrides_may_be_a_mapping_of_plain_values():
    config = load_config("", "", {"data.name": "mine", "retrieve": {"epochs": 3}, "data.start_date": "2020-01-01"})
    assert (config.data.name, config.retrieve.epochs, config.data.start_date) == ("mine", 3, "2020-01-01")
    with pytest.raises(ConfigError, match=r"^unknown setting retrieve.epoch; did you mean retrieve.epochs\?$"):
        load_config("demo", "", {"retrieve": {"epoch": 3}})
    with pytest.raises(ConfigError, match="data is missing"):
        load_config("")


def test_a_section_alone_names_its_fields_in_full():
    with pytest.raises(
        ConfigError, match=r"^settings of A: unknown setting retrieve.epoch; did you mean retrieve.epochs\?$"
    ):
        from_dict(RetrieveConfig, {"epoch": 3}, "settings of A")


def test_old_names_lead_to_names_that_exist():
    known = flatten(to_dict(load_config("demo")))
    assert all(new in known for new in RENAMED.values())
    assert not (known.keys() & (RENAMED.keys() | REMOVED.keys()))


def test_keys_that_hold_any_name_are_left_alone():
    assert load_config("demo", "", "label.sentiment_map.curiosity=1").label.sentiment_map == {"curiosity": 1}


def test_reading_a_configuration_imports_nothing_heavy():
    code = "import sys, sealr.config; print(*{'torch', 'mlflow', 'prefect', 'pandas', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_an_unknown_name_suggests_the_nearest_or_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"'amazon-beuty'; did you mean amazon-beauty\? or give"):
        load_config("amazon-beuty")
    with pytest.raises(ConfigError, match=r"'xyz'; there are .*demo"):
        load_config("xyz")


def test_missing_file_and_broken_yaml_are_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere.yaml does not exist"):
        load_config(str(tmp_path / "nowhere.yaml"))
    broken = tmp_path / "broken.yaml"
    broken.write_text("data: {name: [")
    with pytest.raises(ConfigError, match="broken.yaml.*: not valid YAML"):
        load_config(str(broken))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retrieve.lr", 0.00030000000000000003),
        ("retrieve.parts", [{"model": "sasrec", "lr": 3e-05}, {"model": "ease", "ease": {"l2": 123.4}}]),
        ("data.category", 'men\'s "best" $hirts, 100 %: no'),
        ("data.columns.text", ["a b", "c"]),
        ("data.header", False),
    ],
)
def test_an_override_is_read_as_it_was_written_also_by_a_shell(name, value):
    text = f"retrieve.epochs=3 {override(name, value)}"
    printed = subprocess.run(
        ["bash", "-c", f"printf %s {shell_quote(text)}"], capture_output=True, text=True, check=True
    ).stdout
    assert printed == text
    found = flatten(to_dict(load_config("demo", "", printed)))[name]
    assert (list(found) if isinstance(found, tuple) else found) == value


def test_a_list_in_a_command_is_easy_to_read():
    text = override("retrieve.parts", [{"model": "sasrec", "lr": 0.002}])
    assert shell_quote(text) == "\"'retrieve.parts=[{model: sasrec, lr: 0.002}]'\""
    assert shell_quote("my shop.yaml") == "'my shop.yaml'" and shell_quote("demo") == "demo"


def test_round_trip_and_flatten():
    config = load_config("demo", "llama2-7b")
    assert from_dict(Config, to_dict(config)) == config
    assert flatten(to_dict(config))["rerank.lora.r"] == 8


def test_the_two_base_models_differ_in_names_and_sizes_only():
    small, large = (to_dict(load_config("demo", b))["rerank"] for b in ("smollm2-135m", "llama2-7b"))
    assert small.keys() == large.keys()
    assert {k for k in small if small[k] != large[k]} <= {"base", "quantization", "dtype", "lr", "lora"}


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("retrieve.epochs=1.5", "retrieve.epochs must be a whole number, not 1.5"),
        ("retrieve.epochs=0", "retrieve.epochs must be at least 1, not 0"),
        ("retrieve.lr=0", "retrieve.lr must be more than 0, not 0"),
        ("label.cache=maybe", "label.cache must be true or false, not 'maybe'"),
        (
            "data.name=a/b",
            "data.name must be letters, digits, dots, dashes and underscores, with a letter or digit first",
        ),
        ("data.delimiter=ab", "data.delimiter must be auto, tab or one character, not 'ab'"),
        ("retrieve=3", "retrieve must be a section, such as {name: value}, not 3"),
        ("data.columns.text=3", "data.columns.text must be a text or a list, not 3"),
        ("registry.users=salty", "registry.users must be plain, salted or none, not 'salty'; did you mean salted?"),
        ("data.start_date=soon", "data.start_date 'soon' is not a date of the form YYYY-MM-DD"),
    ],
)
def test_a_value_of_the_wrong_kind_says_what_it_must_be(override, sentence):
    with pytest.raises(ConfigError) as error:
        load_config("demo", "smollm2-135m", [override])
    assert str(error.value).startswith(sentence) and not str(error.value).endswith("mean tab?")


def test_a_file_of_reviews_in_place_of_a_configuration_names_the_command_that_writes_one(tmp_path):
    (tmp_path / "reviews.csv").write_text("user,item\n")
    with pytest.raises(ConfigError, match=r"is no configuration: `sealr inspect .*reviews.csv --out"):
        load_config(str(tmp_path / "reviews.csv"), "smollm2-135m")
