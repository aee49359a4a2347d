"""How fast labelling is, step by step, and what the choices behind the labels are worth. Markdown to standard output.

``python benchmarks/labelling.py --reviews <reviews .json.gz> [--count 400] [--roberta] [--quality]``

Speed: the baseline is the plain ``pipeline("text-classification", top_k=None)`` of transformers, called for one review
at a time in single precision, truncated to the 512 tokens its network can read, with PyTorch's own threads. All steps
take the same reviews and the same weights, each on top of the one before. Rounds of all steps alternate, and the
fastest round of each counts, so that a busy moment does not favour one of them. On a busy machine pin it to one core
(``OMP_NUM_THREADS=1 taskset -c 1``) and compare CPU times. Below the table stands what the matrix products alone take.

Quality: no review is annotated, so the measure is how the expected sentiment goes with the stars.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import AutoTokenizer, BertConfig, PreTrainedModel, RobertaConfig, RobertaForSequenceClassification, pipeline
from transformers.modeling_outputs import SequenceClassifierOutput

from sealr.data.tables import EMOTIONS
from sealr.emotion import backends
from sealr.emotion import network as net
from sealr.emotion.label import Labeller, label, split_windows
from sealr.emotion.quantise import Int8Linear, quantised
from sealr.emotion.sentiment import to_sentiment
from sealr.settings import LabelConfig
from sealr.weights import quiet

READ = 512  # tokens the baseline reads


class Plain(PreTrainedModel):
    """The embedded labeller as a transformers classifier: same encoder, adapter merged, mean pooling, head, temperature."""

    config_class = BertConfig
    _supports_sdpa = True

    def __init__(self, network: net.EmotionNetwork, temperature: float) -> None:
        super().__init__(network.encoder.config)
        self.network, self.temperature = network, temperature

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **ignored: Any) -> SequenceClassifierOutput:
        return SequenceClassifierOutput(logits=self.network(input_ids, attention_mask) / self.temperature)


def baseline(folder: Path) -> Callable[[str], np.ndarray]:
    """The pipeline call on a labeller folder or classifier folder: a text -> (28,)."""
    model, tokenizer = _load(folder)
    with quiet():
        if isinstance(model, net.EmotionNetwork):
            network, card = model, net.read_card(folder)
            network.encoder.set_attn_implementation("sdpa")  # what transformers would take by itself
            network.encoder.config.update({"id2label": dict(enumerate(EMOTIONS)), "problem_type": "multi_label_classification"})
            model = Plain(network, float(card["temperature"])).eval()
        call = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None, device="cpu")

    def one(text: str) -> np.ndarray:
        scores = {s["label"]: s["score"] for s in call(text, truncation=True, max_length=READ)[0]}
        return np.array([scores[e] for e in EMOTIONS], np.float32)

    return one


def random_roberta(folder: Path) -> Path:
    """A classifier of RoBERTa-base's shape with random weights: good for timing, its labels mean nothing.

    It gets MiniLM's tokenizer, as RoBERTa's own needs a hub; both cut English reviews into about as many tokens.
    """
    with quiet():
        _, tokenizer = net.load_base()
        torch.manual_seed(0)
        config = RobertaConfig(
            vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=tokenizer.pad_token_id,
            id2label=dict(enumerate(EMOTIONS)), label2id={e: i for i, e in enumerate(EMOTIONS)}, problem_type="multi_label_classification",
        )  # fmt: skip
        RobertaForSequenceClassification(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def agreement(p: np.ndarray, q: np.ndarray) -> str:
    """Share of texts with the same most probable emotion, and mean difference of the probabilities."""
    known = ~np.isnan(p).any(1) & ~np.isnan(q).any(1)
    return f"{(p[known].argmax(1) == q[known].argmax(1)).mean():.4f} | {np.abs(p - q)[known].mean():.4f}"


def speed(frame: pd.DataFrame, folder: Path, rounds: int, workers: int) -> str:
    """The table of steps for one labeller."""
    texts = list(frame["text"])
    one = baseline(folder)
    exact = Labeller.from_config(LabelConfig(model=str(folder), precision="float32"))
    int8 = Labeller.from_config(LabelConfig(model=str(folder), precision="int8"))
    short = Labeller(int8.backend, dataclasses.replace(int8.config, max_windows=1))

    def run(labeller: Labeller, workers: int) -> np.ndarray:
        cleaned = [labeller.clean([t])[1] for t in texts]  # every review on its own: none is left out as known
        p = labeller.run([c[0] if c else "" for c in cleaned], workers)
        p[[not c for c in cleaned]] = np.nan
        return p

    def whole(home: Path) -> np.ndarray:
        label(frame, dataclasses.replace(int8.config, workers=workers), home / "out", int8, cache=home / "cache")
        table = pd.read_parquet(home / "out" / "labels.parquet")
        return table[[f"p_{e}" for e in EMOTIONS]].to_numpy(np.float32)

    with tempfile.TemporaryDirectory() as scratch:
        homes = [Path(scratch) / str(i) for i in range(rounds)]
        steps: list[tuple[str, Callable[[int], np.ndarray]]] = [
            ("baseline: pipeline call, one review at a time", lambda i: np.stack([one(t) for t in texts])),
            ("+ batches of similar length, windows of 128 tokens", lambda i: run(exact, 1)),
            ("+ int8", lambda i: run(int8, 1)),
            *([(f"+ {workers} batches at a time, a thread each", lambda i: run(int8, workers))] if workers > 1 else []),
            ("+ each text once, cache file written, table written", lambda i: whole(homes[i])),
            ("again, all texts in the cache", lambda i: whole(homes[i])),
            ("aside: int8, first window only", lambda i: run(short, workers)),
        ]
        best: dict[str, np.ndarray] = {}
        results: dict[str, np.ndarray] = {}
        for i in range(rounds):
            for name, step in steps:
                wall, busy = time.perf_counter(), time.process_time()
                results[name] = step(i)
                spent = time.perf_counter() - wall, time.process_time() - busy
                best[name] = np.minimum(spent, best.get(name, np.inf))
    reference = results[steps[1][0]]
    lines = [
        "| step | reviews/s | ratio | CPU ms a review | ratio of CPU time | same emotion as float32 | mean difference |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    first, first_busy = best[steps[0][0]]
    for name, _ in steps:
        wall, busy = best[name]
        cells = f"{len(texts) / wall:.1f} | {first / wall:.2f} | {1000 * busy / len(texts):.2f} | {first_busy / busy:.2f}"
        lines.append(f"| {name} | {cells} | {agreement(reference, results[name])} |")
    ids = exact.backend.tokenizer(texts, truncation=True, max_length=READ).input_ids
    tokens = float(np.mean([len(i) for i in ids]))
    cells = ", ".join(f"{1000 * tokens * t:.2f} ms in {kind} ({g:.0f} billion/s)" for kind, t, g in products(folder))
    return "\n".join([*lines, "", f"Matrix products alone, {tokens:.0f} tokens a review: {cells}"])


@torch.inference_mode()
def products(folder: Path, rows: int = 1024) -> list[tuple[str, float, float]]:
    """For float32 and int8: CPU seconds a token for all products of the encoder, and billions of operations a second."""
    model, tokenizer = _load(folder)
    encoder = model.encoder if isinstance(model, net.EmotionNetwork) else model.base_model
    exact = [m for m in encoder.encoder.modules() if isinstance(m, torch.nn.Linear)]
    operations = sum(2 * m.weight.numel() for m in exact)
    fast = [m for m in quantised(encoder, tokenizer).modules() if isinstance(m, Int8Linear)]
    result = []
    for kind, layers in (("float32", exact), ("int8", fast)):
        total = 0.0
        for layer in layers:
            width = layer.weight.shape[1] if isinstance(layer, torch.nn.Linear) else layer.width
            x = torch.rand(rows, width) * 255
            x = x if kind == "float32" else x.to(torch.uint8)
            total += min(_busy(layer, x) for _ in range(5))
        result.append((kind, total / rows, operations * rows / total / 1e9))
    return result


def _busy(layer: torch.nn.Module, x: torch.Tensor) -> float:
    started = time.process_time()
    layer(x)
    return time.process_time() - started


def _load(folder: Path) -> tuple[Any, Any]:
    """The network of a labeller or classifier folder in single precision, and its tokenizer."""
    with quiet():
        if (folder / net.CARD).is_file():
            return net.load_network(folder)[:2]
        return RobertaForSequenceClassification.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def quality(frame: pd.DataFrame, model: str, show: int, workers: int) -> str:
    """Argmax against expected sentiment, and windows against truncation, by their correlation with the stars."""
    stars, lines = frame["rating"].to_numpy(float), []
    labeller = Labeller.from_config(LabelConfig(model=model))
    codes, unique = labeller.clean(list(frame["text"]))
    tokens = labeller.backend.tokenizer(unique, add_special_tokens=False, verbose=False).input_ids
    pieces = [split_windows(t[: labeller._limit], labeller._content) for t in tokens]
    each = labeller._run([p for ps in pieces for p in ps], workers)  # (windows, 28)
    edges = np.cumsum([0] + [len(p) for p in pieces])
    groups = [each[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    mean = np.stack([np.average(g, 0, [max(1, len(w)) for w in p]) for g, p in zip(groups, pieces, strict=True)])
    variants = {
        "all windows, mean weighted by length (shipped)": mean,
        "all windows, maximum": np.stack([g.max(0) for g in groups]),
    }
    for size in (READ, labeller.config.window_tokens, 64):
        short = Labeller(labeller.backend, dataclasses.replace(labeller.config, window_tokens=size, max_windows=1))
        variants[f"truncated to {size} tokens, one window"] = short.run(unique, workers)
    known = codes >= 0
    long = np.array([len(p) > 1 for p in pieces])[codes] & known
    lines += [
        f"{known.sum()} reviews, {long.sum()} of them longer than one window. Correlation with the stars, Pearson / Spearman:",
        "",
    ]
    lines += ["| reading | argmax class | expected sentiment | expected, long reviews only |", "|---|---|---|---|"]
    for name, p in variants.items():
        klass, expected = (v[codes].astype(float) for v in to_sentiment(p))
        cells = [_both(stars[r], v[r]) for v, r in ((klass, known), (expected, known), (expected, long))]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    klass, expected = (v[codes].astype(float) for v in to_sentiment(mean))
    lines += [
        "",
        "| stars | reviews | mean argmax class | mean expected sentiment | expected < 0 | argmax neutral |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for star in sorted(set(stars[known])):
        r = known & (stars == star)
        lines.append(
            f"| {star:.0f} | {r.sum()} | {klass[r].mean():.2f} | {expected[r].mean():.2f} | {(expected[r] < 0).mean():.2f} | {(klass[r] == 0).mean():.2f} |"
        )
    gap = np.where(known, expected - (stars - 3), np.nan)  # stars as -2..2, like the classes
    for title, order in (
        ("Felt better than rated", np.argsort(-np.nan_to_num(gap))),
        ("Felt worse than rated", np.argsort(np.nan_to_num(gap))),
    ):
        lines += ["", f"{title}:", ""]
        lines += [
            f"* {stars[i]:.0f} stars, expected {expected[i]:+.2f}, {EMOTIONS[int(mean[codes[i]].argmax())]}: {unique[codes[i]][:240]}"
            for i in order[:show]
        ]
    return "\n".join(lines)


def _both(stars: np.ndarray, values: np.ndarray) -> str:
    pairs = pd.DataFrame({"s": stars, "v": values})
    return f"{pairs.corr().iloc[0, 1]:.3f} / {pairs.rank().corr().iloc[0, 1]:.3f}"


def read(path: Path, count: int, seed: int) -> pd.DataFrame:
    """A random sample of an Amazon reviews file, in the columns of the reviews table that labelling needs."""
    names = {"reviewerID": "user", "reviewText": "text", "overall": "rating"}
    frame = pd.read_json(path, lines=True)[list(names)].rename(columns=names).astype({"text": object, "rating": float})
    frame = frame[frame["text"].str.strip() != ""]
    frame = frame.sample(min(count, len(frame)), random_state=seed).reset_index(drop=True)
    return frame.assign(position=range(len(frame)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reviews", type=Path, required=True, help="an Amazon reviews file, .json.gz")
    parser.add_argument("--model", default="embedded", help="a labeller, as label.model")
    parser.add_argument("--count", type=int, default=400, help="reviews, drawn at random")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each step")
    parser.add_argument(
        "--workers", type=int, default=torch.get_num_threads(), help="batches at a time; PyTorch's threads if not given"
    )
    parser.add_argument("--roberta", action="store_true", help="time RoBERTa-base's shape with random weights instead")
    parser.add_argument("--quality", action="store_true", help="correlations with the stars instead of speed")
    parser.add_argument("--show", type=int, default=8, help="disagreements shown on each side, with --quality")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    frame = read(arguments.reviews, arguments.count, arguments.seed)
    if arguments.quality:
        print(quality(frame, arguments.model, arguments.show, arguments.workers))
        return
    with tempfile.TemporaryDirectory() as scratch:
        source = backends.resolve_labeller(arguments.model)
        folder = random_roberta(Path(scratch)) if arguments.roberta else source.folder
        name = "RoBERTa-base architecture, random weights" if arguments.roberta else source.name.split(",")[0].rstrip(")") + ")"
        words = frame["text"].str.split().str.len()
        rounds = f"{torch.get_num_threads()} threads, best of {arguments.rounds}"
        print(f"{name}; {len(frame)} reviews of {words.mean():.0f} words on average, {rounds}\n")
        print(speed(frame, folder, arguments.rounds, arguments.workers))


if __name__ == "__main__":
    main()
