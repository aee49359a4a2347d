"""Candidates and ranks: exact, masked, in one order for any block size; an approximate index finds most of them."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from toy_sequences import make_sequences

from sealr.data.tables import read_table
from sealr.retrieve import candidates as module
from sealr.retrieve import index as module_index
from sealr.retrieve.candidates import (
    best_items,
    candidates_table,
    pools_for,
    ranks_among,
    ranks_and_lists,
    target_ranks,
    write_candidates,
)
from sealr.retrieve.index import ApproximateIndex, top
from sealr.retrieve.models import build
from sealr.retrieve.retriever import Retriever
from sealr.retrieve.train import popularity
from sealr.settings import RetrieveConfig


def candidates(retriever, sequences, split, *arguments):
    everybody = np.arange(len(sequences.split(split)))
    return candidates_table(sequences, split, everybody, *best_items(retriever, sequences, split, *arguments))


def top_lists(*arguments):
    return best_items(*arguments)[0]


@pytest.fixture
def sequences():
    rng = np.random.default_rng(1)
    return make_sequences([rng.integers(1, 31, size=rng.integers(1, 15)).tolist() for _ in range(60)], 30)


@pytest.fixture
def retriever(sequences):
    torch.manual_seed(0)
    config = RetrieveConfig(hidden=8, layers=1, max_len=6, n_retrieved=12)
    return Retriever(config, sequences.items, build(config, 30).eval(), popularity(sequences))


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_one_pass_gives_what_single_passes_give(retriever, sequences, exclude_seen, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 31 * 7)
    asked = replace(retriever, config=replace(retriever.config, exclude_seen=exclude_seen))
    ranks, kept, lists = ranks_and_lists(asked, sequences, "test", 10)
    assert ranks.tolist() == target_ranks(asked, sequences, "test", exclude_seen).tolist()
    assert kept.tolist() == target_ranks(asked, sequences, "test", False).tolist()
    assert lists.tolist() == top_lists(asked, sequences, "test", 10, exclude_seen).tolist()
    assert (ranks.tolist() == kept.tolist()) is not exclude_seen


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("split", ["valid", "test"])
def test_equal_a_naive_loop(retriever, sequences, split, exclude_seen, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 31 * 7)  # several blocks, the last one short
    frame = candidates(retriever, sequences, split, 12, exclude_seen)
    ranks = target_ranks(retriever, sequences, split, exclude_seen)
    part = sequences.split(split)
    assert len(ranks) == len(part)
    for i, user in enumerate(part.users):
        seen = set(part.history(i).tolist()) if exclude_seen else set()
        scores = retriever.score([part.history(i)])[0]
        best = sorted((item for item in range(1, 31) if item not in seen), key=lambda item: (-scores[item], item))
        target = part.targets[i]
        assert ranks[i] == (best.index(target) + 1 if target in best else 0)
        mine = frame[frame["user"] == sequences.users[user]]
        assert mine["item"].tolist() == [sequences.items[item - 1] for item in best[:12]]
        assert mine["rank"].tolist() == list(range(1, len(mine) + 1))
        np.testing.assert_allclose(mine["score"], scores[best[:12]], rtol=1e-4, atol=1e-6)
    assert set(frame["split"]) == {split}


def test_sorted_unique_and_never_seen(retriever, sequences):
    frame = candidates(retriever, sequences, "test", 12, True)
    assert not frame.duplicated(["user", "item"]).any()
    assert (frame.groupby("user")["score"].diff().dropna() <= 0).all()
    part = sequences.split("test")
    seen = {
        (sequences.users[u], sequences.items[i - 1])
        for u, h in zip(part.users, part.histories(), strict=True)
        for i in h
    }
    assert not seen & set(zip(frame["user"], frame["item"], strict=True))


def test_top_lists_are_the_candidates(retriever, sequences):
    lists = top_lists(retriever, sequences, "test", 12, True)
    frame = candidates(retriever, sequences, "test", 12, True)
    assert [sequences.items[i - 1] for i in lists[lists > 0]] == frame["item"].tolist()


def test_feelings_reach_the_model(sequences):
    torch.manual_seed(0)
    config = RetrieveConfig(hidden=8, layers=1, max_len=6, sentiment="class")
    retriever = Retriever(config, sequences.items, build(config, 30).eval(), popularity(sequences))
    torch.nn.init.normal_(retriever.model.sentiment_embedding.classes.weight)
    felt = np.random.default_rng(0).integers(-2, 3, size=(len(sequences.flat), 2)).astype(np.float32)
    frame, part = candidates(retriever, sequences, "test", 5, True, felt), sequences.split("test")
    for i in (0, 9, 33):
        scores = retriever.score([part.history(i)], [felt[part.starts[i] : part.ends[i]]])[0]
        mine = frame[frame["user"] == sequences.users[part.users[i]]]
        np.testing.assert_allclose(
            mine["score"], scores[[retriever.item_to_id[item] for item in mine["item"]]], rtol=1e-4, atol=1e-5
        )
        assert not np.allclose(scores[1:], retriever.score([part.history(i)])[0, 1:])
    assert (
        target_ranks(retriever, sequences, "test", True, felt) != target_ranks(retriever, sequences, "test", True)
    ).any()


def test_pool_larger_than_the_catalogue(retriever, sequences):
    frame = candidates(retriever, sequences, "test", 1000, True)
    part = sequences.split("test")
    expected = {
        sequences.users[u]: 30 - len(set(h.tolist())) for u, h in zip(part.users, part.histories(), strict=True)
    }
    assert frame.groupby("user").size().to_dict() == expected
    assert (candidates(retriever, sequences, "test", 1000, False).groupby("user").size() == 30).all()


def test_ties_go_to_the_lower_index():
    scores = torch.tensor([[-torch.inf, 0.0, 2.0, -0.0, 2.0, -1.0, -torch.inf]])
    ids, values = top(scores, 100)
    assert ids.tolist() == [[2, 4, 1, 3, 5, 0]]
    assert values.tolist() == [[2.0, 2.0, 0.0, 0.0, -1.0, -np.inf]]
    assert top(scores, 1)[0].tolist() == [[2]]


def test_top_agrees_with_a_stable_sort():
    scores = torch.randint(-5, 5, (50, 41), generator=torch.Generator().manual_seed(0)).float() / 4
    scores[:, 0] = -torch.inf
    assert (top(scores, 20)[0] == scores.sort(dim=1, descending=True, stable=True).indices[:, :20].numpy()).all()


def test_pools_for_are_the_same_lists(retriever, sequences, monkeypatch):
    frame = candidates(retriever, sequences, "test", 12, True)
    part = sequences.split("test")
    rows = (0, 7, 20)
    monkeypatch.setattr("sealr.retrieve.candidates.BLOCK_ROWS", 2)
    pools = list(pools_for(retriever, [part.history(i) for i in rows], 12, True))
    for i, (ids, scores) in zip(rows, pools, strict=True):
        mine = frame[frame["user"] == sequences.users[part.users[i]]]
        assert [sequences.items[j - 1] for j in ids] == mine["item"].tolist()
        np.testing.assert_allclose(scores, mine["score"], rtol=1e-4, atol=1e-6)
    (by_name, _), (by_index, _) = pools_for(retriever, [["item3", "unknown"], [3]], 5, False)
    assert by_name.tolist() == by_index.tolist()


def test_empty_or_unknown_history_gets_popular_items(retriever):
    best = np.argsort(-retriever.popularity, kind="stable")[:5]
    for ids, scores in pools_for(retriever, [[], ["never seen"]], 5):
        assert ids.tolist() == best.tolist() and scores.tolist() == retriever.popularity[best].tolist()
    mixed = retriever.score([[], [1, 2]])
    np.testing.assert_array_equal(mixed[0], retriever.popularity)
    np.testing.assert_allclose(mixed[1], retriever.score([[1, 2]])[0], rtol=1e-4, atol=1e-6)


def test_similarity(retriever):
    values = retriever.similarity(4, [4, 9])
    assert values.shape == (2,) and values[0] == pytest.approx(1) and values[1] < 1


def test_index_out_of_range(retriever):
    with pytest.raises(ValueError, match=r"1\.\.30"):
        retriever.score([[0, 3]])


def test_other_catalogue_is_refused(retriever):
    with pytest.raises(ValueError, match="another catalogue"):
        candidates(retriever, make_sequences([[1, 2, 3]], 3), "test", 5, True)


def test_a_masked_target_is_missed():
    scores = torch.tensor([[-torch.inf, 0.5, -torch.inf, 0.1], [-torch.inf, 0.5, 0.2, 0.1]])
    assert ranks_among(scores, torch.tensor([2, 2])).tolist() == [0, 2]


@pytest.mark.parametrize("place", [1, 2], ids=["competitor", "target"])
def test_scores_that_are_no_numbers_have_no_ranks(place):
    """NaN is not above any score, so the target would look better than it is."""
    scores = torch.tensor([[-torch.inf, 0.5, 0.2, 0.1], [-torch.inf, 0.5, 0.2, 0.1]])
    scores[1, place] = torch.nan
    with pytest.raises(FloatingPointError, match="^1 of 2 users have items whose score is not a number"):
        ranks_among(scores, torch.tensor([2, 2]))


def test_users_learned_whole_do_not_count(retriever, sequences, tmp_path):
    frame = candidates(retriever, sequences, "test", 12, True)
    part = sequences.split("test")
    hit = [
        sequences.items[t - 1] in set(frame["item"][frame["user"] == sequences.users[u]])
        for u, t in zip(part.users, part.targets, strict=True)
    ]
    assert any(hit) and not all(hit)
    learned = [int(u) for u, found in zip(part.users, hit, strict=True) if found]
    config = retriever.config
    assert write_candidates(retriever, sequences, config, tmp_path).metrics["test_hr@12"] == pytest.approx(np.mean(hit))
    assert write_candidates(retriever, sequences, config, tmp_path, None, learned).metrics["test_hr@12"] == 0


def test_write_candidates(retriever, sequences, tmp_path):
    output = write_candidates(retriever, sequences, retriever.config, tmp_path)
    frame = read_table(tmp_path / "candidates.parquet", "candidates")
    assert output.rows == {"candidates": len(frame)} and set(frame["split"]) == {"valid", "test"}
    ranks = target_ranks(retriever, sequences, "test", True)
    assert output.metrics["test_hr@12"] == pytest.approx(((ranks >= 1) & (ranks <= 12)).mean())


def test_a_table_written_in_many_blocks_is_the_same(retriever, sequences, tmp_path, monkeypatch):
    written = [write_candidates(retriever, sequences, retriever.config, tmp_path / "whole")]
    monkeypatch.setattr(module, "BLOCK_USERS", 7)
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 31 * 3)
    written.append(write_candidates(retriever, sequences, retriever.config, tmp_path / "blocks"))
    frames = [read_table(tmp_path / name / "candidates.parquet", "candidates") for name in ("whole", "blocks")]
    pd.testing.assert_frame_equal(*frames)
    assert written[0] == written[1]


def search_share(monkeypatch, probe):
    """Retrievers search this share of an approximate index."""
    monkeypatch.setattr("sealr.retrieve.retriever.ApproximateIndex", partial(ApproximateIndex, probe=probe))


@pytest.fixture
def approximate(monkeypatch):
    """300 users of 2,000 items; untrained, but its scores are products of vectors as in any model of VECTOR_MODELS."""
    pytest.importorskip("faiss")
    search_share(monkeypatch, 0.2)
    rng = np.random.default_rng(2)
    sequences = make_sequences([rng.integers(1, 2001, size=rng.integers(3, 15)).tolist() for _ in range(300)], 2000)
    torch.manual_seed(0)
    config = RetrieveConfig(hidden=8, layers=1, max_len=6, n_retrieved=20, index="approximate")
    return Retriever(config, sequences.items, build(config, 2000).eval(), popularity(sequences)), sequences


def exactly(retriever: Retriever) -> Retriever:
    return replace(retriever, config=replace(retriever.config, index="exact"))


def test_approximate_candidates_are_most_of_the_exact_ones(approximate, tmp_path, caplog):
    retriever, sequences = approximate
    output = write_candidates(retriever, sequences, retriever.config, tmp_path)
    frame = read_table(tmp_path / "candidates.parquet", "candidates")
    best = pd.concat(candidates(exactly(retriever), sequences, split, 20, True) for split in ("valid", "test"))
    both = frame.merge(best, on=["user", "item", "split"], suffixes=("", "_exact"))
    found = (both["split"] == "test").sum() / (best["split"] == "test").sum()
    assert output.metrics["test_index_recall@20"] == pytest.approx(found, abs=0.005)
    assert 0.6 < found < 1
    np.testing.assert_allclose(both["score"], both["score_exact"], rtol=1e-4, atol=1e-5)
    assert (frame.groupby(["user", "split"])["score"].diff().dropna() <= 0).all()
    low = "set retrieve.index=exact" in caplog.text
    assert low == (found < module.LOW_RECALL)
    assert not any(name.startswith("test_index") for name in _exact_metrics(retriever, sequences, tmp_path))


def _exact_metrics(retriever, sequences, folder):
    exact = exactly(retriever)
    return write_candidates(exact, sequences, exact.config, folder).metrics


def test_all_lists_searched_is_exact_and_seen_items_stay_out(approximate, monkeypatch):
    retriever, sequences = approximate
    search_share(monkeypatch, 1.0)
    for exclude_seen in (True, False):
        lists = top_lists(retriever, sequences, "test", 20, exclude_seen)
        assert (
            lists == top_lists(exactly(retriever), sequences, "test", 20, exclude_seen)
        ).mean() > 0.99  # rounding swaps some
    part = sequences.split("test")
    lists = top_lists(retriever, sequences, "test", 20, True)
    assert not any(np.isin(part.history(i), lists[i]).any() for i in range(len(part)))


def test_served_pools_are_the_approximate_candidates(approximate, monkeypatch):
    retriever, sequences = approximate
    monkeypatch.setattr(module, "BLOCK_ROWS", 7)
    part = sequences.split("test")
    lists = top_lists(retriever, sequences, "test", 20, True)
    histories = [part.history(i) for i in range(20)]
    pools = list(pools_for(retriever, [*histories, [], ["never seen"]], 20))
    assert [ids.tolist() for ids, _ in pools[:20]] == [row[row > 0].tolist() for row in lists[:20]]
    best = np.argsort(-retriever.popularity, kind="stable")[:20]
    for ids, scores in pools[20:]:
        assert ids.tolist() == best.tolist() and scores.tolist() == retriever.popularity[best].tolist()


def test_feelings_reach_the_approximate_index(approximate, monkeypatch):
    retriever, sequences = approximate
    search_share(monkeypatch, 1.0)
    config = replace(retriever.config, sentiment="class")
    retriever = replace(retriever, config=config, model=build(config, 2000).eval())
    torch.nn.init.normal_(retriever.model.sentiment_embedding.classes.weight)
    felt = np.random.default_rng(0).integers(-2, 3, size=(len(sequences.flat), 2)).astype(np.float32)
    lists = top_lists(retriever, sequences, "test", 20, True, felt)
    assert (lists == top_lists(exactly(retriever), sequences, "test", 20, True, felt)).mean() > 0.99
    assert (lists != top_lists(retriever, sequences, "test", 20, True)).mean() > 0.1


def masks_of(size: int, rng: np.random.Generator) -> list[np.ndarray | None]:
    """None, a few items, every other one, nearly all, none at all, and one."""
    shares = [0.01, 0.5, 0.95, 0]
    made = [rng.random(size + 1) < share for share in shares]
    one = np.zeros(size + 1, dtype=bool)
    one[7] = True
    return [None, *made, one]


@pytest.mark.parametrize("few", [10, module_index.FEW])
def test_an_approximate_index_fills_the_pool_with_allowed_items(approximate, monkeypatch, few):
    """Above ``few`` allowed items it searches among them, and scores them all only where its lists hold too few."""
    retriever, sequences = approximate
    monkeypatch.setattr(module_index, "FEW", few)
    part, found, best = sequences.split("test"), 0, 0
    masks = masks_of(2000, np.random.default_rng(3))
    histories = [*(part.history(i) for i in range(60)), []]
    allowed = [masks[i % len(masks)] for i in range(60)] + [masks[2]]
    for pool in (10, 300):  # 300 are more than one list holds
        both = (pools_for(r, histories, pool, allowed=lambda n: allowed[n]) for r in (retriever, exactly(retriever)))
        for history, mask, (ids, scores), (exact, values) in zip(histories, allowed, *both, strict=True):
            assert not np.isin(ids, history).any() and (np.diff(scores) <= 0).all()
            if mask is None:
                continue
            assert mask[ids].all() and len(ids) == len(exact) == min(
                pool, mask[np.setdiff1d(range(1, 2001), history)].sum()
            )
            found, best = found + np.isin(exact, ids).sum(), best + len(exact)
            if mask.sum() <= few:  # all were scored
                np.testing.assert_allclose(scores, values, rtol=1e-4, atol=1e-5)
    assert found == best if few > 2000 else 0.6 < found / best < 1
    bought = retriever.popularity * masks[2]
    assert ids.tolist() == np.lexsort((range(2001), -np.where(masks[2], bought, -1)))[:300].tolist()


def test_exact_pools_hold_the_best_allowed_items(retriever, sequences):
    part, rng = sequences.split("test"), np.random.default_rng(5)
    size = len(retriever.items)
    masks = masks_of(size, rng)
    for row in range(6):
        mask = masks[row] if masks[row] is not None else np.ones(size + 1, dtype=bool)
        scores = retriever.score([part.history(row)])[0]
        wanted = sorted(np.flatnonzero(mask[1:]) + 1, key=lambda i: (-scores[i], i))[:5]
        ((ids, values),) = pools_for(retriever, [part.history(row)], 5, False, allowed=[masks[row]].__getitem__)
        assert ids.tolist() == wanted and values.tolist() == scores[wanted].tolist()


def test_by_time_items_of_the_future_are_neither_read_nor_recommended():
    """Item 9 is new after the validation moment, 10. The model would recommend it to everybody, and item 8 after it."""
    lists = [[1, 2, 1], [2, 3, 9, 4], [3, 4, 5, 6, 7, 8], [9], [5, 9]]
    times = np.array([1, 2, 11, 3, 4, 13, 14, 5, 6, 7, 8, 9, 10, 12, 4, 15])
    sequences, asked = make_sequences(lists, 9).with_times(times), []

    def score(histories, feelings):
        asked.extend(zip([h.tolist() for h in histories], [f[:, 0].tolist() for f in feelings], strict=True))
        return np.tile(np.array([-np.inf, *range(1, 10)], dtype=np.float32), (len(histories), 1))

    retriever = SimpleNamespace(items=sequences.items, score=score, config=RetrieveConfig())
    felt = np.stack([times, times], axis=1).astype(np.float32)
    assert sequences.split("test").targets.tolist() == [4, 9]
    ids, _ = best_items(retriever, sequences, "test", 3, True, felt)
    assert ids.tolist() == [[8, 7, 6], [8, 7, 6]] and asked == [([2, 3], [3, 4]), ([5], [4])]
    assert target_ranks(retriever, sequences, "test", True, felt).tolist() == [5, 0]  # 8 7 6 5 4; a new item is missed
    plain = replace(sequences, cuts=None)
    assert best_items(retriever, plain, "test", 2, False, felt)[0].tolist() == [[9, 8]] * 3
