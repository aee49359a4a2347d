"""A network taught by a fusion: what it is asked about, what it learns, and how sharp the teacher is."""

from dataclasses import replace

import pytest
import torch
from toy_sequences import make_sequences

from sealr.config import ConfigError, from_dict
from sealr.retrieve.models.fusion import built_on, part_configs, teacher_of
from sealr.retrieve.retriever import Retriever, popularity
from sealr.retrieve.taught import SHARPNESS, Teacher, changed, find_sharpness
from sealr.retrieve.train import load, train
from sealr.settings import RetrieveConfig

PARTS = ({"model": "bsarec", "lr": 0.01}, {"model": "transition"})


class Wants(torch.nn.Module):
    """Gives the item after a history's newest one, in a circle, ``height`` times the score of all others."""

    def __init__(self, n_items, height):
        super().__init__()
        self.n_items, self.height = n_items, height
        self.register_buffer("any", torch.zeros(1))

    def score(self, rows, feelings=None):
        newest = rows.gather(1, ((rows > 0) * torch.arange(1, rows.shape[1] + 1)).argmax(1, keepdim=True))  # (B, 1)
        scores = torch.zeros(len(rows), self.n_items + 1).scatter_(1, newest % self.n_items + 1, self.height)
        scores[:, 0] = -torch.inf
        return scores


def teacher(sequences, height=10.0, **settings):
    wants = Wants(sequences.n_items, height)
    return Retriever(RetrieveConfig(**settings), sequences.items, wants, popularity(sequences))


@pytest.fixture
def random_walks():
    """200 users who take 8 of 12 items in any order: nothing can be learned from them."""
    torch.manual_seed(0)
    return make_sequences([(torch.randperm(12)[:8] + 1).tolist() for _ in range(200)], 12)


def test_changed_histories_lack_some_items_and_keep_the_order():
    torch.manual_seed(0)
    rows = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8], [9, 8, 7, 0, 0, 0, 0, 0], [5, 0, 0, 0, 0, 0, 0, 0]]).repeat(500, 1)
    found = changed(rows)
    assert found.shape == rows.shape
    lengths = (found > 0).sum(1).view(500, 3)
    assert lengths.min() >= 1 and lengths[:, 2].eq(1).all(), "no history is empty"
    for before, after in zip(rows.tolist(), found.tolist(), strict=True):
        kept = [item for item in after if item]
        assert after == [0] * (8 - len(kept)) + kept, "padding stands on the left"
        assert kept == [item for item in before if item in kept], "in the order of the history"
    whole = lengths[:, 0].eq(8).float().mean()
    assert 0.3 < whole < 0.4, "three tenths stay, and seldom one loses nothing by chance"
    newest = (found[0::3, -1] == 8).float().mean()
    assert 0.5 < newest < 0.75, "the newest item is left out more often than others"


def test_a_network_learns_what_only_its_teacher_knows(tmp_path, random_walks):
    alone = RetrieveConfig(hidden=32, layers=1, dropout=0.0, lr=0.01, epochs=30, batch_size=32)
    config = replace(alone, teacher=({"model": "transition"},))
    train(config, random_walks, tmp_path / "taught", stop=30, teacher=Teacher(teacher(random_walks), 1.0))
    train(alone, random_walks, tmp_path / "alone", stop=30)
    histories = [random_walks.sequence(user)[:4] for user in range(100)]
    wanted = torch.tensor([history[-1] % 12 + 1 for history in histories])  # the one after the newest
    found = {name: load(tmp_path / name).score(histories).argmax(1) for name in ("taught", "alone")}
    same = {name: (torch.from_numpy(best) == wanted).float().mean().item() for name, best in found.items()}
    assert same["taught"] > 0.6 and same["alone"] < 0.3, same
    assert load(tmp_path / "taught").config.teacher == ({"model": "transition"},)


def test_a_teacher_belongs_to_its_configuration(tmp_path, random_walks):
    lessons = Teacher(teacher(random_walks), 1.0)
    with pytest.raises(ValueError, match="with the teacher of retrieve.teacher"):
        train(RetrieveConfig(epochs=1), random_walks, tmp_path, teacher=lessons)
    with pytest.raises(ValueError, match="with the teacher of retrieve.teacher"):
        train(RetrieveConfig(epochs=1, teacher=PARTS), random_walks, tmp_path)


@pytest.mark.parametrize("seen", [True, False])
def test_probabilities_leave_out_what_is_no_candidate(random_walks, seen):
    asked = Teacher(teacher(random_walks, exclude_seen=seen), 0.5)
    found = asked.probabilities(torch.tensor([[0, 0, 2, 3], [0, 0, 0, 12]]))
    assert found.shape == (2, 12) and torch.allclose(found.sum(1), torch.ones(2))
    assert found.argmax(1).tolist() == [3, 0]
    assert (found == 0).sum(1).tolist() == ([2, 1] if seen else [0, 0])


def test_the_sharpness_makes_validation_items_most_probable():
    """Of 300 users 240 take the item after the newest: 4 of 5 is e^h / (e^h + 9) at h = log 36."""
    lists = [[1 + (u + place) % 10 for place in range(4)] for u in range(300)]
    lists = [[*row[:-2], row[-2] if u % 5 else 1 + (row[-2] + 3) % 10, row[-1]] for u, row in enumerate(lists)]
    sequences, best = make_sequences(lists, 10), torch.tensor(36.0).log().item()
    for wanted in (0.5, 1.0, 1.5):
        found = find_sharpness(teacher(sequences, best / wanted, exclude_seen=False), sequences)
        assert found == wanted and found in SHARPNESS


def test_a_teacher_is_a_fusion_with_the_settings_of_its_pupil():
    config = RetrieveConfig(hidden=32, seed=5, epochs=7, teacher=PARTS)
    fused = teacher_of(config)
    assert fused.model == "fusion" and fused.parts == PARTS and not fused.teacher
    first, second = part_configs(fused)
    assert (first.model, first.hidden, first.seed, first.epochs, first.lr) == ("bsarec", 32, 5, 7, 0.01)
    assert second.model == "transition" and not second.teacher
    assert built_on(config) == [first, second, fused]
    assert teacher_of(fused) is None and built_on(fused) == [first, second] and built_on(RetrieveConfig()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "ease"}, "retrieve.teacher teaches a neural retriever, and ease is none"),
        ({"loss": "sampled"}, "retrieve.teacher needs retrieve.loss=softmax"),
        ({"sentiment": "class"}, "retrieve.teacher needs retrieve.loss=softmax and retrieve.sentiment=none"),
        ({"teacher": [{"model": "sasrek"}]}, r"retrieve.teacher\[0\]: .*did you mean sasrec"),
        ({"teacher": [{"modle": "sasrec"}]}, r"retrieve.teacher\[0\]: unknown setting .*did you mean"),
        ({"teacher": [{"model": "sasrec", "teacher": [{"model": "ease"}]}]}, "no teacher"),
        ({"teacher": [{"model": "sasrec", "sentiment": "class"}]}, "a teacher reads no sentiments"),
        ({"teacher": [{"model": "fusion"}]}, r"retrieve.teacher\[0\]: every part needs a model other than fusion"),
    ],
)
def test_what_no_teacher_can_be(settings, message):
    with pytest.raises(ConfigError, match=message):
        teacher_of(from_dict(RetrieveConfig, {"teacher": list(PARTS)} | settings, ""))
