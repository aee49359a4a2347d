"""int8: close to float32, independent of the batch, converted once per machine, and replaced by float32 elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sealr.data.tables import read_json, write_json
from sealr.emotion import backends, engines
from sealr.emotion.labeller import Labeller
from sealr.settings import LabelConfig
from tests import toys

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [
    "I love it",
    "It broke and I am angry and disappointed. " * 3,
    "fine",
    "ok " * 30,
    "a 1,2,3",
    *(f"item {i}" for i in range(40)),
]
needs_int8 = pytest.mark.skipif(not engines.int8_available(), reason="int8 needs openvino, nncf and a CPU with VNNI")


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """An empty weights cache, and no labellers resolved before."""
    monkeypatch.setenv("SEALR_WEIGHTS", str(tmp_path / "weights"))
    backends.resolve_labeller.cache_clear()
    yield tmp_path / "weights"
    backends.resolve_labeller.cache_clear()


@pytest.fixture
def embedded(tmp_path):
    return toys.toy_embedded(tmp_path / "labeller", toys.toy_encoder(tmp_path / "base"))


def load(model, precision):
    return Labeller.from_config(LabelConfig(model=str(model)), precision)


@needs_int8
@pytest.mark.parametrize("kind", ["classifier", "embedded"])
def test_int8_says_nearly_the_same(kind, toy_labeller, embedded, weights):
    """A head on [CLS] after a pooler, and mean pooling."""
    model = toy_labeller if kind == "classifier" else embedded
    exact, fast = load(model, "float32"), load(model, "int8")
    p, q = exact.probabilities(TEXTS), fast.probabilities(TEXTS)
    assert exact.identity != fast.identity and fast.backend.spec.precision == "int8"
    assert 0 < np.abs(p - q).mean() < 0.08  # random weights amplify errors; trained ones are in test_embedded.py
    np.testing.assert_array_equal(q, load(model, "int8").probabilities(TEXTS))
    for workers in (2, 3):  # the same batches
        np.testing.assert_array_equal(q, fast.predict_texts(fast.clean(TEXTS)[1], workers))
    alone = np.concatenate([fast.probabilities([t]) for t in TEXTS])
    np.testing.assert_allclose(q, alone, atol=0.01)  # a last bit of attention may change a value's 8-bit level


@needs_int8
def test_a_network_is_converted_once_per_machine(embedded, weights, monkeypatch):
    first = load(embedded, "int8")
    (folder,) = (weights / "openvino").glob("*/")
    assert folder.name == first.backend.spec.digest and {p.name for p in folder.iterdir()} == {"model.xml", "model.bin"}
    monkeypatch.setattr(engines, "_converted", lambda *arguments: pytest.fail("converted again"))
    np.testing.assert_array_equal(load(embedded, "int8").probabilities(TEXTS), first.probabilities(TEXTS))


@needs_int8
def test_an_interrupted_conversion_leaves_nothing(embedded, weights, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engines, "_converted", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load(embedded, "int8")
    assert not list((weights / "openvino").glob("*/"))
    assert np.isfinite(load(embedded, "int8").probabilities(["a"])).all()


@needs_int8
def test_the_identity_names_the_versions_of_the_libraries(embedded, weights, monkeypatch):
    digests = set()
    for version in ("1", "2"):
        monkeypatch.setattr("importlib.metadata.version", lambda name, version=version: version)
        engines.int8_fingerprint.cache_clear()
        backends.resolve_labeller.cache_clear()
        digests |= {backends.resolve_labeller(str(embedded), p).digest for p in ("float32", "int8")}
    engines.int8_fingerprint.cache_clear()
    assert len(digests) == 3  # float32 is the same everywhere


def test_auto_follows_the_card_and_the_machine(embedded, toy_labeller, weights, monkeypatch):
    def precision(available):
        monkeypatch.setattr(backends, "int8_available", lambda: available)
        backends.resolve_labeller.cache_clear()
        return backends.resolve_labeller(str(embedded)).precision

    assert precision(True) == "float32" and backends.resolve_labeller(str(toy_labeller)).precision == "float32"
    write_json(read_json(embedded / "labeller.json") | {"precision": "int8"}, embedded / "labeller.json")
    assert precision(True) == "int8" and precision(False) == "float32"


@pytest.mark.parametrize("missing", ["openvino", "vnni"])
def test_without_library_or_instructions_labels_are_float32(embedded, weights, monkeypatch, missing):
    """As where only the packages of a served model are installed."""
    write_json(read_json(embedded / "labeller.json") | {"precision": "int8"}, embedded / "labeller.json")
    if missing == "vnni":
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx2": True})
    else:
        monkeypatch.setattr(engines, "LIBRARIES", ("openvino_that_is_not_installed",))
    labeller = load(embedded, "auto")
    assert labeller.backend.spec.precision == "float32" and np.isfinite(labeller.probabilities(TEXTS)).all()
    monkeypatch.setattr(backends, "int8_fingerprint", lambda: "int8")
    with pytest.raises(engines.EngineError, match="VNNI"):
        load(embedded, "int8")


TELEMETRY = """
import sys
from sealr.emotion.labeller import Labeller
from sealr.settings import LabelConfig
labeller = Labeller.from_config(LabelConfig(model=sys.argv[1]), "int8")
assert not [name for name in sys.modules if name.startswith("openvino_telemetry") and sys.modules[name]]
print(labeller.probabilities(["I love it"]).shape)
"""


@needs_int8
@pytest.mark.slow
def test_a_conversion_prints_nothing_and_reports_nothing(embedded, weights):
    command = [sys.executable, "-c", TELEMETRY, str(embedded)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "(1, 28)\n"
