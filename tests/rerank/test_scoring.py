"""The scoring ranker: soft tokens, its trainer, and that feelings help exactly where they should."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sealr.data.sequences import Sequences, build
from sealr.data.sources.demo import generate
from sealr.data.tables import read_json
from sealr.rerank.llm import add_lora
from sealr.rerank.rankers import ScoringRanker
from sealr.rerank.requests import RerankInput
from sealr.rerank.scoring.model import build as build_model
from sealr.rerank.scoring.model import load_model, save_tokens
from sealr.rerank.scoring.train import NextItems, Windows, hard_model, item_table, train_scoring, training_windows
from sealr.rerank.training import shuffled
from sealr.retrieve.models import build as build_retriever
from sealr.retrieve.retriever import Retriever, load, save
from sealr.retrieve.train import train as train_retriever
from sealr.settings import LoraSettings, RerankConfig, RetrieveConfig, ScoringSettings
from tests.toys import timeless

ITEMS = 12


@pytest.fixture
def config(toy_llama):
    return RerankConfig(
        "scoring",
        base=str(toy_llama),
        lora=LoraSettings(r=4),
        lr=1e-2,
        batch_size=8,
        epochs=6,
        decode_batch=3,
        n_reranked=10,
        scoring=ScoringSettings(dropout=0.0),
    )


def walks(users: int, seed: int = 0) -> tuple[Sequences, np.ndarray]:
    """Users who go one item on after a good one and three on after a bad one, round 12 items; and their feelings."""
    rng = np.random.default_rng(seed)
    flat, felt = [], []
    for _ in range(users):
        item = int(rng.integers(ITEMS))
        for _ in range(7):
            good = rng.random() < 0.5
            flat.append(item + 1)
            felt.append((2.0, 1.5) if good else (-2.0, -1.5))
            item = (item + (1 if good else 3)) % ITEMS
    names = [f"i{n:02d}" for n in range(ITEMS)]
    sequences = Sequences([f"u{u:03d}" for u in range(users)], names, np.array(flat), np.arange(users + 1) * 7)
    return sequences, np.array(felt, dtype=np.float32)


def retriever(n_items: int = ITEMS, model: str = "sasrec") -> Retriever:
    settings = RetrieveConfig(
        model=model, hidden=8, layers=1, max_len=10, exclude_seen=False
    )  # the walks come back to items
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_retriever(settings, n_items, None).eval()
    return Retriever(settings, [f"i{n:02d}" for n in range(n_items)], network, np.zeros(n_items + 1, dtype=np.float32))


def train(config, sequences, feelings, users, folder, *rest, given=None, content=None):
    """`train_scoring` on a toy retriever."""
    save(given or retriever(), folder / "retriever", {})
    return train_scoring(config, "things", sequences, feelings, users, folder / "retriever", content, folder, *rest)


def fitted(config, folder, felt=None, users=48, **changes):
    sequences, feelings = walks(users)
    chosen = list(range(users - 8)), list(range(users - 8, users))
    feelings = feelings if felt is None else felt(feelings)
    return train(replace(config, **changes), sequences, feelings, chosen, folder).metrics


@pytest.mark.slow
def test_feelings_help_and_shuffled_ones_do_not(config, tmp_path):
    """Who knows the feeling knows the next item; without it two are equally likely: a loss of log 2 at best."""
    true = fitted(config, tmp_path / "true", users=400)
    shuffled = fitted(config, tmp_path / "shuffled", users=400, felt=lambda f: np.random.default_rng(0).permutation(f))
    without = fitted(config, tmp_path / "none", users=400, felt=lambda f: None, sentiment="none")
    assert true["valid_loss"] < 0.5 and true["valid_ndcg@10"] > 0.9
    assert min(shuffled["valid_loss"], without["valid_loss"]) > 0.65


@pytest.mark.slow
def test_on_the_demo_the_gain_is_there_and_vanishes_under_shuffling(toy_llama, tmp_path):
    """The demo's own feelings, as drawn by its generator, on users whom nobody was trained on."""
    reviews, _, truth = generate(seed=7)
    reviews["position"] = reviews.groupby("user").cumcount()
    sequences = build(reviews)
    felt = sequences.values(reviews.assign(felt=np.asarray(truth["sentiment"], dtype=float)), "felt")
    feelings = np.stack([2 * felt, 1.5 * felt], axis=1).astype(np.float32)
    scoring = ScoringSettings(dropout=0.2)
    config = RerankConfig(
        "scoring", base=str(toy_llama), lr=5e-3, batch_size=16, epochs=40, patience=5, max_history=8, scoring=scoring
    )
    given = RetrieveConfig(hidden=32, dropout=0.3, epochs=120, patience=5)  # its item embeddings know the categories
    (tmp_path / "given").mkdir()
    train_retriever(given, sequences, tmp_path / "given")
    users = list(range(0, len(sequences), 2)), list(range(1, len(sequences), 2))
    known = {}
    for name, values in {"true": feelings, "shuffled": np.random.default_rng(1).permutation(feelings)}.items():
        trained = train(config, sequences, values, users, tmp_path / name, given=load(tmp_path / "given"))
        known[name] = trained.metrics
    assert known["true"]["valid_ndcg@10"] > known["shuffled"]["valid_ndcg@10"]
    # without the feeling, two categories are possible: log 2, less the .15 of the steps that follow no feeling
    assert known["true"]["valid_loss"] < known["shuffled"]["valid_loss"] - 0.3


def test_a_cached_instruction_changes_nothing(config):
    model = build_model(config, add_lora(config), "things", torch.randn(ITEMS + 1, 8), None).eval()
    items = torch.tensor([[1, 2, 3], [4, 5, 0]])
    feelings = torch.randn(2, 3, 2).round()
    with torch.inference_mode():
        cached = model(items, feelings)
        model.cache_prefix = False
        assert torch.allclose(cached[0], model(items, feelings)[0], atol=1e-4)
        model.cache_prefix = True
        alone = model(items[1:, :2], feelings[1:, :2])  # padding changes no real position
        assert torch.allclose(cached[1, :2], alone[0], atol=1e-4)
        assert torch.allclose(model.last(items, feelings)[1], alone[0, -1], atol=1e-4)


def test_the_cached_instruction_follows_the_adapter(config):
    """Training throws the kept keys and values away."""
    torch.manual_seed(0)
    model = build_model(config, add_lora(config), "things", torch.randn(ITEMS + 1, 8), None).eval()
    items = torch.tensor([[1, 2, 3]])
    with torch.inference_mode():
        before = model(items)
    model.train()
    with torch.no_grad():
        for name, parameter in model.llm.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    model.eval()
    with torch.inference_mode():
        after = model(items)
        model.cache_prefix = False
        assert torch.allclose(after, model(items), atol=1e-3) and not torch.allclose(before, after, atol=1e-3)


def test_a_ranker_scores_as_its_training_model_did(config, tmp_path):
    fitted(config, tmp_path, epochs=1)
    ranker = ScoringRanker(config, "things", tmp_path / "adapter")
    requests = [
        RerankInput([1, 2, 3], [[2, 1.5], [-2, -1.5], [2, 1.5]], [4, 6]),
        RerankInput([5], [[np.nan, np.nan]], [1, 2, 3]),
        RerankInput([], [], [7, 8]),
        RerankInput([2, 3], [[2, 2], [2, 2]], [12]),
    ]
    together, alone = ranker.score(requests), [ranker.score([r])[0] for r in requests]
    for one, other in zip(together, alone, strict=True):
        assert one.values == pytest.approx(other.values, abs=1e-4) and one.validity == 1
    assert together[2].values.tolist() == [0, 0]  # nothing is known of an empty history
    with torch.inference_mode():
        felt = torch.tensor([[[2, 1.5], [-2, -1.5], [2, 1.5]]])
        by_hand = ranker.model.last(torch.tensor([[1, 2, 3]]), felt)[0] @ ranker.model.tokens.table()[[4, 6]].T
    assert together[0].values == pytest.approx(by_hand.numpy(), abs=1e-4)


def test_a_folder_without_soft_tokens_is_refused(config, tmp_path):
    with pytest.raises(ValueError, match="soft_tokens.safetensors is missing.*rerank.ranker: scoring"):
        load_model(config, add_lora(config), "things", tmp_path)


def test_soft_tokens_of_another_shape_are_refused(config, tmp_path):
    model = build_model(config, add_lora(config), "things", torch.randn(ITEMS + 1, 8), None)
    save_tokens(model.tokens, tmp_path)
    with pytest.raises(ValueError, match="does not fit the configuration"):
        load_model(replace(config, sentiment="none"), add_lora(config), "things", tmp_path)


def test_an_interrupted_training_ends_with_the_same_weights(config, tmp_path):
    whole = fitted(config, tmp_path / "a")

    def stop(epoch, scores):
        if epoch == 3:
            raise KeyboardInterrupt

    sequences, feelings = walks(48)
    users = list(range(40)), list(range(40, 48))
    rest = sequences, feelings, users, tmp_path / "b"
    with pytest.raises(KeyboardInterrupt):
        train(config, *rest, stop)
    assert timeless(train(config, *rest).metrics) == timeless(whole)
    for name in ("adapter_model.safetensors", "soft_tokens.safetensors"):
        assert (tmp_path / "a" / "adapter" / name).read_bytes() == (tmp_path / "b" / "adapter" / name).read_bytes()


def test_windows_of_the_two_settings(config):
    sequences, _ = walks(5)
    train, valid = training_windows(sequences, [0, 2], [4], replace(config, max_history=3))
    assert train.starts.tolist() == [3, 17] and train.ends.tolist() == [
        7,
        21,
    ]  # the last items are labels: nobody evaluates on them
    assert valid.ends.tolist() == [35] and train.lengths.tolist() == [3, 3]
    train, valid = training_windows(sequences, [], [], replace(config, user_split="transductive"))
    assert train.ends.tolist() == [5, 12, 19, 26, 33]  # neither the validation nor the test item of anybody
    assert valid.ends.tolist() == [6, 13, 20, 27, 34]


def test_on_whole_histories_it_learns_from_the_last_two_items_and_validates_nothing(config, tmp_path, caplog):
    sequences, feelings = walks(12)
    whole, config = sequences.with_whole(sequences.users), replace(config, user_split="transductive", epochs=5)
    train_part, valid = training_windows(whole, [], [], config)
    assert train_part.ends.tolist() == list(range(7, 85, 7)) and len(valid) == 0
    save(retriever(), tmp_path / "retriever", {})
    output = train_scoring(
        config, "things", whole, feelings, ([], []), tmp_path / "retriever", None, tmp_path / "refit", stop=2
    )
    assert output.rows["positions"] == 12 * 6 and output.rows["valid_users"] == 0
    assert output.metrics["epochs"] == output.metrics["best_epoch"] == 2 and output.metrics["train_loss"] > 0
    history = read_json(tmp_path / "refit" / "history.json")
    assert [set(entry) for entry in history] == [{"epoch", "train_loss"}] * 2 and "chosen by" not in caplog.text
    users = list(range(12)), []  # inductive: so many users, and all that they did
    settings = replace(config, user_split="inductive")
    same = train_scoring(
        settings, "things", sequences, feelings, users, tmp_path / "retriever", None, tmp_path / "same", stop=2
    )
    assert timeless(same.metrics) == timeless(output.metrics)


def test_few_validation_items_are_said_to_be_few(config, tmp_path, caplog):
    sequences, feelings = walks(40)
    for count, said in ((24, True), (25, False)):
        caplog.clear()
        users = [38, 39], list(range(count))
        train(replace(config, epochs=1), sequences, feelings, users, tmp_path / str(count))
        assert (f"chosen by {2 * count} validation items" in caplog.text) == said


@pytest.mark.slow
def test_transductive_training_validates_on_the_last_but_one_item(config, tmp_path):
    sequences, feelings = walks(300)
    settings = replace(config, user_split="transductive", epochs=6)
    output = train(settings, sequences, feelings, ([], []), tmp_path)
    assert output.rows["train_users"] == output.rows["valid_users"] == 300 and output.rows["positions"] == 300 * 4
    assert output.metrics["valid_ndcg@10"] > 0.7


@pytest.mark.parametrize("cut", [0, 4])
def test_validation_ranks_the_last_two_items_and_not_what_was_seen(config, cut):
    """A rank counts better items that are not in the history, and a seen target is a miss.

    cut: items of the history that are too old for the LLM to read.
    """
    made = task(config)
    made.exclude_seen, made.valid = True, Windows(made.valid.starts[:3] + cut, made.valid.ends[:3])
    items, targets, felt = made.tensors(made.valid, np.arange(3))
    with torch.inference_mode():
        made.model.eval()
        logits = made.model(items, felt) @ made.model.tokens.table().T
    values = []
    for row in range(3):
        for t, target in list(enumerate(targets[row].tolist()))[-2:]:  # rows are equally long
            start = made.valid.starts[row]
            seen = set(made.flat[start - cut : start + t + 1].tolist())
            ahead = [i for i in range(1, ITEMS + 1) if i not in seen and logits[row, t, i] > logits[row, t, target]]
            values.append(0.0 if target in seen or len(ahead) >= 10 else 1 / np.log2(len(ahead) + 2))
    assert 0 in values and made.validate()["valid_ndcg@10"] == pytest.approx(np.mean(values))


def test_what_is_too_old_to_be_read_is_masked_at_the_end_of_the_reviews_too(config):
    """The last user has fewer items than a user in the same batch has older ones."""
    made = task(config)
    made.flat, made.offsets = np.array([*range(1, ITEMS + 1)] * 2 + [3, 4]), np.array([0, 2 * ITEMS, 2 * ITEMS + 2])
    older = made.older(np.array([2 * ITEMS - 3, 2 * ITEMS]))
    assert older[0].tolist() == made.flat[: 2 * ITEMS - 3].tolist() and not older[1].any()


def task(config, **settings):
    sequences, feelings = walks(8)
    torch.manual_seed(0)
    given = retriever()
    config = replace(config, scoring=replace(config.scoring, **settings))
    model = build_model(config, add_lora(config), "things", item_table(given, sequences), None)
    rows = Windows(sequences.offsets[:-1], sequences.offsets[1:])
    return NextItems(model, config, sequences, feelings, rows, rows, given.model)


def test_the_loss_by_hand(config):
    one, rows = task(config), np.arange(8)
    items, targets, felt = one.tensors(one.train, rows)
    with torch.no_grad():
        logits = one.model(items, felt) @ one.model.tokens.table()[1:].T
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten() - 1, reduction="none")
        assert one.loss(rows, rows, 0)[0].item() == pytest.approx(losses.mean().item(), abs=1e-4)
        shards = sum(one.loss(shard, rows, 0)[0].item() for shard in (rows[:3], rows[3:]))
        assert shards == pytest.approx(losses.mean().item(), abs=1e-4)


def test_hard_negatives_are_the_retrievers_best(config):
    one = task(config, negative_source="hard", n_hard_negatives=10)
    items = torch.tensor([[1, 2, 3], [4, 0, 0]])
    nothing = torch.full((2, 3, 2), torch.nan)
    hard = one.hard_negatives(items, nothing)
    with torch.no_grad():
        scores = one.retriever.score(torch.tensor([[1, 2]]))[0]
    assert set(hard[0, 1].tolist()) == set(scores.topk(10).indices.tolist()) and hard[1, 1:].sum() == 0
    one.exclude_seen = True
    scores[[1, 2]] = -torch.inf
    assert set(one.hard_negatives(items, nothing)[0, 1].tolist()) == set(scores.topk(10).indices.tolist())
    one.loss(np.arange(8), np.arange(8), 0)[0].backward()
    assert torch.isfinite(one.model.tokens.in_proj.weight.grad).all()


def test_a_target_is_not_a_hard_negative_of_its_own(config):
    """All items but the seen ones are hard here, so the loss is that of the whole catalogue."""
    hard, full = task(config, negative_source="hard", n_hard_negatives=ITEMS), task(config)
    hard.model.load_state_dict(full.model.state_dict())
    rows = np.arange(8)
    with torch.no_grad():
        hard.model.eval(), full.model.eval()
        expected = full.loss(rows, rows, 0)[0].item()
        assert hard.loss(rows, rows, 0)[0].item() == pytest.approx(expected, rel=1e-5)


def test_hard_negatives_need_a_neural_retriever(config):
    sequences, feelings = walks(8)
    rows = Windows(sequences.offsets[:-1], sequences.offsets[1:])
    model = build_model(config, add_lora(config), "things", torch.randn(ITEMS + 1, 8), None)
    settings = replace(config, scoring=ScoringSettings(negative_source="hard"))
    both_directions = hard_model(retriever(model="bert4rec"))
    with pytest.raises(ValueError, match="needs a neural retriever"):
        NextItems(model, settings, sequences, feelings, rows, rows, both_directions)
    assert hard_model(retriever()) is not None and hard_model(retriever(model="bsarec")) is not None


def test_without_a_neural_retriever_items_start_from_cooccurrence():
    sequences, _ = walks(20)
    given = retriever()
    table = item_table(
        replace(given, model=build_retriever(replace(given.config, model="popularity"), ITEMS, None)), sequences
    )
    assert table.shape == (ITEMS + 1, 8) and table[0].abs().sum() == 0 and table[1:].std() > 0


def test_texts_reach_the_score(config, tmp_path):
    """Content starts with no effect and learns one."""
    sequences, feelings = walks(24)
    settings = replace(config, scoring=ScoringSettings(content="reviews", dropout=0.0), epochs=2)
    content = torch.nn.functional.one_hot(torch.arange(ITEMS + 1)).float()
    users = list(range(20)), list(range(20, 24))
    train(settings, sequences, feelings, users, tmp_path, content=content.numpy())
    ranker = ScoringRanker(settings, "things", tmp_path / "adapter")
    assert ranker.model.tokens.content_proj.weight.abs().sum() > 0
    assert torch.equal(ranker.model.tokens.content, content)


def test_rows_of_like_length_come_together_and_none_is_lost():
    lengths = np.random.default_rng(0).integers(1, 50, 1000)
    batches = shuffled(1000, 8, 0, 3, lengths)
    assert sorted(np.concatenate(batches)) == list(range(1000))
    spread = np.mean([np.ptp(lengths[b]) for b in batches])
    assert spread < 4 < np.mean([np.ptp(lengths[b]) for b in shuffled(1000, 8, 0, 3)])
    assert [b.tolist() for b in batches] != [b.tolist() for b in shuffled(1000, 8, 0, 4, lengths)]
