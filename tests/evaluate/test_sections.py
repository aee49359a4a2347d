"""A table of figures with intervals as text, JSON and metrics."""

import json
import math

from sealr.evaluate.sections import Section

FIGURE, UNKNOWN = (0.5, 0.4, 0.6), (math.nan,) * 3
ROWS = {
    "fused": {"HR": FIGURE, "HR liked minus disliked": (0.1, -0.1, 0.2), "coverage": (0.9, math.nan, math.nan)},
    "fused minus retriever": {"HR": FIGURE, "HR liked minus disliked": UNKNOWN, "few": UNKNOWN},
}


def test_only_differences_have_a_sign_and_empty_columns_are_left_out():
    table = Section("A title", "What it means.", ROWS).table()
    assert list(table) == ["system", "HR", "HR liked minus disliked", "coverage"]
    assert table["HR"].tolist() == ["0.5000 (0.4000 to 0.6000)", "+0.5000 (+0.4000 to +0.6000)"]
    assert table["HR liked minus disliked"][0] == "+0.1000 (-0.1000 to +0.2000)" and table["coverage"][0] == "0.9000"


def test_json_has_null_for_what_is_unknown():
    made = json.loads(json.dumps(Section("A title", "What it means.", ROWS).plain(), allow_nan=False))
    assert made["reading"] == "What it means." and made["rows"][0]["coverage"] == [0.9, None, None]
    assert made["rows"][1] == {
        "system": "fused minus retriever",
        "HR": [0.5, 0.4, 0.6],
        "HR liked minus disliked": None,
        "few": None,
    }


def test_metrics_are_the_known_means():
    section = Section("A title", "What it means.", ROWS)
    assert section.means("fused minus retriever") == {"HR": 0.5} and section.means("nobody") == {}
