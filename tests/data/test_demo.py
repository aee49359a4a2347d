"""The demo data follow the documented mechanism: feelings and texts help where they should, placebos do not."""

import random
from collections import Counter, defaultdict

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

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
    assert words.between(8, 35).all() and reviews["text"].nunique() > 0.9 * len(reviews)
    assert not reviews["text"].str.contains(r"[{}]").any() and reviews["text"].str.match(r"[A-Z].*[.?!]$").all()
    names = {*items["brand"], *items["title"]}
    assert not reviews["text"].map(lambda text: any(name in text for name in names)).any()
    assert set(truth["emotion"]) == set(grammar()["feelings"])


def test_most_texts_tell_one_side_of_the_item_and_complaints_the_one_that_the_user_minds(demo):
    reviews, items, truth = demo
    calls = {side: "|".join(names) for side, names in grammar()["sides"].items()}
    found = pd.DataFrame({side: reviews["text"].str.contains(pattern) for side, pattern in calls.items()})
    assert (found.sum(axis=1) == (truth["told"] != "")).all() and found.any(axis=1).mean() > 0.8
    told = truth[found.any(axis=1)]
    assert (found.idxmax(axis=1)[told.index] == told["told"]).all()
    assert all(side in sides for side, sides in zip(told["told"], told["sides"], strict=True))
    complaints = truth[minded(truth) & (truth["sentiment"] < 0)]
    assert len(complaints) > 300 and (complaints["told"] == complaints["minds"]).all()
    known = items["title"] + items["brand"] + items["categories"]
    assert not known.str.contains("|".join(calls.values())).any()


def minded(truth):
    """Whether the item has the side that the user minds."""
    return pd.Series([minds in sides for minds, sides in zip(truth["minds"], truth["sides"], strict=True)])


def test_feelings_are_balanced_follow_item_and_side_and_agree_with_stars(demo):
    reviews, _, truth = demo
    assert abs((truth["sentiment"] == 1).mean() - (truth["sentiment"] == -1).mean()) < 0.15
    stars = (reviews["rating"] - 3).clip(-1, 1)
    assert 0.85 < (stars == truth["sentiment"]).mean() < 0.98
    ill = minded(truth)
    good = truth["sentiment"] == 1
    assert good[ill].mean() < 0.1 and abs(good[~ill & truth["poor"]].mean() - 0.2) < 0.05
    assert abs(good[~ill & ~truth["poor"]].mean() - 0.88) < 0.05
    assert truth.drop_duplicates("item")["poor"].mean() == 0.4


def test_users_take_what_they_are_fond_of_and_do_not_avoid_what_they_will_be_unhappy_with(demo):
    _, _, truth = demo
    fond = [side in sides for side, sides in zip(truth["fond"], truth["sides"], strict=True)]
    assert 0.86 < np.mean(fond) < 0.94  # .85, plus chance
    assert abs(truth["poor"].mean() - 0.4) < 0.04
    assert 0.21 < minded(truth)[truth["minds"] != ""].mean() < 0.30  # one of the four other sides


def steps_of(demo, sentiments, sides):
    """For each user the steps (item, category, sign); each item's category and sides."""
    reviews, items, _ = demo
    category = dict(zip(items["item"], items["categories"], strict=True))
    users = defaultdict(list)
    for user, item, sign in zip(reviews["user"], reviews["item"], sentiments, strict=True):
        users[user].append((item, category[item], sign))
    return list(users.values()), {item: (category[item], sides[item]) for item in category}


def hit_rate(steps, catalogue, felt, told):
    """HR@10 on last items by counts of the training steps; seen items are masked.

    felt: use the feeling about the last item. told: know sides, and take the user's most frequent one as the taste.
    """
    follow, matches = defaultdict(Counter), []
    state = (lambda step: step[1:]) if felt else (lambda step: step[1])
    taste = {}
    for user, all_steps in enumerate(steps):
        for now, then in zip(all_steps[:-2], all_steps[1:-1], strict=True):
            follow[state(now)][then[1]] += 1
        counts = Counter(side for item, *_ in all_steps[:-1] for side in catalogue[item][1])
        taste[user] = max(sorted(counts), key=counts.__getitem__)
        matches += [taste[user] in catalogue[item][1] for item, *_ in all_steps[:-1]]
    share = np.mean(matches)
    weight = {True: share / 0.4, False: (1 - share) / 0.6} if told else {True: 1, False: 1}
    hits = 0
    for user, all_steps in enumerate(steps):
        seen, after = {step[0] for step in all_steps[:-1]}, follow[state(all_steps[-2])]
        score = {i: after[c] * weight[taste[user] in s] for i, (c, s) in catalogue.items() if i not in seen}
        hits += all_steps[-1][0] in sorted(score, key=lambda i: (-score[i], i))[:10]
    return hits / len(steps)


@pytest.mark.parametrize("seed", [7, 1, 2])
def test_feelings_and_sides_tell_the_next_item_and_placebos_do_not(seed):
    demo = generate(seed=seed)
    truth, rng = demo[2], random.Random(seed)
    felt = truth["sentiment"].tolist()
    sides = dict(zip(truth["item"], truth["sides"], strict=True))
    others = dict(zip(sides, rng.sample(list(sides.values()), len(sides)), strict=True))
    known = {
        (feelings, texts): hit_rate(*steps_of(demo, felt, sides), feelings, texts)
        for feelings in (False, True)
        for texts in (False, True)
    }
    ids = known[False, False]
    assert ids < 0.4 and known[True, False] > ids + 0.1 and known[False, True] > ids + 0.2
    assert known[True, True] > max(known[True, False], known[False, True]) + 0.08
    assert hit_rate(*steps_of(demo, rng.sample(felt, len(felt)), sides), True, False) < ids + 0.06
    assert hit_rate(*steps_of(demo, felt, others), False, True) < ids + 0.06


def auc(forecast, liked):
    ranks, n = rankdata(forecast), liked.sum()
    return (ranks[liked].sum() - n * (n + 1) / 2) / (n * (~liked).sum())


def forecasts(demo):
    """Forecasts for the last items, from earlier reviews; and whether they have four or five stars.

    Item mean of stars, shrunk with three reviews; and less 1.5 where the user complained of one of the item's sides.
    """
    reviews, _, truth = demo
    position = reviews.groupby("user").cumcount()
    left = reviews.groupby("user")["user"].transform("size") - 1 - position
    train, last = left >= 2, left == 0
    stars, mean = reviews[train].groupby("item")["rating"], reviews.loc[train, "rating"].mean()
    of_item = reviews.loc[last, "item"].map((stars.sum() + 3 * mean) / (stars.size() + 3)).to_numpy()
    complaints = truth[train & minded(truth) & (truth["sentiment"] < 0)]
    minds = dict(zip(complaints["user"], complaints["told"], strict=True))
    ill = [minds.get(u, "") in s for u, s in zip(truth.loc[last, "user"], truth.loc[last, "sides"], strict=True)]
    return of_item, of_item - 1.5 * np.array(ill), (reviews.loc[last, "rating"] >= 4).to_numpy()


def test_others_and_own_complaints_foretell_whether_a_user_will_be_glad():
    """Six draws together; 320 last items alone have a standard error of .03."""
    of_item, with_sides, liked = map(np.concatenate, zip(*(forecasts(generate(seed=s)) for s in range(6)), strict=True))
    assert 0.4 < liked.mean() < 0.6
    assert auc(of_item, liked) > 0.68 and auc(with_sides, liked) > auc(of_item, liked) + 0.07
    shuffled = np.random.default_rng(0).permutation(of_item)
    assert abs(auc(shuffled, liked) - 0.5) < 0.05


def test_the_feeling_decides_with_the_stated_probability(demo):
    _, _, truth = demo
    steps, _ = steps_of(demo, truth["sentiment"], dict(zip(truth["item"], truth["sides"], strict=True)))
    outcomes = {1: [], -1: []}
    for user in steps:
        for (_, category, sign), (_, then, _) in zip(user[:-1], user[1:], strict=True):
            _, department, name = category.split(" > ")
            names = list(grammar()["catalogue"][department]["categories"])
            wanted = names[(names.index(name) + (sign > 0)) % 3]
            if sign:
                outcomes[sign].append(then == f"Beauty > {department} > {wanted}")
    for followed in outcomes.values():
        assert 0.83 < sum(followed) / len(followed) < 0.91  # .85, plus chance
