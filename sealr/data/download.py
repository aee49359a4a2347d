"""Finding a data file, or downloading it through fsspec: from ``https://``, ``s3://``, ``gs://`` and others.

A file gets its final name when it is complete and its checksum matches. Until then its bytes are in ``<name>.part``,
where the next attempt resumes.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
from filelock import FileLock
from fsspec.registry import known_implementations

from sealr.data.manifest import file_digest
from sealr.data.parts import parts
from sealr.data.query import run_query
from sealr.progress import progress_bar
from sealr.redact import redact
from sealr.settings import RemoteFile

log = logging.getLogger(__name__)
BLOCK = 8 << 20  # bytes per request
LARGEST = 256 << 30  # bytes: a server that never stops sending must not fill the disk
DATABASES = ("postgresql", "mysql", "mariadb", "sqlite", "oracle", "mssql")  # addresses that SQLAlchemy reads
FINAL = (errno.EEXIST, errno.EFBIG, errno.ENOSPC, errno.ENOTDIR, errno.EROFS)  # errors here, not on the way


class MissingFile(FileNotFoundError):
    """The file does not exist and cannot be downloaded; the message says where to put which file."""


class DownloadFailed(MissingFile):
    """The download failed for a reason that may pass, such as a busy server."""


class ChecksumError(ValueError):
    """The file's SHA-256 is not the expected one; the message holds both."""


def data_dir() -> Path:
    """Absolute path of the data folder: SEALR_DATA, else ``./data``."""
    return Path(os.environ.get("SEALR_DATA") or "data").resolve()


def local_path(remote: RemoteFile, folder: Path) -> Path:
    """Where the file is, or will be: ``s3://bucket/a.csv`` becomes ``s3/bucket/a.csv`` in the data folder."""
    if remote.query:
        key = hashlib.sha256(f"{redact(remote.path)} {remote.query}".encode()).hexdigest()[:16]
        return folder / "sql" / f"{key}.jsonl"
    if "://" not in remote.path:
        return folder / remote.path
    url = urlsplit(remote.path)
    names = (url.hostname or "", *url.path.split("/"))
    return folder.joinpath(url.scheme, *(name for name in names if name not in ("", ".", "..")))


def fetch(remote: RemoteFile, folder: Path | None = None, hint: str = "", tries: int = 4, wait: float = 1.0) -> Path:
    """The local path of a file or a folder of parts, downloaded if it does not exist yet; a query is asked each time.

    folder: the data folder, ``data_dir()`` by default. hint: a sentence that says where to get the file by hand.
    tries: number of attempts; wait: seconds before the second one, doubled each time.
    Raises ChecksumError for wrong content, MissingFile without a file, ValueError without a path.
    """
    if not remote.path:
        raise ValueError("no data file is configured: set data.reviews.path")
    if remote.path.startswith(DATABASES) and "://" in remote.path and not remote.query:
        raise ValueError(f"{redact(remote.path)} is a database: set data.reviews.query, or --query, to a SQL query")
    path = local_path(remote, folder or data_dir())
    if "://" in remote.path and remote.path.endswith("/") and not remote.query:
        for url in _remote_parts(remote.path):
            fetch(RemoteFile(url), folder, hint, tries, wait)
    if path.is_dir():
        if not parts(path):
            raise MissingFile(f"{path} is a folder without files: put the reviews there, or correct data.reviews.path")
        return path
    if path.is_file() and not remote.query:
        _check(path, remote, "Delete it to download it again, or correct the checksum in the configuration")
        return path
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is neither a file nor a folder; data.reviews.path and data.items.path name them")
    elsewhere = "" if Path(remote.path).is_absolute() else f", or set SEALR_DATA to a folder that holds {remote.path}"
    by_hand = f"Put the file at {path}{elsewhere if '://' not in remote.path else ''}." + (f" {hint}" if hint else "")
    url = remote.path if "://" in remote.path else remote.url
    if not url:
        raise MissingFile(f"{path} is missing and no URL is known for it. {by_hand}")
    part = path.with_name(path.name + ".part")
    # Outside the data folder: a failed download leaves nothing there, not even a lock or an empty folder
    lock = "sealr-" + hashlib.sha256(f"{Path.home()} {path}".encode()).hexdigest()[:20] + ".lock"
    with FileLock(Path(tempfile.gettempdir()) / lock):
        if remote.query or not path.is_file():  # else another process downloaded it while this one waited
            if remote.query:
                run_query(url, remote.query, part)
            else:
                _download(url, part, tries, wait, by_hand)
            try:
                _check(part, remote, f"The download from {redact(url)} was removed: try again, or correct the checksum")
            except ChecksumError:
                part.unlink()
                raise
            os.replace(part, path)
    return path


def _check(path: Path, remote: RemoteFile, advice: str) -> None:
    expected = remote.sha256.lower()
    if expected and (found := file_digest(path)) != expected:
        raise ChecksumError(f"{path}: SHA-256 is {found}, expected {expected}. {advice}")


def _download(url: str, part: Path, tries: int, wait: float, by_hand: str) -> None:
    for attempt in range(1, tries + 1):
        try:
            return _attempt(url, part)
        except Exception as error:  # each file system raises the errors of its own library
            reason, may_pass = _explain(url, error)
        if attempt == tries or not may_pass:
            break
        log.warning("download of %s failed (%s), attempt %d of %d", redact(url), reason, attempt, tries)
        time.sleep(wait * 2 ** (attempt - 1))
    size = part.stat().st_size if part.is_file() else 0
    kept = f" {size:,} bytes are kept in {part.name}; the next attempt resumes there." if size else ""
    raise (DownloadFailed if may_pass else MissingFile)(f"cannot download {redact(url)}: {reason}.{kept} {by_hand}")


def _remote_parts(url: str) -> list[str]:
    """The addresses of the files in a folder of an object store. Raises MissingFile."""
    try:
        files, root = fsspec.url_to_fs(url, **_options(url))
        names = files.find(root)
    except Exception as error:  # each file system raises the errors of its own library
        raise MissingFile(f"cannot list {redact(url)}: {_explain(url, error)[0]}") from None
    found = [name for name in names if not Path(name).name.startswith((".", "_"))]
    if not found:
        raise MissingFile(f"{redact(url)} holds no files")
    return [files.unstrip_protocol(name) for name in found]


def _attempt(url: str, part: Path) -> None:
    """Brings ``part`` to the full length of the file, or raises."""
    files, name = fsspec.url_to_fs(url, **_options(url))
    size = files.info(name)["size"]  # None where the server does not say
    try:
        _copy(files, name, part, size, BLOCK)
    except ValueError:  # this server only sends files from their beginning
        part.unlink(missing_ok=True)
        _copy(files, name, part, size, 0)


def _copy(files: fsspec.AbstractFileSystem, name: str, part: Path, size: int | None, block_size: int) -> None:
    """Appends to ``part`` what is missing of the file. Raises ValueError where that is not possible."""
    if part.is_file() and (size is None or part.stat().st_size > size):
        part.unlink()  # not the beginning of this file
    with files.open(name, "rb", block_size=block_size, cache_type="none") as source:
        part.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "ab") as file:
            source.seek(file.tell())
            label, at = f"download {part.stem}", file.tell()
            with progress_bar(label=label, unit="MB", total=size, done=at, scale=1e-6) as bar:
                while file.tell() != size and (block := source.read(BLOCK)):
                    bar.update(file.write(block))
                    if file.tell() > LARGEST:
                        part.unlink()
                        raise OSError(errno.EFBIG, f"the server sends more than {LARGEST:,} bytes")
            if size is not None and file.tell() < size:
                raise ConnectionError(f"the answer ended after {file.tell():,} of {size:,} bytes")


def _options(url: str) -> dict[str, Any]:
    """Bytes are stored as sent: a server that labels a .gz file as compressed must not get it decompressed."""
    if not url.startswith(("http://", "https://")):
        return {}
    from aiohttp import ClientTimeout

    client = {"auto_decompress": False, "timeout": ClientTimeout(total=None, connect=10, sock_read=60)}  # seconds
    return {"headers": {"Accept-Encoding": "identity"}, "client_kwargs": client}


def _explain(url: str, error: Exception) -> tuple[str, bool]:
    """Why a download failed, without credentials, and whether another attempt may succeed."""
    scheme = url.partition("://")[0]
    if isinstance(error, ImportError):
        package = known_implementations[scheme]["class"].partition(".")[0]
        return f"{scheme}:// needs a package: pip install '{'fsspec[http]' if package == 'fsspec' else package}'", False
    http = scheme in ("http", "https")  # where fsspec hides every error in a FileNotFoundError
    cause = error.__cause__ if http and isinstance(error, FileNotFoundError) and error.__cause__ else error
    if status := getattr(cause, "status", 0):
        return f"HTTP status {status}", status in (408, 429) or status >= 500
    if isinstance(cause, ValueError):  # the original message repeats parts of the URL, even of a password
        return "this is not a URL that can be read (percent-encode a password in it)", False
    final = isinstance(cause, (FileNotFoundError, PermissionError)) or getattr(cause, "errno", None) in FINAL
    text = " ".join(str(getattr(cause, "strerror", "") or cause).split())
    return redact(text).rstrip(".") or type(cause).__name__, not final
