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
    ],
)
def test_placebos_of_retriever_and_llm_are_placebos(settings, placebo):
    assert is_placebo(load_config("demo", "", settings)) == placebo
