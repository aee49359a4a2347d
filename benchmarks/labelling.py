"""Speed of labelling, step by step, and the value of the choices behind the labels. Prints Markdown.

``python -m benchmarks.labelling --reviews REVIEWS.json.gz [--count 400] [--roberta] [--quality]``

Speed: the baseline is transformers' ``pipeline("text-classification", top_k=None)``, called for one review at a time in
float32, truncated to 512 tokens. All steps label the same reviews with the same weights, and each step adds to the
previous one. Rounds of all steps alternate, and the fastest round of each step counts, so that a busy moment does not
favour one step.

Quality: no review is annotated, so the measure is the correlation of the expected sentiment with the stars.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from transformers import AutoTokenizer, BertConfig, PreTrainedModel, RobertaConfig, RobertaForSequenceClassification
from transformers import pipeline as transformers_pipeline
from transformers.modeling_outputs import SequenceClassifierOutput

from sealr.data.tables import EMOTIONS, read_json
from sealr.emotion import backends
from sealr.emotion import network as net
from sealr.emotion.engines import int8_available
from sealr.emotion.label import label
from sealr.emotion.labeller import WINDOW_TOKENS, Labeller, split_windows
from sealr.emotion.sentiment import to_sentiment
from sealr.settings import LabelConfig
from sealr.weights import quiet

READ = 512  # tokens the baseline reads


class Plain(PreTrainedModel):
    """The embedded labeller as a transformers classifier."""

    config_class = BertConfig
    _supports_sdpa = True

    def __init__(self, network: net.EmotionNetwork, temperature: float) -> None:
        super().__init__(network.encoder.config)
        self.network, self.temperature = network, temperature

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **more: Any) -> SequenceClassifierOutput:
        return SequenceClassifierOutput(logits=self.network(input_ids, attention_mask) / self.temperature)


def baseline(folder: Path) -> Callable[[str], np.ndarray]:
    """The pipeline call for a labeller or classifier folder: a text -> (28,)."""
    model: Any
    with quiet():
        if (folder / net.CARD).is_file():
            network, tokenizer, card = net.load_network(folder)
            network.encoder.set_attn_implementation("sdpa")  # the default of transformers
            network.encoder.config.update(
                {"id2label": dict(enumerate(EMOTIONS)), "problem_type": "multi_label_classification"}
            )
            model = Plain(network, float(card["temperature"])).eval()
        else:
            model = RobertaForSequenceClassification.from_pretrained(folder).eval()
            tokenizer = AutoTokenizer.from_pretrained(folder)
        call = transformers_pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None, device="cpu")

    def one(text: str) -> np.ndarray:
        scores = {s["label"]: s["score"] for s in call(text, truncation=True, max_length=READ)[0]}
        return np.array([scores[e] for e in EMOTIONS], np.float32)

    return one


def random_roberta(folder: Path) -> Path:
    """A classifier of RoBERTa-base's shape with random weights, for timing; its labels mean nothing.

    It has MiniLM's tokenizer, which makes about as many tokens of English as RoBERTa's own and needs no hub.
    """
    with quiet():
        _, tokenizer = net.load_base()
        torch.manual_seed(0)
        labels = dict(enumerate(EMOTIONS))
        config = RobertaConfig(
            vocab_size=50265,
            max_position_embeddings=514,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
            pad_token_id=tokenizer.pad_token_id,
            id2label=labels,
            label2id={e: i for i, e in labels.items()},
            problem_type="multi_label_classification",
        )
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
    one, config = baseline(folder), LabelConfig(model=str(folder))
    exact = Labeller.from_config(config, "float32")
    fast = Labeller.from_config(config, "int8" if int8_available() else "float32")
    short = Labeller(fast.backend, config, max_windows=1)

    def run(labeller: Labeller, workers: int) -> np.ndarray:
        cleaned = [labeller.clean([t])[1] for t in texts]  # each on its own, so that no repeated text is left out
        p = labeller.predict_texts([c[0] if c else "" for c in cleaned], workers)
        p[[not c for c in cleaned]] = np.nan
        return p

    def whole(home: Path) -> np.ndarray:
        label(frame, dataclasses.replace(config, workers=workers), home / "out", fast, cache=home / "cache")
        table = pd.read_parquet(home / "out" / "labels.parquet")
        return table[[f"p_{e}" for e in EMOTIONS]].to_numpy(np.float32)

    with tempfile.TemporaryDirectory() as scratch:
        homes = [Path(scratch) / str(i) for i in range(rounds)]
        steps: list[tuple[str, Callable[[int], np.ndarray]]] = [
            ("baseline: pipeline call, one review at a time", lambda i: np.stack([one(t) for t in texts])),
            ("+ batches of similar length, windows of 128 tokens", lambda i: run(exact, 1)),
            (f"+ {fast.backend.spec.precision}", lambda i: run(fast, 1)),
            *([(f"+ {workers} batches at a time", lambda i: run(fast, workers))] if workers > 1 else []),
            ("+ each text once, cache file written, table written", lambda i: whole(homes[i])),
            ("again, all texts in the cache", lambda i: whole(homes[i])),
            ("aside: first window only", lambda i: run(short, workers)),
        ]
        run(fast, 1), run(fast, workers)  # the first call for a number of workers compiles
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
        "| step | reviews/s | ratio | CPU ms per review | ratio | same emotion as float32 | mean difference |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    first, first_busy = best[steps[0][0]]
    for name, _ in steps:
        wall, busy = best[name]
        cells = (
            f"{len(texts) / wall:.1f} | {first / wall:.2f} | {1000 * busy / len(texts):.2f} | {first_busy / busy:.2f}"
        )
        lines.append(f"| {name} | {cells} | {agreement(reference, results[name])} |")
    return "\n".join(lines)


def quality(frame: pd.DataFrame, model: str, show: int, workers: int) -> str:
    """Compares argmax and expected sentiment, windows and truncation, by their correlation with the stars."""
    stars, lines = frame["rating"].to_numpy(float), []
    labeller = Labeller.from_config(LabelConfig(model=model))
    codes, unique = labeller.clean(list(frame["text"]))
    pieces = [split_windows(t, labeller.window_size) for t in labeller.tokenize(unique)]
    each = labeller.predict_tokens([p for ps in pieces for p in ps], workers)  # (windows, 28)
    edges = np.cumsum([0] + [len(p) for p in pieces])
    groups = [each[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    mean = np.stack([np.average(g, 0, [max(1, len(w)) for w in p]) for g, p in zip(groups, pieces, strict=True)])
    variants = {
        "all windows, mean weighted by length (shipped)": mean,
        "all windows, maximum": np.stack([g.max(0) for g in groups]),
    }
    for size in (READ, WINDOW_TOKENS, 64):
        short = Labeller(labeller.backend, labeller.config, window_tokens=size, max_windows=1)
        variants[f"truncated to {size} tokens, one window"] = short.predict_texts(unique, workers)
    known = codes >= 0
    long = np.array([len(p) > 1 for p in pieces])[codes] & known
    lines += [
        f"{known.sum()} reviews, {long.sum()} longer than a window. Correlation with the stars, Pearson / Spearman:",
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
        means = [klass[r].mean(), expected[r].mean(), (expected[r] < 0).mean(), (klass[r] == 0).mean()]
        lines.append(f"| {star:.0f} | {r.sum()} | {' | '.join(f'{m:.2f}' for m in means)} |")
    gap = np.where(known, expected - (stars - 3), np.nan)  # stars as -2..2, like the classes
    for title, order in (
        ("Felt better than rated", np.argsort(-np.nan_to_num(gap))),
        ("Felt worse than rated", np.argsort(np.nan_to_num(gap))),
    ):
        lines += ["", f"{title}:", ""]
        for i in order[:show]:
            emotion, text = EMOTIONS[int(mean[codes[i]].argmax())], unique[codes[i]][:240]
            lines.append(f"* {stars[i]:.0f} stars, expected {expected[i]:+.2f}, {emotion}: {text}")
    return "\n".join(lines)


def _both(stars: np.ndarray, values: np.ndarray) -> str:
    pairs = pd.DataFrame({"s": stars, "v": values})
    return f"{pairs.corr().iloc[0, 1]:.3f} / {pairs.rank().corr().iloc[0, 1]:.3f}"


def read(path: Path, count: int, seed: int) -> pd.DataFrame:
    """A random sample of an Amazon reviews file, with the columns that labelling needs."""
    names = {"reviewerID": "user", "reviewText": "text", "overall": "rating"}
    frame = pd.read_json(path, lines=True)[list(names)].rename(columns=names).astype({"text": object, "rating": float})
    frame = frame[frame["text"].str.strip() != ""]
    frame = frame.sample(min(count, len(frame)), random_state=seed).reset_index(drop=True)
    return frame.assign(position=range(len(frame)))


def main(
    reviews: Annotated[Path, typer.Option(help="An Amazon reviews file, .json.gz.")],
    model: Annotated[str, typer.Option(help="A labeller, as label.model.")] = "embedded",
    count: Annotated[int, typer.Option(help="Reviews, drawn at random.")] = 400,
    rounds: Annotated[int, typer.Option(help="Measurements of each step.")] = 3,
    workers: Annotated[int, typer.Option(help="Batches at a time; 0: PyTorch's threads.")] = 0,
    roberta: Annotated[bool, typer.Option(help="Time RoBERTa-base's shape with random weights.")] = False,
    quality_: Annotated[bool, typer.Option("--quality", help="Correlations with the stars instead of speed.")] = False,
    show: Annotated[int, typer.Option(help="Disagreements shown on each side, with --quality.")] = 8,
    seed: int = 0,
) -> None:
    """Speed of labelling, or correlations with the stars."""
    frame, workers = read(reviews, count, seed), workers or torch.get_num_threads()
    if quality_:
        print(quality(frame, model, show, workers))
        return
    with tempfile.TemporaryDirectory() as scratch:
        spec = backends.resolve_labeller(model)
        folder = random_roberta(Path(scratch)) if roberta else spec.folder
        name = "RoBERTa-base's shape, random weights" if roberta else read_json(folder / net.CARD)["base"]
        words = frame["text"].str.split().str.len().mean()
        print(f"{name}; {len(frame)} reviews of {words:.0f} words on average, best of {rounds} rounds\n")
        print(speed(frame, folder, rounds, workers))


if __name__ == "__main__":
    typer.run(main)
