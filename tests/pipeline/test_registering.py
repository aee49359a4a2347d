"""Who may be registered at all."""

import pytest

from sealr.config import load_config
from sealr.pipeline.registering import is_placebo


@pytest.mark.parametrize(
    ("settings", "placebo"),
    [
        ("", False),
        ("rerank.sentiment=shuffled", True),
        ("retrieve.sentiment=shuffled", True),
        ("retrieve.sentiment=class", False),
        ("retrieve.model=fusion 'retrieve.parts=[{model: sasrec, sentiment: shuffled}, {model: ease}]'", True),
        ("retrieve.content=shuffled", True),
        ("retrieve.content=reviews", False),
        ("retrieve.model=fusion 'retrieve.parts=[{model: sasrec, content: shuffled}, {model: ease}]'", True),
        ("rerank.scoring.content=shuffled", True),
        ("rerank.scoring.content=both", False),
        ("satisfaction.shuffled=true", True),
        ("satisfaction.model=none", False),
    ],
)
def test_placebos_of_retriever_and_llm_are_placebos(settings, placebo):
    assert is_placebo(load_config("demo", "", settings)) == placebo
