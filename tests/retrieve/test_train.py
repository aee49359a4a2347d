"""The trainer: it learns, stops early, and its result loads elsewhere."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from toy_sequences import make_sequences

from sealr.data.tables import read_json
from sealr.retrieve.batches import Batches
from sealr.retrieve.train import load, popularity, train, trainer_options, validate
from sealr.settings import RetrieveConfig


@pytest.fixture
def trained(cycle, quick, tmp_path):
    epochs = []
    output = train(quick, cycle, tmp_path, lambda epoch, metrics: epochs.append((epoch, metrics)))
    return output, epochs, tmp_path


def test_loss_goes_down_and_a_cycle_is_predicted(trained, cycle):
    output, epochs, folder = trained
    assert [epoch for epoch, _ in epochs] == list(range(1, len(epochs) + 1))
    assert epochs[-1][1]["train_loss"] < 0.3 * epochs[0][1]["train_loss"]
    assert output.metrics["valid_ndcg@10"] > 0.99
    retriever = load(folder)
    histories = [["item3", "item4", "item5"], ["item11", "item12"], np.array([6, 7, 8])]
    assert retriever.score(histories).argmax(axis=1).tolist() == [6, 1, 9]


def test_files_and_output(trained, cycle, quick):
    output, epochs, folder = trained
    history = read_json(folder / "history.json")
    assert (
        len(history) == len(epochs) == output.metrics["epochs"]
        and history[0]["train_loss"] == epochs[0][1]["train_loss"]
    )
    assert "ndcg@10" not in history[0] and "ndcg@10" in history[1] and "seconds" not in history[1]
    assert read_json(folder / "items.json") == cycle.items
    assert read_json(folder / "retriever.json")["config"]["hidden"] == quick.hidden
    assert output.rows == {"users": 40, "items": 12, "positions": Batches(cycle, quick).positions}


def test_early_stopping(trained, quick):
    output, _, _ = trained
    assert output.metrics["epochs"] - output.metrics["best_epoch"] == quick.patience * quick.eval_every


@pytest.mark.slow
def test_load_in_a_clean_process(trained):
    _, _, folder = trained
    here = load(folder).score([["item1", "item2"]])
    code = (
        "import sys, pathlib, numpy as np\nfrom sealr.retrieve.train import load\n"
        "np.save(sys.argv[2], load(pathlib.Path(sys.argv[1])).score([['item1', 'item2']]))"
    )
    subprocess.run([sys.executable, "-c", code, str(folder), str(folder / "scores.npy")], check=True)
    np.testing.assert_array_equal(np.load(folder / "scores.npy"), here)


def test_training_leaves_the_callers_generator_alone(cycle, quick, tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train(dataclasses.replace(quick, epochs=1), cycle, tmp_path)
    assert torch.rand(1) == expected


def test_a_checkpoint_of_another_configuration_is_not_continued(cycle, quick, tmp_path, caplog):
    train(dataclasses.replace(quick, epochs=2), cycle, tmp_path)
    output = train(dataclasses.replace(quick, epochs=1), cycle, tmp_path)
    assert output.metrics["epochs"] == 1 and "starting anew" in caplog.text


@pytest.fixture
def ragged():
    return make_sequences([[1, 2, 3, 4, 5, 6], [7, 8, 9, 1], [1, 2], [5, 6, 7], [3]], 9)


def rows_of(batches):
    rows = []
    for inputs, targets, _ in batches:
        assert inputs.shape == targets.shape and ((inputs == 0) == (targets == 0)).all()
        rows += [
            tuple(zip(i[i > 0].tolist(), t[t > 0].tolist(), strict=True)) for i, t in zip(inputs, targets, strict=True)
        ]
    return sorted(rows)


def test_batches_shift_by_one_and_cover_everything(ragged, quick):
    batches = Batches(ragged, dataclasses.replace(quick, max_len=2, batch_size=2))
    # u0 trains on 1..4, cut to its newest three; u1 on 7, 8; u2 has two items, all for training; u3 and u4 have one
    assert rows_of(batches) == [((1, 2),), ((2, 3), (3, 4)), ((7, 8),)]
    assert batches.positions == 4 and len(batches) == 2


def test_batches_bring_the_feelings_of_their_inputs(ragged, quick):
    feelings = np.stack([np.arange(len(ragged.flat)), ragged.flat], axis=1).astype(np.float32)
    for inputs, _, felt in Batches(ragged, quick, feelings):
        assert felt.shape == (*inputs.shape, 2)
        assert (felt[..., 1] == inputs)[inputs > 0].all()


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "cosine"},
        {"ema_decay": 0.9},
        {"loss": "sampled", "n_negatives": 8},
        {"loss": "bce", "n_negatives": 2, "epochs": 60},
        {"item_init": "cooccurrence"},
    ],
)
def test_every_way_to_train_learns_the_cycle(changes, cycle, quick, tmp_path):
    output = train(dataclasses.replace(quick, **changes), cycle, tmp_path)
    assert output.metrics["valid_ndcg@10"] > 0.95


def test_what_is_kept_is_the_moving_average(cycle, quick, tmp_path):
    """With a decay near 1 the averaged weights stay where they started, so training has hardly an effect."""
    config = dataclasses.replace(quick, epochs=4)
    still = train(dataclasses.replace(config, ema_decay=0.9999), cycle, tmp_path / "still").metrics
    moved = train(config, cycle, tmp_path / "moved").metrics
    assert (
        still["loss"] == pytest.approx(moved["loss"], abs=0.5) and still["valid_ndcg@10"] < 0.6 < moved["valid_ndcg@10"]
    )


def test_learning_rates_change_between_epochs(quick):
    constant = trainer_options(quick, 5).schedule
    assert [constant(step, 100) for step in (0, 99)] == [1, 1]
    cosine = trainer_options(dataclasses.replace(quick, schedule="cosine", epochs=100), 5).schedule
    rates = [cosine(step, 500) for step in range(501)]
    assert rates[0] == 1 and rates[250] == pytest.approx(0.505) and rates[500] == pytest.approx(0.01)
    assert rates == sorted(rates, reverse=True) and rates[5:10] == [rates[5]] * 5 != rates[:5]


def test_sentiment_that_decides_is_learned(quick, tmp_path):
    """The last item's sentiment determines the direction around the cycle. Only a retriever that reads it knows."""
    rng = np.random.default_rng(0)
    ways, lists = [], []
    for _ in range(150):
        items, felt = [int(rng.integers(12))], []
        for _ in range(8):
            felt.append(int(rng.choice([-2, 2])))
            items.append((items[-1] + (1 if felt[-1] > 0 else -1)) % 12)
        ways += [*felt, 0]
        lists.append([item + 1 for item in items])
    sequences = make_sequences(lists, 12)
    feelings = np.stack([ways, np.array(ways) * 0.9], axis=1).astype(np.float32)
    shuffled = np.random.default_rng(1).permutation(feelings)
    found = {}
    for name, sentiment, felt in (
        ("none", "none", None),
        ("class", "class", feelings),
        ("shuffled", "shuffled", shuffled),
    ):
        config = dataclasses.replace(quick, sentiment=sentiment, batch_size=32, epochs=20)
        train(config, sequences, tmp_path / name, feelings=felt)
        retriever = load(tmp_path / name)
        found[name] = validate(retriever, sequences, felt)["ndcg@10"]
        assert found[name] == pytest.approx(read_json(tmp_path / name / "retriever.json")["best"]["ndcg@10"])
    assert found["class"] > 0.95 and max(found["none"], found["shuffled"]) < 0.85


def test_popularity_counts_training_items_only():
    counts = popularity(make_sequences([[1, 2, 3, 3], [1, 2, 4]], 4))
    assert counts.tolist() == [-np.inf, 2, 1, 0, 0]


def test_on_whole_histories_it_learns_what_only_the_newest_items_say(quick, tmp_path):
    """Everybody ends with items 11 and 12, which no other place has: their rule is held out of the training split."""
    rng = np.random.default_rng(0)
    sequences = make_sequences([[*rng.permutation(10)[:5] + 1, 11, 12] for _ in range(40)], 12)
    train(quick, sequences, tmp_path / "twin")
    output = train(quick, sequences.with_whole(sequences.users), tmp_path / "refit", stop=12)
    twin, refit = load(tmp_path / "twin"), load(tmp_path / "refit")
    asked = [["item3", "item8", "item11"], ["item5", "item11"]]
    assert refit.score(asked).argmax(axis=1).tolist() == [12, 12] != twin.score(asked).argmax(axis=1).tolist()
    assert twin.popularity[11:].tolist() == [0, 0] and refit.popularity[11:].tolist() == [40, 40]
    assert output.metrics["best_epoch"] == output.metrics["epochs"] == 12 and refit.epochs == (12,)
    assert "valid_ndcg@10" not in output.metrics and twin.epochs == (
        read_json(tmp_path / "twin/retriever.json")["best"]["epoch"],
    )


def test_nothing_to_train_or_validate_on(quick, tmp_path):
    with pytest.raises(ValueError, match="no user has three items"):
        train(quick, make_sequences([[1, 2]], 2), tmp_path)
    with pytest.raises(ValueError, match="no user has two training items"):
        train(quick, make_sequences([[1, 2, 3]], 3), tmp_path)


def test_diverging_training_is_an_error(cycle, quick, tmp_path):
    with pytest.raises(FloatingPointError, match="retrieve.lr"):
        train(dataclasses.replace(quick, lr=1e38), cycle, tmp_path)


def test_load_names_what_is_missing(trained, tmp_path):
    _, _, folder = trained
    (folder / "items.json").unlink()
    with pytest.raises(FileNotFoundError, match="items.json"):
        load(folder)


def test_a_fusion_says_how_it_is_made(cycle, tmp_path):
    with pytest.raises(ValueError, match="a fusion is not trained itself"):
        train(RetrieveConfig(model="fusion", parts=({"model": "ease"},)), cycle, tmp_path)
