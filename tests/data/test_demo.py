"""The demo data follow the documented mechanism: feelings help, ids alone and shuffled feelings do not."""

import random
from collections import Counter, defaultdict

import pytest

from sealr.data.sources.demo import generate
from sealr.data.sources.demo_texts import grammar


@pytest.fixture(scope="module")
def demo():
    return generate()


def test_shape(demo):
    reviews, items, truth = demo
    assert len(reviews) == len(truth) and 2900 < len(reviews) < 3500 and len(items) == 120
    lengths = reviews["user"].value_counts()
    assert len(lengths) == 320 and lengths.between(8, 12).all()
    assert not reviews.duplicated(["user", "item"]).any() and (
        reviews[["user", "item"]] == truth[["user", "item"]]
    ).all(axis=None)
    assert items["title"].is_unique and items.groupby("categories")["brand"].nunique().eq(2).all()
    assert (reviews["timestamp"] % 86_400 == 0).all() and reviews["timestamp"].is_monotonic_increasing
    assert reviews["rating"].isin([1, 2, 3, 4, 5]).all()


def test_the_same_seed_gives_the_same_frames(demo):
    for one, two in zip(demo, generate(), strict=True):
        assert one.equals(two)
    assert not demo[0].equals(generate(seed=8)[0])


@pytest.mark.parametrize("users", [20, 45, 150, 320, 700])
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_all_survive_five_core(users, seed):
    reviews, items, _ = generate(users, seed)
    assert reviews["item"].value_counts().reindex(items["item"], fill_value=0).min() >= 5
    assert reviews["user"].nunique() == users and reviews["user"].value_counts().min() >= 5


def test_texts_are_sentences_that_seldom_repeat_and_name_no_product(demo):
    reviews, items, truth = demo
    words = reviews["text"].str.split().str.len()
    assert words.between(8, 32).all() and reviews["text"].nunique() > 0.9 * len(reviews)
    assert not reviews["text"].str.contains(r"[{}]").any() and reviews["text"].str.match(r"[A-Z].*[.?!]$").all()
    names = {*items["brand"], *items["title"]}
    assert not reviews["text"].map(lambda text: any(name in text for name in names)).any()
    assert set(truth["emotion"]) == set(grammar()["feelings"])


def test_feelings_are_balanced_independent_of_items_and_agree_with_stars(demo):
    reviews, items, truth = demo
    assert abs((truth["sentiment"] == 1).mean() - (truth["sentiment"] == -1).mean()) < 0.06
    brand = truth["item"].map(items.set_index("item")["brand"])
    assert truth.groupby(brand)["sentiment"].mean().abs().max() < 0.15
    stars = (reviews["rating"] - 3).clip(-1, 1)
    assert 0.85 < (stars == truth["sentiment"]).mean() < 0.98


def histories(demo, sentiments):
    """For each user the steps (line, sign) and the item after each; a line is (category, brand)."""
    reviews, items, _ = demo
    line = items.set_index("item")[["categories", "brand"]].apply(tuple, axis=1)
    users = defaultdict(list)
    for user, item, sign in zip(reviews["user"], reviews["item"], sentiments, strict=True):
        users[user].append((item, line[item], sign))
    return list(users.values())


def hit_rate(users, state):
    """HR@10 on last items, by counts of what follows a state without users' last items; seen items are masked."""
    follow, popular = defaultdict(Counter), Counter()
    for steps in users:
        for now, then in zip(steps[:-2], steps[1:-1], strict=True):
            follow[state(now)][then[0]] += 1
            popular[then[0]] += 1
    hits = 0
    for steps in users:
        counts, seen = follow[state(steps[-2])], {step[0] for step in steps[:-1]}
        ranked = sorted((i for i in popular if i not in seen), key=lambda i: (-counts[i], -popular[i], i))
        hits += steps[-1][0] in ranked[:10]
    return hits / len(users)


@pytest.mark.parametrize("seed", [7, 1, 2])
def test_the_feeling_about_the_last_item_tells_the_next_one(seed):
    demo = generate(seed=seed)
    feelings = demo[2]["sentiment"].tolist()
    shuffled = random.Random(seed).sample(feelings, len(feelings))
    users = histories(demo, feelings)
    ids, truth = hit_rate(users, lambda s: s[1]), hit_rate(users, lambda s: s[1:])
    placebo = hit_rate(histories(demo, shuffled), lambda s: s[1:])
    assert ids < 0.6 and truth > 0.65 and truth > ids + 0.15
    assert placebo < ids + 0.05


def test_the_feeling_decides_with_the_stated_probability(demo):
    reviews, items, truth = demo
    line = items.set_index("item")[["categories", "brand"]].apply(tuple, axis=1)
    outcomes = {1: [], -1: []}
    for steps in histories(demo, truth["sentiment"]):
        for (_, (category, brand), sign), (item, _, _) in zip(steps[:-1], steps[1:], strict=True):
            _, department, name = category.split(" > ")
            sold = grammar()["catalogue"][department]
            brands, categories = sold["brands"], sold["categories"]
            if sign == 1:
                names = list(categories)
                wanted = (f"Beauty > {department} > {names[(names.index(name) + 1) % 3]}", brand)
            elif sign == -1:
                wanted = (category, brands[1 - brands.index(brand)])
            else:
                continue
            outcomes[sign].append(line[item] == wanted)
    for followed in outcomes.values():
        assert 0.83 < sum(followed) / len(followed) < 0.90  # .85, plus chance
