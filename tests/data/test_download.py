import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sealr.data import download
from sealr.data.download import ChecksumError, MissingFile, data_dir, fetch
from sealr.settings import RemoteFile

BODY = bytes(range(256)) * 4000  # about 1 MB
SUM = hashlib.sha256(BODY).hexdigest()


class Server:
    """Serves BODY on 127.0.0.1. Behaviour is set per test; ``ranges`` holds the Range header of every request."""

    def __init__(self):
        self.ranges, self.cut, self.statuses, self.body, self.honours_range, self.encoding = [], [], [], BODY, True, ""
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):  # noqa: N802
                server.ranges.append(self.headers.get("Range"))
                status = server.statuses.pop(0) if server.statuses else 200
                if status != 200:
                    self.send_error(status)
                    return
                start = int(server.ranges[-1][6:-1]) if server.ranges[-1] and server.honours_range else 0
                if start >= len(server.body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(server.body)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
                if server.encoding:
                    self.send_header("Content-Encoding", server.encoding)
                self.send_header("Content-Length", str(len(server.body) - start))
                self.end_headers()
                cut = server.cut.pop(0) if server.cut else None
                self.wfile.write(server.body[start:][:cut])

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.handle_error = lambda *args: None  # a client that hangs up early is part of the tests
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/file.gz"


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def get(server, folder, sha256="", tries=3, **more):
    return fetch(RemoteFile("deep/file.gz", server.url, sha256), folder, tries=tries, wait=0, **more)


def names(folder):
    return sorted(p.name for p in (folder / "deep").iterdir())


def test_a_download_has_the_right_name_and_bytes_and_is_not_repeated(server, tmp_path):
    path = get(server, tmp_path, SUM.upper())
    assert path == tmp_path / "deep" / "file.gz" and path.read_bytes() == BODY and names(tmp_path) == ["file.gz"]
    assert get(server, tmp_path, SUM) == path and server.ranges == [None]


def test_a_partial_file_is_resumed(server, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file.gz.part").write_bytes(BODY[:1000])
    assert get(server, tmp_path, SUM).read_bytes() == BODY and server.ranges == ["bytes=1000-"]


def test_a_server_that_ignores_range_sends_everything_again(server, tmp_path):
    server.honours_range = False
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file.gz.part").write_bytes(b"x" * 1000)
    assert get(server, tmp_path, SUM).read_bytes() == BODY


@pytest.mark.parametrize(("part", "requests"), [(BODY, 1), (BODY + b"more", 2)])
def test_a_partial_file_as_long_as_the_whole_or_longer(server, tmp_path, part, requests):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file.gz.part").write_bytes(part)
    assert get(server, tmp_path, SUM).read_bytes() == BODY and len(server.ranges) == requests


def test_a_truncated_answer_is_continued(server, tmp_path):
    server.cut = [300_000]
    assert get(server, tmp_path, SUM).read_bytes() == BODY and server.ranges == [None, "bytes=300000-"]


def test_an_answer_that_stays_short_is_an_error_and_keeps_the_part(server, tmp_path):
    server.cut = [300_000, 0, 0]
    with pytest.raises(
        MissingFile, match=r"cannot download http://127.*300,000 bytes are kept in file.gz.part and will be resumed"
    ):
        get(server, tmp_path)
    assert names(tmp_path) == ["file.gz.part"]
    assert get(server, tmp_path).read_bytes() == BODY


def test_a_corrupted_answer_is_removed(server, tmp_path):
    server.body = BODY[:-1] + b"?"
    found = hashlib.sha256(server.body).hexdigest()
    with pytest.raises(ChecksumError, match=rf"SHA-256 is {found}, expected {SUM}. The download from http"):
        get(server, tmp_path, SUM)
    assert names(tmp_path) == []


def test_a_local_file_with_another_checksum_is_an_error_and_stays(server, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file.gz").write_bytes(b"mine")
    with pytest.raises(
        ChecksumError, match=f"file.gz: SHA-256 is {hashlib.sha256(b'mine').hexdigest()}, expected {SUM}. Delete it"
    ):
        get(server, tmp_path, SUM)
    assert (tmp_path / "deep" / "file.gz").read_bytes() == b"mine" and server.ranges == []


def test_not_found_is_not_tried_again(server, tmp_path):
    server.statuses = [404] * 9
    advice = f"Put the file at {tmp_path}/deep/file.gz, or set SEALR_DATA to a folder that holds deep/file.gz. See there"
    with pytest.raises(MissingFile, match=f"404.*{advice}"):
        get(server, tmp_path, hint="See there.")
    assert len(server.ranges) == 1 and list(tmp_path.iterdir()) == []  # no lock, no empty folder


def test_a_busy_server_is_tried_again(server, tmp_path):
    server.statuses = [503, 429]
    assert get(server, tmp_path, SUM).read_bytes() == BODY and len(server.ranges) == 3


def test_bytes_are_stored_as_sent_even_when_labelled_as_compressed(server, tmp_path):
    server.encoding = "gzip"  # some servers label a .gz file so; decoding would store another file
    assert get(server, tmp_path, SUM).read_bytes() == BODY


def test_a_server_that_never_stops_does_not_fill_the_disk(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "LARGEST", len(BODY) // 2)
    with pytest.raises(MissingFile, match="sends more than 512,000 bytes"):
        get(server, tmp_path)
    assert names(tmp_path) == [] and len(server.ranges) == 1


def test_no_connection(server, tmp_path):
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(
        MissingFile, match=rf"cannot download {server.url}: no connection to the server. Put the file at {tmp_path}"
    ):
        get(server, tmp_path)


def test_without_a_url(tmp_path):
    with pytest.raises(MissingFile, match=rf"{tmp_path}/a.json is missing and no URL is known.*SEALR_DATA"):
        fetch(RemoteFile("a.json"), tmp_path)
    with pytest.raises(MissingFile, match=r"Put the file at /nowhere/a.json\.$"):
        fetch(RemoteFile("/nowhere/a.json"), tmp_path)
    with pytest.raises(ValueError, match="set data.reviews.path"):
        fetch(RemoteFile(), tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder is not a file"):
        fetch(RemoteFile("folder"), tmp_path)


def test_an_absolute_path_needs_no_data_folder(tmp_path):
    (tmp_path / "a.json").write_text("x")
    assert fetch(RemoteFile(str(tmp_path / "a.json")), Path("/nowhere")) == tmp_path / "a.json"


def test_a_folder_that_cannot_be_written_counts_as_missing(server, tmp_path):
    (tmp_path / "deep").write_text("a file where a folder should be")
    with pytest.raises(MissingFile, match="cannot download http.*Put the file at"):
        get(server, tmp_path)


def test_a_url_that_is_none(tmp_path):
    with pytest.raises(MissingFile, match="cannot download ftp://x/y"):
        fetch(RemoteFile("y", "ftp://x/y"), tmp_path)


def test_data_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("SEALR_DATA", str(tmp_path))
    assert data_dir() == tmp_path.resolve()
    monkeypatch.delenv("SEALR_DATA")
    assert data_dir() == Path("data").resolve()
