"""Items that training has not seen: what is held out, who judges it, and what appending items changes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_sequences import make_sequences

from sealr.retrieve.cold import append_items, hold_out_items, ranks_of
from sealr.retrieve.fusion import fuse
from sealr.retrieve.models import build
from sealr.retrieve.models.popularity import popularity
from sealr.retrieve.retriever import Retriever, load, save
from sealr.retrieve.train import train
from sealr.settings import RetrieveConfig

NEW = ["new1", "new2"]


def untrained(config, sequences, content=None):
    torch.manual_seed(0)
    model = build(config, sequences.n_items, content)
    if hasattr(model, "fit"):
        model.fit(sequences)
    return Retriever(config, sequences.items, model.eval(), popularity(sequences))


def table(rows, width=5, seed=0):
    found = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    found[0] = 0
    return found


def test_held_out_items_are_in_neither_catalogue_nor_histories():
    sequences = make_sequences([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [2, 2, 4, 1]], 5)
    held = hold_out_items(sequences, 0.4, seed=1)
    cold = {sequences.item_ids()[name] for name in held.names}
    assert len(cold) == 2 and held.sequences.n_items == 3 and not cold & {*held.sequences.items}
    assert held.sequences.users == sequences.users
    names = np.array(["", *held.sequences.items, *held.names])
    for user in range(3):
        left = [sequences.items[i - 1] for i in sequences.sequence(user) if i not in cold]
        assert names[held.sequences.sequence(user)].tolist() == left
    content = torch.arange(6.0)[:, None]  # of an item: its id
    assert names[1:4].tolist() == [sequences.items[int(i) - 1] for i in held.learned(content)[1:, 0]]
    assert held.names == [sequences.items[int(i) - 1] for i in held.new(content)[:, 0]]
    assert hold_out_items(sequences, 0.4, seed=1).names == held.names


@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
def test_shares_that_leave_nothing_to_judge(share):
    with pytest.raises(ValueError, match="hold out some and leave some"):
        hold_out_items(make_sequences([[1, 2, 3]], 3), share, 0)


def test_users_judge_with_the_rest_of_their_histories():
    """Item 3 is held out: user 0 takes it last, user 1 never; user 2 keeps too few items to judge."""
    sequences = make_sequences([[1, 3, 2, 4, 3], [1, 2, 4, 1], [3, 3, 1, 2]], 4)
    held = next(h for seed in range(99) if (h := hold_out_items(sequences, 0.25, seed)).names == ["item3"])
    cold, warm = (held.targets("test", held_out) for held_out in (True, False))
    names = np.array(["", *held.sequences.items, *held.names])
    assert cold.users.tolist() == [0] and names[cold.targets].tolist() == ["item3"]
    assert names[cold.history(0)].tolist() == ["item1", "item2", "item4"]
    assert warm.users.tolist() == [1] and names[warm.targets].tolist() == ["item1"]
    assert names[warm.history(0)].tolist() == ["item1", "item2", "item4"]
    assert held.sequences.split("test").users.tolist() == [0, 1]  # training sees all of user 2


@pytest.mark.parametrize(
    ("model", "content"),
    [("sasrec", "none"), ("sasrec", "reviews"), ("bert4rec", "reviews"), ("ease", "none"), ("popularity", "none")],
)
def test_appended_items_leave_the_scores_of_the_others(model, content, cycle, quick):
    config = replace(quick, model=model, content=content)
    retriever = untrained(config, cycle, table(13) if content != "none" else None)
    grown = append_items(retriever, NEW, [table(3, seed=1)[1:] if content != "none" else None])
    histories = [[1, 2, 3], [12], []]
    before, after = retriever.score(histories), grown.score(histories)
    assert after.shape == (3, 15) and grown.items == [*cycle.items, *NEW]
    np.testing.assert_allclose(after[:, :13], before, rtol=1e-5, atol=1e-6)
    if content == "none":
        assert (after[:2, 13:] == 0).all()  # no id, no neighbours, no popularity
    else:
        assert (after[:2, 13:] != 0).all()
        assert (grown.model.items.ids.weight[13:] == 0).all()
    assert (after[2, 13:] == 0).all()  # nobody has taken them
    with pytest.raises(ValueError, match="'new2' is in the catalogue already"):
        append_items(grown, ["new2"], [None])


def test_an_item_with_the_content_of_another_scores_as_its_content_does(cycle, quick):
    content = table(13)
    retriever = untrained(replace(quick, content="reviews"), cycle, content)
    with torch.no_grad():
        retriever.model.items.ids.weight.zero_()
    scores = append_items(retriever, NEW[:1], [content[7:8]]).score([[1, 2, 3]])[0]
    np.testing.assert_allclose(scores[13], scores[7], rtol=1e-5)


def test_a_fusion_grows_in_all_parts_and_its_old_scores_stay(cycle, quick, tmp_path):
    parts = [replace(quick, content="reviews", epochs=1), replace(quick, model="ease"), replace(quick, epochs=1)]
    changes = (
        {"model": "sasrec", "content": "reviews", "epochs": 1},
        {"model": "ease"},
        {"model": "sasrec", "epochs": 1},
    )
    config = replace(quick, model="fusion", parts=changes)
    for number, part in enumerate(parts):
        train(part, cycle, tmp_path / str(number), content=table(13) if part.content != "none" else None)
    fuse(config, [load(tmp_path / str(number)) for number in range(3)], cycle, tmp_path / "fusion")
    retriever = load(tmp_path / "fusion")
    retriever.model.weights.copy_(torch.tensor([1.0, 0.5, 0.3]))
    grown = append_items(retriever, NEW[:1], [table(2, seed=1)[1:], None, None])
    grown = append_items(grown, NEW[1:], [table(2, seed=2)[1:], None, None])
    save(grown, tmp_path / "grown", {})
    histories = [[1, 2, 3], [12, 5]]
    for found in (grown, load(tmp_path / "grown")):
        scores = found.score(histories)
        np.testing.assert_allclose(scores[:, :13], retriever.score(histories), rtol=1e-4, atol=1e-5)
        assert np.isfinite(scores[:, 13:]).all() and (scores[:, 13] != scores[:, 14]).all()


@pytest.mark.slow
def test_content_tells_items_that_training_has_not_seen(tmp_path):
    """Users walk round 24 items whose content is their place on the circle: it tells what comes after the history."""
    sequences = make_sequences([[(start + step) % 24 + 1 for step in range(7)] for start in range(24)] * 8, 24)
    angles = torch.arange(24) / 24 * 2 * torch.pi
    places = torch.stack([wave(n * angles) for n in (1, 2) for wave in (torch.sin, torch.cos)], 1)
    content = 8 * torch.cat([torch.zeros(1, 4), places])
    placebo = content[np.r_[0, np.random.default_rng(0).permutation(24) + 1]]
    quick = {"hidden": 16, "layers": 1, "max_len": 8, "dropout": 0.1, "lr": 1e-2, "batch_size": 16, "epochs": 16}
    config, held = RetrieveConfig(**quick, content="reviews"), hold_out_items(sequences, 0.15, seed=0)
    ranks = {}
    for name, known in {"own": content, "placebo": placebo}.items():
        train(config, held.sequences, tmp_path / name, content=held.learned(known))
        grown = append_items(load(tmp_path / name), held.names, [held.new(known)])
        ranks[name] = ranks_of(grown, held.targets("test", held_out=True))
    assert len(held.names) == 4 and np.mean(ranks["own"] <= 3) > 0.9  # of about 20 candidates
    assert np.mean(ranks["own"]) < np.mean(ranks["placebo"])
