"""Finding a data file, or downloading it: resumed after an interruption, checked for length and checksum.

Nothing half-written ever has the final name: bytes go to ``<name>.part`` and are renamed when they are complete and right.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import time
from pathlib import Path

import requests
import urllib3.exceptions
from filelock import FileLock
from tqdm import tqdm

from sealr.redact import redact
from sealr.settings import RemoteFile

log = logging.getLogger(__name__)
CHUNK = 1 << 18
LARGEST = 256 << 30  # bytes: a server that never stops sending shall not fill the disk
TIMEOUT = (10, 60)  # seconds to connect, and between two pieces of data
TRANSIENT = (urllib3.exceptions.HTTPError, requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


class MissingFile(FileNotFoundError):
    """The file is not there and cannot be downloaded; the message says which file to put where."""


class DownloadFailed(MissingFile):
    """It cannot be downloaded now, for a reason that may pass by itself."""


class ChecksumError(ValueError):
    """The file's SHA-256 is not the expected one; the message holds both."""


class _Retry(Exception):
    """This attempt failed in a way that another one may mend."""


def data_dir() -> Path:
    """Where data files are: SEALR_DATA, else ``./data``. Absolute."""
    return Path(os.environ.get("SEALR_DATA") or "data").resolve()


def fetch(remote: RemoteFile, folder: Path | None = None, hint: str = "", tries: int = 4, wait: float = 1.0) -> Path:
    """The local path of a file, downloaded if it is not there yet.

    folder: the data folder, ``data_dir()`` unless given. hint: a sentence on where to get the file by hand.
    tries: attempts before giving up; wait: seconds before the second, doubled each time.
    Raises ChecksumError where the content is wrong, MissingFile where the file cannot be had, ValueError where no path is set.
    """
    if not remote.path:
        raise ValueError("no data file is configured: set data.reviews.path")
    path = (folder or data_dir()) / remote.path
    if path.is_file():
        _check(path, remote, "Delete it to download it again, or correct the checksum in the configuration")
        return path
    if path.exists():
        raise ValueError(f"{path} is not a file; data.reviews.path and data.items.path name files")
    if not remote.url:
        raise MissingFile(f"{path} is missing and no URL is known for it. {_by_hand(path, remote, hint)}")
    part = path.with_name(path.name + ".part")
    with FileLock(_lock(path)):
        if not path.is_file():  # else another process brought it while we waited
            _download(remote.url, part, tries, wait, _by_hand(path, remote, hint))
            _check(
                part,
                remote,
                f"The download from {redact(remote.url)} was removed: try again, or correct the checksum",
                remove=True,
            )
            os.replace(part, path)
    return path


def _lock(path: Path) -> Path:
    """Not in the data folder, where a download that fails shall leave nothing, not even a lock or an empty folder."""
    return Path(tempfile.gettempdir()) / f"sealr-{hashlib.sha256(f'{Path.home()} {path}'.encode()).hexdigest()[:20]}.lock"


def _by_hand(path: Path, remote: RemoteFile, hint: str) -> str:
    where = "" if Path(remote.path).is_absolute() else f", or set SEALR_DATA to a folder that holds {remote.path}"
    return f"Put the file at {path}{where}." + (f" {hint}" if hint else "")


def _check(path: Path, remote: RemoteFile, advice: str, remove: bool = False) -> None:
    if not remote.sha256:
        return
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != remote.sha256.lower():
        if remove:
            path.unlink()
        raise ChecksumError(f"{path}: SHA-256 is {found}, expected {remote.sha256.lower()}. {advice}")


def _download(url: str, part: Path, tries: int, wait: float, by_hand: str) -> None:
    for attempt in range(1, tries + 1):
        try:
            return _attempt(url, part)
        except (_Retry, *TRANSIENT) as error:
            reason: Exception = error
            kind: type[MissingFile] = DownloadFailed
            if attempt < tries:
                log.warning("download of %s failed (%s), attempt %d of %d", redact(url), _short(error), attempt, tries)
                time.sleep(wait * 2 ** (attempt - 1))
        except (requests.RequestException, OSError) as error:
            reason, kind = error, MissingFile
            break
    size = part.stat().st_size if part.is_file() else 0
    kept = f" {size:,} bytes are kept in {part.name} and will be resumed." if size else ""
    raise kind(f"cannot download {redact(url)}: {_short(reason)}.{kept} {by_hand}")


def _attempt(url: str, part: Path) -> None:
    """Brings ``part`` to the full length the server announces, or raises."""
    have = part.stat().st_size if part.is_file() else 0
    # identity: a server that compresses on the fly would make offsets and lengths meaningless
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        total_text = answer.headers.get("Content-Range", "").rpartition("/")[2]
        if answer.status_code == 416 and have:
            if total_text == str(have):
                return  # complete already: the kill came between the last byte and the rename
            part.unlink()
            raise _Retry("the partial file does not fit the one on the server, starting over")
        if answer.status_code in (408, 429) or answer.status_code >= 500:
            raise _Retry(f"HTTP status {answer.status_code} {answer.reason}")
        answer.raise_for_status()
        resumed = answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if answer.status_code == 206 and not resumed:
            part.unlink(missing_ok=True)
            raise _Retry("the server sent another range than was asked for")
        length = answer.headers.get("Content-Length")
        start = have if resumed else 0  # a server that ignores Range sends everything from the start
        total = start + int(length) if length and length.isdigit() else None
        part.parent.mkdir(parents=True, exist_ok=True)
        with (
            open(part, "ab" if resumed else "wb") as file,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=None) as bar,
        ):
            for chunk in answer.raw.stream(CHUNK, decode_content=False):
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > LARGEST:
                    part.unlink()
                    raise OSError(f"the server sends more than {LARGEST:,} bytes")
        size = part.stat().st_size
        if total is not None and size < total:
            raise _Retry(f"the answer ended after {size:,} of {total:,} bytes")


def _short(error: Exception) -> str:
    if isinstance(error, requests.ConnectionError):
        return "no connection to the server"
    if isinstance(error, requests.exceptions.InvalidURL):  # its message repeats parts of the URL, of a password too
        return "this is not a valid URL (a password in it has to be percent-encoded)"
    return redact(str(error).strip()) or type(error).__name__
