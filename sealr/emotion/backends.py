"""Finds and loads a labeller: a text classifier from the hub, or the embedded MiniLM with its adapter."""

from __future__ import annotations

import functools
import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import Tensor, nn

from sealr.data.manifest import file_digest
from sealr.data.tables import EMOTIONS
from sealr.emotion import network as net
from sealr.emotion.engines import Engine, TorchEngine, int8_available, int8_engine, int8_fingerprint
from sealr.weights import TOKENIZERS, WeightsError, quiet, resolve

log = logging.getLogger(__name__)
HUB = "SamLowe/roberta-base-go_emotions"  # the paper's labeller (Section 2.1)
EMBEDDED = Path(__file__).resolve().parent / "embedded"  # ours, shipped with the package
Precision = Literal["auto", "float32", "int8"]


class LabellerError(ValueError):
    """The model named in the configuration is not a labeller of the 28 emotions."""


@dataclass(frozen=True)
class LabellerSpec:
    """The weights that a configuration names, known without loading them."""

    name: str
    folder: Path
    embedded: bool  # a folder with labeller.json, adapter and head; else a whole classifier
    precision: str  # float32 or int8
    digest: str  # of everything that decides the probabilities


@dataclass(frozen=True)
class Backend:
    spec: LabellerSpec
    tokenizer: Any
    engine: Engine
    max_tokens: int  # positions of the network, special tokens included


@functools.cache
def resolve_labeller(model: str, precision: Precision = "auto") -> LabellerSpec:
    """The weights that ``auto``, ``embedded``, a folder or a repository name means. Raises WeightsError, LabellerError.

    model: ``auto`` is the paper's classifier if it can be loaded, else the embedded labeller. The digest tells them
    apart, so their results never mix. precision: ``auto`` is int8 if labeller.json says that its cost is small and
    this machine has the libraries, else float32.
    """
    if model == "auto":
        try:
            return _classifier(HUB, precision)
        except WeightsError as error:
            log.info("no model hub is reachable (or allowed) for %s: the embedded labeller reads instead", HUB)
            log.debug("%s", error)
            return _embedded(EMBEDDED, precision)
    if model == "embedded":
        return _embedded(EMBEDDED, precision)
    folder = Path(model).expanduser()
    if (folder / net.CARD).is_file():
        return _embedded(folder, precision)
    return _classifier(model, precision)


def pinned_name(model: str) -> str:
    """What ``auto`` means on this machine, so that a model is served with the labeller it was trained with."""
    spec = resolve_labeller(model, "auto")  # as `Labeller.from_config`: the fallback is logged once
    return "embedded" if spec.folder == EMBEDDED else str(spec.folder) if spec.embedded else spec.name


def load(spec: LabellerSpec) -> Backend:
    """Loads weights. Raises LabellerError, network.AdapterError or engines.EngineError."""
    network, tokenizer, max_tokens = _load_embedded(spec) if spec.embedded else _load_classifier(spec)
    engine: Engine
    if spec.precision == "int8":
        engine = int8_engine(network, tokenizer, spec.digest, max_tokens)
    else:
        engine = TorchEngine(network)
    return Backend(spec, tokenizer, engine, max_tokens)


def _embedded(folder: Path, precision: str) -> LabellerSpec:
    card = net.read_card(folder)
    base = resolve(card["base"])
    files = [folder / net.ADAPTER, folder / net.HEAD, *sorted(base.glob("*.safetensors")), *_tokenizer(base)]
    files.append(folder / net.ADAPTER_CONFIG)
    for name, digest in card.get("sha256", {}).items():
        if file_digest(folder / name) != digest:
            raise net.AdapterError(
                f"{folder / name} is not the file that {net.CARD} describes: finish the interrupted training or "
                "restore the file"
            )
    if precision == "auto":
        precision = card.get("precision", "float32") if int8_available() else "float32"
    digest = _digest(files, f"{card['temperature']!r} {_fingerprint(precision)}")
    return LabellerSpec(f"embedded ({card['base']} + LoRA, {precision})", folder, True, precision, digest)


def _classifier(name: str, precision: str) -> LabellerSpec:
    folder = resolve(name)
    precision = "int8" if precision == "int8" else "float32"  # the cost of int8 is known for embedded labellers only
    files = [folder / "config.json", *sorted(folder.glob("*.safetensors")), *_tokenizer(folder)]
    return LabellerSpec(name, folder, False, precision, _digest(files, _fingerprint(precision)))


def _tokenizer(folder: Path) -> list[Path]:
    return [path for name in TOKENIZERS if (path := folder / name).is_file()]


def _fingerprint(precision: str) -> str:
    return int8_fingerprint() if precision == "int8" else precision


def _digest(files: list[Path], more: str) -> str:
    return hashlib.sha256("\n".join([*map(file_digest, files), more]).encode()).hexdigest()[:16]


class _Calibrated(nn.Module):
    """Probabilities of an embedded labeller, by its temperature."""

    def __init__(self, network: net.EmotionNetwork, temperature: float) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return torch.sigmoid(self.network(ids, mask) / self.temperature)


class _Reordered(nn.Module):
    """Probabilities of a classifier in the order of EMOTIONS."""

    def __init__(self, model: nn.Module, columns: list[int]) -> None:
        super().__init__()
        self.model, self.columns = model, columns

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return torch.sigmoid(self.model(input_ids=ids, attention_mask=mask).logits[:, self.columns])


def _load_embedded(spec: LabellerSpec) -> tuple[nn.Module, Any, int]:
    """Module from ids and mask (B, L) to (B, 28) probabilities, tokenizer, and positions."""
    network, tokenizer, card = net.load_network(spec.folder)
    if spec.precision == "int8":
        network.encoder.set_attn_implementation("sdpa")  # an operation that OpenVINO knows
    positions = network.encoder.config.max_position_embeddings
    return _Calibrated(network, float(card["temperature"])), tokenizer, positions


def _load_classifier(spec: LabellerSpec) -> tuple[nn.Module, Any, int]:
    with quiet():
        model, report = transformers.AutoModelForSequenceClassification.from_pretrained(
            spec.folder, dtype=torch.float32, output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(spec.folder)
    if missing := sorted(report["missing_keys"]):
        raise LabellerError(
            f"{spec.name} is not a trained classifier: no weights for {missing[0]} and {len(missing) - 1} more"
        )
    index = {str(label): int(i) for i, label in model.config.id2label.items()}
    if set(index) != set(EMOTIONS):
        labels = ", ".join(sorted(index))[:200]
        raise LabellerError(f"{spec.name} does not label the 28 GoEmotions emotions; its labels: {labels}")
    # RoBERTa numbers its positions from the padding id on, so the last two cannot be used
    return _Reordered(model, [index[e] for e in EMOTIONS]), tokenizer, model.config.max_position_embeddings - 2
