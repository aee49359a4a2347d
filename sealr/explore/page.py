"""The script that Streamlit runs for every look at the page. What it shows comes from `sealr.explore.view`."""

from __future__ import annotations

import sys
from typing import Any

import streamlit as st

from sealr.api import Model
from sealr.emotion.sentiment import CLASS_NAMES
from sealr.explore import markup, view
from sealr.explore.words import WORDS, Feeling, read_text
from sealr.serving.recommender import Recommender
from sealr.serving.request import BadRequest
from sealr.serving.resolved import ResolvedRequest

MOST_WEIGHT = 3.0
MOST_EVENTS = 20  # that a person adds
ANGRY = "I hate it. It broke at once, and I am angry that I paid for this."
HEADS = {"retriever": "Retriever", "llm": "LLM", "satisfaction": "Satisfaction"}
METHOD = (
    "Each word is left out in turn and the labeller reads the rest. Blue words raise the expected sentiment, red words "
    f"lower it; the strongest has the deepest colour. Point at a word for its numbers. At most {WORDS} words are read."
)


def main(model: str, compare: str = "") -> None:
    """model, compare: as for `sealr.load`; without compare there is one version."""
    st.set_page_config(page_title="SEALR explorer", layout="wide")
    st.html(markup.STYLE)
    loaded = view.load(model)
    st.title("What is recommended, and why")
    _start_from_address(loaded)
    try:
        _show(loaded, model, compare)
    except BadRequest as wrong:
        st.html(markup.paragraph(str(wrong)))


def _start_from_address(loaded: Model) -> None:
    """The user and the weight that the address names, once; afterwards the controls hold."""
    state = st.session_state
    if "weight" in state:
        return
    named = st.query_params.get("user")
    state.user = named if named and view.is_known(loaded.recommender, named) else None
    if named is not None and state.user is None:
        st.html(markup.paragraph(f"The address names the user {named}, whom the model does not know."))
    try:
        state.weight = round(min(max(float(st.query_params.get("satisfaction", 1.0)), 0.0), MOST_WEIGHT), 1)
    except ValueError:
        state.weight = 1.0


def _show(loaded: Model, model: str, compare: str) -> None:
    recommender = loaded.recommender
    with st.sidebar:
        st.html(markup.title(model))
        st.html(markup.paragraph(repr(loaded).removeprefix("<sealr.Model of ").removesuffix(">")))
        user = _choose_user(recommender)
        weight = _choose_weight(recommender)
        hidden = _choose_items("Hide items", recommender, "hidden")
        known = list(recommender.catalogue.categories)[: view.MOST]
        categories = (
            st.multiselect("Only these categories", known, key="categories", placeholder="all") if known else []
        )
    named = {"user": user} if user and view.known_users(recommender) is not None else {}  # no id that the model hides
    st.query_params.from_dict(named | {"satisfaction": f"{weight:g}"})
    asked_for = (user, _events(recommender), hidden, categories)
    asked = view.query(recommender, *asked_for)
    left, right = st.columns([2, 3], gap="large")
    with left:
        _history(recommender, asked)
    with right:
        _list(recommender, asked, weight)
    st.header("What each voice says")
    _voices(recommender, asked, weight)
    st.header("What if a review had been another one?")
    _what_if(recommender, asked, weight)
    if compare:
        st.header("Two versions")
        other = view.load(compare).recommender
        _compare((model, recommender, asked), (compare, other, view.query(other, *asked_for)), weight)


def _choose_user(recommender: Recommender) -> str | None:
    ids = view.known_users(recommender)
    if ids is None:
        return st.text_input("Id of a user; the model keeps no list of them", key="user") or None
    known = {user: user for user in ids}
    words = st.text_input("Search users") if len(known) > view.MOST else ""
    users = view.matching(known, words)
    if st.session_state.user and st.session_state.user not in users:
        users.insert(0, st.session_state.user)
    return st.selectbox("A user the model knows", users, index=None, placeholder="nobody: a new user", key="user")


def _choose_weight(recommender: Recommender) -> float:
    forecasts = recommender.forecast is not None
    text = "0: what the user will take. 1: as validation chose. More: what the user will be glad of."
    weight = st.slider("Satisfaction", 0.0, MOST_WEIGHT, step=0.1, format="%.1f", key="weight", disabled=not forecasts)
    st.caption(text if forecasts else "This version has no forecast of satisfaction, so its weight has no effect.")
    return float(weight)


def _choose_items(label: str, recommender: Recommender, key: str, most: int | None = None) -> list[str]:
    names = view.names(recommender)
    words = st.text_input(f"{label}: search", key=f"{key} words") if len(names) > view.MOST else ""
    chosen = st.session_state.get(key, [])
    items = list(dict.fromkeys([*chosen, *view.matching(names, words)]))
    shown: dict[str, Any] = {"format_func": names.__getitem__, "max_selections": most, "select_all": False}
    return st.multiselect(label, items, key=key, placeholder="none", **shown)


def _events(recommender: Recommender) -> list[dict[str, Any]]:
    """The history that a person types, after that of the known user if there is one."""
    with st.expander("Add to the history: items, your own words, stars", expanded=not st.session_state.user):
        chosen = _choose_items("Items, the oldest first; search by title or id", recommender, "items", MOST_EVENTS)
        events: list[dict[str, Any]] = []
        names = view.names(recommender)
        for item in chosen:
            st.html(markup.title(names[item]))
            text = st.text_area("Review", key=f"text {item}", max_chars=5000, height=68)
            stars = st.feedback("stars", key=f"stars {item}")
            events.append({"item": item} | ({"text": text} if text else {}))
            events[-1] |= {} if stars is None else {"rating": float(stars + 1)}
            _feeling(recommender, text)
    return events


def _feeling(recommender: Recommender, text: str) -> None:
    """What the labeller finds in a text. A session reads each text once."""
    if not text.strip():
        return
    read: dict[str, Feeling | None] = st.session_state.setdefault("read", {})
    if text not in read:
        read[text] = read_text(text, recommender.labeller)
    found = read[text]
    if found is None:
        st.caption("There is no word here that the labeller knows.")
        return
    st.html(markup.feeling(found))
    st.caption(METHOD)


def _history(recommender: Recommender, asked: ResolvedRequest) -> None:
    st.header("History")
    rows = view.history(recommender, asked)
    if rows.empty:
        st.caption("Nothing is known yet: choose a user, or add items above.")
        return
    st.html(markup.history(rows))
    older = len(asked.history) - len(rows)
    more = f" {older} older items are not shown." if older else ""
    st.caption(f"The newest first. Stars are those given, or what the words suggest; a dash: unknown.{more}")


def _list(recommender: Recommender, asked: ResolvedRequest, weight: float) -> None:
    st.header("Recommended")
    rows, notes = view.served(recommender, asked, weight)
    if notes:
        st.html(markup.paragraph(*notes))
    usual = view.served(recommender, asked)[0]
    st.html(markup.ranking(rows, usual["item"].tolist(), reasons=True))
    if weight != 1 and recommender.forecast is not None:
        _say_gone(rows["item"].tolist(), usual, "Marks compare with satisfaction at 1.")


def _say_gone(items: list[str], before: Any, first: str = "") -> None:
    missing = view.gone(items, before)
    said = [first] if first else []
    st.html(markup.paragraph(*said, f"No longer in the list: {', '.join(missing) or 'nothing'}."))


def _voices(recommender: Recommender, asked: ResolvedRequest, weight: float) -> None:
    lists = view.orders(view.voices(recommender, asked))
    columns = st.columns(len(lists) + 1)
    chosen = recommender.weights
    weights = {"retriever": 1.0, "llm": chosen.llm, "satisfaction": weight * chosen.satisfaction}
    for column, (name, rows) in zip(columns, lists.items(), strict=False):
        with column:
            st.markdown(f"**{HEADS[name]}**, weight {weights[name]:.3g}")  # nothing of the data
            st.html(markup.ranking(rows))
    with columns[-1]:
        st.markdown("**Served**, weighted sum" if len(lists) > 1 else "**Served**")
        st.html(markup.ranking(view.served(recommender, asked, weight)[0]))
    st.caption(
        "Scores of the voices are standardised: 0 is the mean, 1 is one standard deviation above it. Retriever and LLM "
        "are compared with the candidates, satisfaction with the catalogue."
    )


def _what_if(recommender: Recommender, asked: ResolvedRequest, weight: float) -> None:
    if not asked.history:
        st.caption("The history is empty.")
        return
    if not view.reads_feelings(recommender):
        st.caption("No part of this version reads feelings, so no review could change the list.")
        return
    rows = view.history(recommender, asked)
    titles = dict(zip(rows["place"], rows["title"], strict=True))
    happiest = int(rows["sentiment"].fillna(-3).argmax())  # the newest of them
    one, two = st.columns([2, 3])
    with one:
        place = st.selectbox(
            "Review of", list(titles), happiest, format_func=lambda p: f"{p + 1}. {titles[p]}", key="place"
        )
        by = st.radio("Another", ["feeling", "text"], horizontal=True, key="by")
    with two:
        if by == "text":
            text = st.text_area("The review would say", ANGRY, max_chars=5000, key="other text")
            event: dict[str, Any] = {"text": text}
            _feeling(recommender, text)
        else:
            felt = st.select_slider("It would feel", list(CLASS_NAMES), -2, CLASS_NAMES.get, key="other feeling")
            event = {"sentiment": int(felt)}
    other = view.what_if(recommender, asked, place, event)
    before, after = (view.served(recommender, q, weight)[0] for q in (asked, other))
    left, right = st.columns(2)
    was = before["item"].tolist()
    changes = ((left, "As it was", asked, before, None), (right, "As it would be", other, after, was))
    for column, head, request, found, marked in changes:
        with column:
            st.subheader(head)
            felt_then = view.history(recommender, request)
            st.html(markup.history(felt_then[felt_then["place"] == place]))
            st.html(markup.ranking(found, marked))
    with right:
        _say_gone(after["item"].tolist(), before)
    st.caption("The stars of the old review no longer count; those shown are what the new one suggests.")


def _compare(
    one: tuple[str, Recommender, ResolvedRequest], two: tuple[str, Recommender, ResolvedRequest], weight: float
) -> None:
    found = [view.served(recommender, asked, weight) for _, recommender, asked in (one, two)]
    first, second = (set(rows["item"]) for rows, _ in found)
    for column, (name, *_), (rows, notes) in zip(st.columns(2), (one, two), found, strict=True):
        with column:
            st.html(markup.title(name))
            if notes:
                st.html(markup.paragraph(*notes))
            st.html(markup.ranking(rows, shared=sorted(first & second), reasons=True))
    st.caption(f"{len(first & second)} items are in both lists; they have a blue ground.")


if __name__ == "__main__":
    main(*sys.argv[1:])
