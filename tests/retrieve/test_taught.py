"""A network taught by a fusion: what it is asked about, what it learns, and how sharp the teacher is."""

from dataclasses import replace

import pytest
import torch
from toy_sequences import make_sequences

from sealr.config import ConfigError, from_dict
from sealr.retrieve.models.fusion import built_on, part_configs, teacher_of
from sealr.retrieve.retriever import Retriever, popularity
from sealr.retrieve.taught import Teacher, asked, changed, find_sharpness
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


def test_an_interrupted_pupil_goes_on_with_its_teacher_and_with_no_other(tmp_path, random_walks):
    config = RetrieveConfig(hidden=8, layers=1, epochs=4, batch_size=64, teacher=({"model": "transition"},))
    first, other = (Teacher(teacher(random_walks), sharpness) for sharpness in (1.0, 0.5))
    train(config, random_walks, tmp_path / "whole", stop=4, teacher=first)

    def stop(epoch, metrics):
        if epoch == 2:
            raise KeyboardInterrupt

    def begun(name, lessons):
        """The epoch with which a training goes on that was interrupted after two."""
        epochs = []
        with pytest.raises(KeyboardInterrupt):
            train(config, random_walks, tmp_path / name, stop, stop=4, teacher=first)
        train(config, random_walks, tmp_path / name, lambda epoch, _: epochs.append(epoch), stop=4, teacher=lessons)
        return epochs[0]

    assert begun("same", first) == 3 and begun("other", other) == 1
    whole, same, other = ((tmp_path / n / "sasrec.safetensors").read_bytes() for n in ("whole", "same", "other"))
    assert whole == same != other


def test_a_teacher_belongs_to_its_configuration(tmp_path, random_walks):
    lessons = Teacher(teacher(random_walks), 1.0)
    with pytest.raises(ValueError, match="with the teacher of retrieve.teacher"):
        train(RetrieveConfig(epochs=1), random_walks, tmp_path, teacher=lessons)
    with pytest.raises(ValueError, match="with the teacher of retrieve.teacher"):
        train(RetrieveConfig(epochs=1, teacher=PARTS), random_walks, tmp_path)


@pytest.mark.parametrize("seen", [True, False])
def test_what_was_taken_is_no_candidate(random_walks, seen):
    found = asked(teacher(random_walks, exclude_seen=seen), torch.tensor([[0, 0, 2, 3], [0, 0, 0, 12]]))
    assert found.shape == (2, 12) and found.argmax(1).tolist() == [3, 0]
    assert (found == -torch.inf).sum(1).tolist() == ([2, 1] if seen else [0, 0])


def test_a_lesson_is_least_for_a_pupil_that_agrees_and_no_candidate_is_too_improbable_for_it(random_walks):
    class Pupil:
        def __init__(self, height):
            self.wants = Wants(12, height)

        def encode_last(self, rows):
            return self.wants.score(rows).nan_to_num(neginf=0.0)

        def item_weights(self):
            return torch.eye(13)

    inputs, targets = torch.tensor([[1, 2, 3], [7, 0, 0]]), torch.tensor([[2, 3, 4], [8, 0, 0]])
    losses = {}
    for sharpness in (1.0, 100.0):  # at 100 the others' probability is 0 in float32
        lessons = Teacher(teacher(random_walks, 5.0), sharpness)
        for height in (-5.0, 0.0, 5.0):
            torch.manual_seed(0)
            losses[sharpness, height] = lessons.lesson(Pupil(height), inputs, targets).item()
    for sharpness in (1.0, 100.0):
        assert losses[sharpness, 5.0] < losses[sharpness, 0.0] < losses[sharpness, -5.0]
    assert losses[100.0, 0.0] > 2, "about the log of ten candidates"


def test_the_sharpness_makes_validation_items_most_probable():
    """Of 300 users 240 take the item after the newest: 4 of 5 is e^h / (e^h + 9) at h = log 36."""
    lists = [[1 + (u + place) % 10 for place in range(4)] for u in range(300)]
    lists = [[*row[:-2], row[-2] if u % 5 else 1 + (row[-2] + 3) % 10, row[-1]] for u, row in enumerate(lists)]
    sequences, best = make_sequences(lists, 10), torch.tensor(36.0).log().item()
    for wanted in (0.5, 1.0, 1.5):
        found = find_sharpness(teacher(sequences, best / wanted, exclude_seen=False), sequences)
        assert found == wanted


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
        ({"teacher": [{"model": "sasrec", "sentiment": "class"}]}, r"retrieve.teacher\[0\]: a teacher reads no sent"),
        ({"teacher": [{"model": "ease"}, {"model": "sasrec", "content": "both"}]}, r"teacher\[1\]: a teacher reads"),
        ({"teacher": [{"model": "sasrec", "max_len": 60}]}, r"teacher\[0\].max_len: 60 is more than retrieve.max_len"),
        ({"teacher": [{"model": "fusion"}]}, r"retrieve.teacher\[0\]: every part needs a model other than fusion"),
    ],
)
def test_what_no_teacher_can_be(settings, message):
    with pytest.raises(ConfigError, match=message):
        teacher_of(from_dict(RetrieveConfig, {"teacher": list(PARTS)} | settings, ""))
