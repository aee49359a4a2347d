"""Engines that compute a labeller's network: PyTorch in float32, or OpenVINO in int8, three to four times as fast.

NNCF converts a network to int8 once per machine: post-training quantisation with SmoothQuant (Xiao et al. 2023) and
bias correction. All scales are fixed then, so the labels of a text do not depend on the other texts of its batch. The
converted network stays in the weights cache. docs/labelling.md has the measurements.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from filelock import FileLock
from torch import nn

from sealr.data.manifest import file_digest
from sealr.weights import quiet, weights_cache

log = logging.getLogger(__name__)
Batch = tuple[np.ndarray, np.ndarray]  # ids and mask, both (B, L) int64
CALIBRATION = Path(__file__).resolve().parent / "embedded" / "calibration.txt"  # texts of GoEmotions, one per line
CALIBRATION_TOKENS = 128  # read of a text
LIBRARIES = ("openvino", "nncf")


class EngineError(ValueError):
    """The int8 engine cannot be used on this machine."""


class Engine(Protocol):
    def run(self, batches: Sequence[Batch], workers: int = 1) -> Iterator[np.ndarray]:
        """Probabilities of each batch, (B, 28) float32, in order. workers: batches computed at the same time."""
        ...


class TorchEngine:
    """``network``: ids and mask (B, L) -> (B, 28) probabilities."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network.eval()

    def run(self, batches: Sequence[Batch], workers: int = 1) -> Iterator[np.ndarray]:
        if min(workers, len(batches)) <= 1:
            yield from map(self._forward, batches)
            return
        threads = torch.get_num_threads()
        try:  # a whole batch per thread keeps cores busier than a share of each batch
            with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                yield from pool.map(self._forward, batches)
        finally:
            torch.set_num_threads(threads)  # for threads that others start later

    @torch.inference_mode()
    def _forward(self, batch: Batch) -> np.ndarray:
        return self._network(*map(torch.from_numpy, batch)).numpy()


class OpenVINOEngine:
    """A network converted by `converted`. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._ov = _openvino()
        self._core = self._ov.Core()
        self._model = self._core.read_model(path)
        self._compile = functools.cache(self._compiled)  # per number of streams
        self._lock = threading.Lock()

    def run(self, batches: Sequence[Batch], workers: int = 1) -> Iterator[np.ndarray]:
        results: dict[int, np.ndarray] = {}
        with self._lock:
            model = self._compile(min(workers, max(1, len(batches))))
        queue = self._ov.AsyncInferQueue(model, workers)
        queue.set_callback(lambda request, i: results.update({i: request.get_output_tensor().data.copy()}))
        for i, (ids, mask) in enumerate(batches):
            queue.start_async({0: ids, 1: mask}, i)
        queue.wait_all()
        return (results[i] for i in range(len(batches)))

    def _compiled(self, streams: int) -> Any:
        options = {
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": max(streams, torch.get_num_threads()),
            "INFERENCE_PRECISION_HINT": "f32",  # of what is not int8: the same labels on CPUs with and without bf16
            "ENABLE_CPU_PINNING": False,  # two processes would share a core
        }
        return self._core.compile_model(self._model, "CPU", options)


def int8_available() -> bool:
    """Whether OpenVINO and NNCF are installed and the CPU adds products of 8-bit numbers in 32 bits (VNNI).

    Older CPUs add two products in 16 bits: results overflow, or weights have 7 bits, which costs .009 macro-F1.
    """
    capabilities = torch.cpu.get_capabilities()
    vnni = capabilities.get("avx512_vnni") or capabilities.get("avx_vnni")
    return bool(vnni) and all(importlib.util.find_spec(name) for name in LIBRARIES)


@functools.cache
def int8_fingerprint() -> str:
    """What the int8 probabilities depend on beside weights and tokenizer."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES]
    return " ".join(["int8", *versions, file_digest(CALIBRATION)[:16]])


def int8_engine(network: nn.Module, tokenizer: Any, digest: str, max_tokens: int) -> OpenVINOEngine:
    """The network in int8, from the weights cache or converted now, which takes about twenty seconds of CPU time.

    digest: of everything the conversion depends on. Raises EngineError; OSError if the cache cannot be written.
    """
    if not int8_available():
        raise EngineError("int8 labelling needs a CPU with VNNI and the packages openvino and nncf; use float32")
    folder = weights_cache() / "openvino" / digest
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{digest}.lock")):
        if not folder.is_dir():
            log.info("converting the labeller to int8, once")
            with tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as scratch:
                files = Path(scratch) / "files"
                files.mkdir()
                _openvino().save_model(
                    _converted(network, tokenizer, max_tokens), files / "model.xml", compress_to_fp16=False
                )
                os.rename(files, folder)
    return OpenVINOEngine(folder / "model.xml")


def _converted(network: nn.Module, tokenizer: Any, max_tokens: int) -> Any:
    """The network as an OpenVINO model from ids and mask to probabilities, quantised to int8."""
    ov, limit = _openvino(), min(CALIBRATION_TOKENS, max_tokens)
    texts = CALIBRATION.read_text(encoding="utf-8").splitlines()
    encoded = [tokenizer(t, truncation=True, max_length=limit, return_tensors="np") for t in texts]
    inputs = [(e.input_ids.astype(np.int64), e.attention_mask.astype(np.int64)) for e in encoded]
    example = tokenizer(["a long text and a padded one", "no"], padding=True, return_tensors="pt")
    with quiet(), _no_progress_bars():
        import nncf

        nncf.set_log_level(logging.ERROR)
        model = ov.convert_model(network.eval(), example_input=(example.input_ids, example.attention_mask))
        for port in model.inputs:
            port.get_node().set_partial_shape(ov.PartialShape([-1, -1]))
        model.validate_nodes_and_infer_types()
        data = nncf.Dataset(inputs)
        return nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(inputs))


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """NNCF draws its progress on rich's console, in notebooks too."""
    import rich

    console = rich.get_console()
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before


def _openvino() -> Any:
    """The library without its telemetry, which reports conversions to Google Analytics unless users opt out."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as if it was not installed
    import openvino

    return openvino
