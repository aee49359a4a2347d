"""What a user got wrong is said in a sentence."""

import pytest

from tests.e2e.jobs import run


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.source=columns data.reviews.path=/nowhere/reviews.csv", "reviews.csv"),
        ("retrieve.epochs=none", "retrieve.epochs"),
        ("rerank.base=/nowhere/model", "nowhere/model"),
        ("data.name=[", "data.name"),
    ],
)
def test_user_mistakes_are_a_message_without_a_stack_trace(project, prefect_server, override, message):
    code, _, err = run(project, "--set", override, home="mistakes")
    assert code == 2 and message in err and err.startswith("error: ")
    assert "Traceback" not in err
