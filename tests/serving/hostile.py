"""Calls that nobody should send: strategies of hypothesis, and giants that it would not think of.

A call is what a client sends: a kind (for the summary), a body, and a Content-Type or None.
"""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

from hypothesis import strategies as st

from tests.serving.toy_model import ITEMS, USERS

JSON = "application/json"
FORMATS = ("dataframe_records", "dataframe_split", "instances", "inputs")
NASTY = (
    "'; DROP TABLE users; --",
    "<script>alert(1)</script>",
    "{{7*7}}",
    "${jndi:ldap://x/y}",
    "../../etc/passwd",
    "%s%s%n",
    "\x00",
    "a\x00b",
    "\ud800",
    "\udfff\ud800",
    "\u202eabc",
    "\ufeff",
    "é" * 40,
    "😀",
    "\r\nX-Evil: 1",
    "nan",
    "None",
    "null",
    "-1",
    "1e999",
    "__class__",
    "",
    " ",
    "i01 ",
    "I01",
    "ﬁ",
    "x" * 511,
    "x" * 513,
)


class Call(NamedTuple):
    kind: str
    body: bytes
    content_type: str | None = JSON


texts = st.one_of(
    st.sampled_from(NASTY), st.text(max_size=30), st.text(st.characters(categories=["Cs", "Cc", "Cf"]), max_size=5)
)
numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([math.nan, math.inf, -math.inf, 2**63, -(2**63) - 1, 10**400, -0.0, 1e308, True]),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)
users = st.one_of(st.sampled_from(USERS), st.sampled_from(USERS), anything)
items = st.one_of(st.sampled_from(ITEMS), st.sampled_from(ITEMS), anything)
sentiments = st.one_of(st.integers(-2, 2), anything)
ratings = st.one_of(st.floats(1, 5), st.integers(1, 5), anything)
events = st.fixed_dictionaries(
    {"item": items},
    optional={"text": st.one_of(texts, anything), "rating": ratings, "sentiment": sentiments},
)
tame_events = st.fixed_dictionaries(
    {"item": st.sampled_from(ITEMS)},
    optional={"text": texts, "rating": st.floats(1, 5), "sentiment": st.integers(-2, 2)},
)
histories = st.one_of(
    st.lists(tame_events, max_size=8), st.lists(events, max_size=8), st.lists(anything, max_size=4), anything
)
filters = {
    "include_items": st.one_of(st.lists(items, max_size=4), anything),
    "exclude_items": st.one_of(st.lists(items, max_size=4), anything),
    "categories": st.one_of(st.lists(st.sampled_from(["Tools", "Home"]), max_size=2), anything),
    "available_only": st.one_of(st.booleans(), anything),
}
records = st.one_of(
    st.fixed_dictionaries({}, optional={"user": users, "history": histories}),
    st.fixed_dictionaries({"user": users}, optional={"history": histories} | filters),
    st.dictionaries(st.one_of(st.sampled_from(["user", "history", "usr", "include_items"]), texts), users, max_size=3),
)
params = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "top_k": st.integers(1, 1000),
            "exclude_seen": st.booleans(),
            "explain": st.booleans(),
            "satisfaction_weight": st.one_of(st.floats(0, 100), st.integers(0, 100)),
        },
    ),
    st.fixed_dictionaries(
        {},
        optional={"top_k": anything, "exclude_seen": anything, "satisfaction_weight": anything, "other": anything},
    ),
    st.fixed_dictionaries({}, optional=filters),
    anything,
)


def encoded(value: Any, plain: bool = False) -> bytes:
    """JSON as bytes. plain: characters as they are, so that a lone surrogate is no UTF-8."""
    return json.dumps(value, ensure_ascii=not plain).encode("utf-8", "surrogatepass")


@st.composite
def calls(draw: st.DrawFn) -> Call:
    kind = draw(
        st.sampled_from(
            ["records", "ids", "params", "shape", "format", "split", "bytes", "header", "duplicates", "mixed"]
        )
    )
    plain = draw(st.booleans())
    valid = {"dataframe_records": [{"user": USERS[0]}], "params": {"top_k": 3}}
    if kind == "records":
        return Call(kind, encoded({"dataframe_records": draw(st.lists(records, max_size=5))}, plain))
    if kind == "ids":
        rows = [{"user": draw(texts)}, {"history": [{"item": draw(texts), "text": draw(texts)}, {"item": ITEMS[1]}]}]
        return Call(kind, encoded({"dataframe_records": rows}, plain))
    if kind == "params":
        return Call(kind, encoded(valid | {"params": draw(params)}, plain))
    if kind == "shape":
        return Call(kind, encoded(draw(anything), plain))
    if kind == "format":
        names = draw(
            st.lists(st.sampled_from([*FORMATS, "messages", "prompt", "input", "signature_name", "params"]), max_size=3)
        )
        return Call(
            kind, encoded({name: draw(st.one_of(anything, st.lists(records, max_size=3))) for name in names}, plain)
        )
    if kind == "split":
        columns = draw(st.one_of(anything, st.lists(st.sampled_from(["user", "history", "x"]), max_size=3)))
        split = {
            "columns": columns,
            "data": draw(st.lists(st.lists(st.one_of(users, histories), max_size=3), max_size=3)),
        }
        return Call(
            kind, encoded({"dataframe_split": split | draw(st.sampled_from([{}, {"index": [1, 1]}, {"x": 1}]))}, plain)
        )
    if kind == "bytes":
        whole = encoded(valid)
        cut = whole[: draw(st.integers(0, len(whole)))]
        return Call(
            kind, draw(st.one_of(st.binary(max_size=60), st.just(cut), st.just(cut + b"\xff" + whole[len(cut) :])))
        )
    if kind == "header":
        types = st.sampled_from(
            [
                None,
                "",
                "text/csv",
                "text/plain",
                "application/vnd.apache.parquet",
                "application/json; charset=utf-16",
                "application/json; charset=",
                "application/json;x=y",
                "APPLICATION/JSON",
                ";",
                "application/json;;",
            ]
        )
        return Call(kind, encoded(valid), draw(types))
    if kind == "duplicates":
        rows = [draw(records)] * draw(st.integers(2, 20)) + [{"user": USERS[1]}] * 3
        return Call(kind, encoded({"dataframe_records": rows}, plain))
    rows = draw(st.lists(records, min_size=1, max_size=3))
    return Call(kind, encoded({draw(st.sampled_from(FORMATS)): rows, "params": draw(params)}, plain))


def giants() -> list[Call]:
    """Few, large and slow to make: a million items, deep nesting, long numbers and texts."""
    million = [{"item": ITEMS[0]}] * 10**6
    deep = {f"deep {depth}": b"[" * depth + b"]" * depth for depth in (500, 5_000, 10**6)}
    objects = {f"deep objects {depth}": b'{"a":' * depth + b"1" + b"}" * depth for depth in (500, 100_000)}

    def record(value: bytes) -> bytes:
        return b'{"dataframe_records":[{"history":[{"item":' + value + b"}]}]}"

    return [
        Call("a million items", encoded({"dataframe_records": [{"history": million}]})),
        Call("a million items, short", b'{"dataframe_records":[{"history":[' + b"1," * 999_999 + b"1]}]}"),
        Call("a million requests", encoded({"dataframe_records": [{"user": USERS[0]}] * 10**6})),
        Call("a million columns", encoded({"dataframe_records": [{str(n): 0 for n in range(10**6)}]})),
        Call("100 thousand columns", encoded({"dataframe_records": [{str(n): 0 for n in range(10**5)}]})),
        Call("too many requests", encoded({"dataframe_records": [{"user": USERS[0]}] * 65})),
        Call(
            "many items",
            encoded({"dataframe_records": [{"history": [{"item": ITEMS[n % 12]} for n in range(10_000)]}]}),
        ),
        Call("many items twice", encoded({"dataframe_records": [{"history": million[:10_000]}] * 3})),
        Call(
            "many texts",
            encoded({"dataframe_records": [{"history": [{"item": ITEMS[0], "text": str(n)} for n in range(300)]}]}),
        ),
        Call(
            "a long text", encoded({"dataframe_records": [{"history": [{"item": ITEMS[0], "text": "word " * 20_001}]}]})
        ),
        Call(
            "a text as long as may be",
            encoded({"dataframe_records": [{"history": [{"item": ITEMS[0], "text": "x " * 50_000}]}]}),
        ),
        Call("a long id", encoded({"dataframe_records": [{"user": "u" * 3_000_000}]})),
        Call(
            "a large answer",
            encoded({"dataframe_records": [{"user": u} for u in USERS] * 2, "params": {"top_k": 1000}}),
        ),
        Call("history as a deep text", encoded({"dataframe_records": [{"history": "[" * 10**6}]})),
        *(Call(kind, record(value)) for kind, value in (deep | objects).items()),
        *(Call(f"{kind}, bare", value) for kind, value in (deep | objects).items()),
        Call("a number of 5,000 digits", record(b"9" * 5_000)),
        Call("a number of 300 digits", record(b"9" * 300)),
        Call("a number of 3 million digits", record(b"9" * 3_000_000)),
        *(Call(f"a rating of {n}", record(b'"i01","rating":' + n.encode())) for n in ("9" * 5_000, "1e999", "NaN")),
        *(
            Call(
                f"a weight of {n}",
                b'{"dataframe_records":[{"user":"u1"}],"params":{"satisfaction_weight":' + n.encode() + b"}}",
            )
            for n in ("9" * 5_000, "9" * 300, "1e999", "-Infinity", "NaN", "1e-320", "[[[1]]]")
        ),
        Call("NaN", record(b"NaN")),
        Call("Infinity", record(b"-Infinity")),
        Call("1e999", record(b"1e999")),
        Call("an empty body", b""),
        Call("a body of 5 MB", b" " * 5_000_000),
        Call("a body of 100 MB", b" " * 100_000_000),
    ]


def wrong(status: int, content_type: str, body: bytes) -> str:
    """Why an answer is not what a caller must get; empty where it is."""
    if not (status == 200 or 400 <= status < 500):
        return f"status {status}: {body[:300]!r}"
    try:
        answer = json.loads(body, parse_constant=lambda name: 1 / 0)
    except (ValueError, ZeroDivisionError):
        return f"status {status}, not JSON: {body[:300]!r}"
    if status != 200:
        message = answer.get("message")
        good = (
            content_type == JSON and isinstance(message, str) and 10 < len(message) < 800 and "Traceback" not in message
        )
        return "" if good else f"status {status}, no sentence: {body[:300]!r}"
    for row in answer["predictions"]:
        lengths = {len(row[name]) for name in ("items", "titles", "scores", "reasons")}
        if (
            len(lengths) != 1
            or row["scores"] != sorted(row["scores"], reverse=True)
            or len(set(row["items"])) != len(row["items"])
        ):
            return f"not a ranked list: {row}"
    return ""
