"""The two networks a Labeller can run: a text classifier from the hub, or the embedded MiniLM with its adapter."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from sealr.data.manifest import file_digest
from sealr.data.tables import EMOTIONS
from sealr.emotion import network as net
from sealr.emotion.quantise import METHOD, quantised, supported, weight_levels
from sealr.weights import TOKENIZERS, WeightsError, quiet, resolve

log = logging.getLogger(__name__)
HUB = "SamLowe/roberta-base-go_emotions"  # the paper's labeller (Section 2.1)
EMBEDDED = Path(__file__).resolve().parent / "embedded"  # ours, shipped with the package


class LabellerError(ValueError):
    """The model named in the configuration is not a labeller of the 28 emotions."""


@dataclass(frozen=True)
class LabellerSpec:
    """Which weights a configuration means, known without loading them."""

    name: str
    folder: Path
    embedded: bool  # a folder with labeller.json (adapter and head), not a whole classifier
    precision: str  # float32 or int8
    digest: str  # of everything that decides the probabilities


@dataclass(frozen=True)
class Backend:
    source: LabellerSpec
    tokenizer: Any
    logits: Callable[[Tensor, Tensor], Tensor]  # ids, mask (B, L) -> (B, 28) in the order of EMOTIONS, calibrated
    max_tokens: int  # positions of the network, special tokens included


@functools.cache
def resolve_labeller(model: str, precision: str = "auto") -> LabellerSpec:
    """The weights that ``auto``, ``embedded``, a folder or a repository name mean. Raises WeightsError, LabellerError.

    precision: see LabelConfig; ``auto`` is 8 bits where labeller.json says that these cost little and they run here.

    ``auto`` is the paper's classifier where it can be had and the embedded labeller elsewhere; the digest tells which
    one it was, so results of the two never mix.
    """
    if model == "auto":
        try:
            return _classifier(HUB, precision)
        except WeightsError as error:
            log.info("%s cannot be had here, using the embedded labeller", HUB)
            log.debug("%s", error)
            return _embedded(EMBEDDED, precision)
    if model == "embedded":
        return _embedded(EMBEDDED, precision)
    folder = Path(model).expanduser()
    if (folder / net.CARD).is_file():
        return _embedded(folder, precision)
    return _classifier(model, precision)


def pinned_name(model: str) -> str:
    """What ``auto`` stands for here, so that a model serves with the labeller it was trained with, wherever it runs."""
    source = resolve_labeller(model)
    return "embedded" if source.folder == EMBEDDED else str(source.folder) if source.embedded else source.name


def load(source: LabellerSpec) -> Backend:
    """Loads a source's weights. Raises LabellerError or network.AdapterError when they do not fit."""
    return _load_embedded(source) if source.embedded else _load_classifier(source)


def _embedded(folder: Path, precision: str) -> LabellerSpec:
    card = net.read_card(folder)
    parts = (net.ADAPTER, net.HEAD) if card.get("adapter", True) else (net.HEAD,)
    base = resolve(card["base"])
    files = [*(folder / part for part in parts), *sorted(base.glob("*.safetensors")), *_tokenizer(base)]
    if net.ADAPTER in parts:
        files.append(folder / "adapter_config.json")
    for name, digest in card.get("sha256", {}).items():
        if file_digest(folder / name) != digest:
            raise net.AdapterError(
                f"{folder / name} is not the file that {net.CARD} describes: a training was cut off here? Finish it, or put the files back"
            )
    if precision == "auto":
        precision = card.get("precision", "float32") if supported() else "float32"
    more = f"{card['temperature']!r} {precision_fingerprint(precision)}"
    return LabellerSpec(
        f"embedded ({card['base']}{' + LoRA' if net.ADAPTER in parts else ''}, {precision})",
        folder,
        True,
        precision,
        _digest(files, more),
    )


def _classifier(name: str, precision: str) -> LabellerSpec:
    folder = resolve(name)
    precision = "int8" if precision == "int8" else "float32"  # what 8 bits cost other classifiers was not measured
    files = [folder / "config.json", *sorted(folder.glob("*.safetensors")), *_tokenizer(folder)]
    return LabellerSpec(name, folder, False, precision, _digest(files, precision_fingerprint(precision)))


def _tokenizer(folder: Path) -> list[Path]:
    return [path for name in TOKENIZERS if (path := folder / name).is_file()]


def precision_fingerprint(precision: str) -> str:
    """All that the probabilities depend on: 8 bits are not the same on every CPU."""
    return f"int8 {METHOD} {weight_levels()}" if precision == "int8" else precision


def _digest(files: list[Path], more: str) -> str:
    return hashlib.sha256("\n".join([*map(file_digest, files), more]).encode()).hexdigest()[:16]


def _load_embedded(source: LabellerSpec) -> Backend:
    network, tokenizer, card = net.load_network(source.folder)
    temperature = float(card["temperature"])
    if source.precision == "int8":
        network.encoder = quantised(network.encoder, tokenizer)

    def logits(ids: Tensor, mask: Tensor) -> Tensor:
        return network(ids, mask) / temperature

    return Backend(source, tokenizer, logits, network.encoder.config.max_position_embeddings)


def _load_classifier(source: LabellerSpec) -> Backend:
    with quiet():
        model, report = transformers.AutoModelForSequenceClassification.from_pretrained(
            source.folder, dtype=torch.float32, output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(source.folder)
    if missing := sorted(report["missing_keys"]):
        raise LabellerError(
            f"{source.name} is not a trained classifier: it has no weights for {missing[0]} (and {len(missing) - 1} more)"
        )
    index = {str(label): int(i) for i, label in model.config.id2label.items()}
    if set(index) != set(EMOTIONS):
        raise LabellerError(
            f"{source.name} does not label the 28 GoEmotions emotions (its labels: {', '.join(sorted(index))[:200]})"
        )
    columns = torch.tensor([index[e] for e in EMOTIONS])
    model.eval()
    # RoBERTa numbers its positions from the padding id on, so the last ones cannot be used
    positions = model.config.max_position_embeddings - 2
    if source.precision == "int8":
        setattr(model, model.base_model_prefix, quantised(model.base_model, tokenizer))

    def logits(ids: Tensor, mask: Tensor) -> Tensor:
        return model(input_ids=ids, attention_mask=mask).logits[:, columns]

    return Backend(source, tokenizer, logits, positions)
