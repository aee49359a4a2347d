import hashlib
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from sealr.data import download
from sealr.data.download import ChecksumError, DownloadFailed, MissingFile, data_dir, fetch, local_path
from sealr.settings import RemoteFile

BODY = bytes(range(256)) * 4000  # about 1 MB
SUM = hashlib.sha256(BODY).hexdigest()


class Server:
    """Serves BODY on 127.0.0.1. Behaviour is set per test; ``ranges`` holds the Range header of every GET."""

    def __init__(self):
        self.ranges, self.cut, self.statuses, self.body, self.honours_range, self.encoding = [], [], [], BODY, True, ""
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.start(server.statuses[0] if server.statuses else 200, len(server.body))

            def do_GET(self):
                status = server.statuses.pop(0) if server.statuses else 200
                wanted = self.headers.get("Range") if server.honours_range else None
                server.ranges.append(wanted)
                first, last = map(int, wanted[6:].split("-")) if wanted else (0, len(server.body) - 1)
                body = server.body[first : last + 1]
                self.start(206 if wanted and status == 200 else status, len(body), first)
                self.wfile.write(body[: server.cut.pop(0) if server.cut else None])

            def start(self, status, length, first=0):
                self.send_response(status)
                if status == 206:
                    self.send_header("Content-Range", f"bytes {first}-{first + length - 1}/{len(server.body)}")
                if server.encoding:
                    self.send_header("Content-Encoding", server.encoding)
                self.send_header("Content-Length", str(length))
                self.end_headers()

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.handle_error = lambda *args: None  # a client that hangs up early is part of the tests
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/file.gz"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "BLOCK", 100_000)  # many requests for one file
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
    asked = len(server.ranges)
    assert get(server, tmp_path, SUM) == path and len(server.ranges) == asked


def test_a_partial_file_is_resumed(server, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file.gz.part").write_bytes(BODY[:1000])
    assert get(server, tmp_path, SUM).read_bytes() == BODY and server.ranges[0] == "bytes=1000-100999"


def test_a_server_that_ignores_range_sends_everything_again(server, tmp_path):
    server.honours_range = False
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file.gz.part").write_bytes(b"x" * 1000)
    assert get(server, tmp_path, SUM).read_bytes() == BODY


@pytest.mark.parametrize(("part", "requests"), [(BODY, 0), (BODY + b"more", 11)])
def test_a_partial_file_as_long_as_the_whole_or_longer(server, tmp_path, part, requests):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file.gz.part").write_bytes(part)
    assert get(server, tmp_path, SUM).read_bytes() == BODY and len(server.ranges) == requests


def test_a_truncated_answer_is_continued(server, tmp_path):
    server.cut = [None, None, 500]
    assert get(server, tmp_path, SUM).read_bytes() == BODY
    assert server.ranges[2:4] == ["bytes=200000-299999"] * 2


def test_an_answer_that_stays_short_is_an_error_and_keeps_the_part(server, tmp_path):
    server.cut = [None, None, None, 0, 0, 0]
    kept = "300,000 bytes are kept in file.gz.part; the next attempt resumes there"
    with pytest.raises(DownloadFailed, match=rf"cannot download http://127.*{kept}"):
        get(server, tmp_path)
    assert names(tmp_path) == ["file.gz.part"]
    assert get(server, tmp_path).read_bytes() == BODY and server.ranges.count("bytes=0-99999") == 1


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
    advice = (
        f"Put the file at {tmp_path}/deep/file.gz, or set SEALR_DATA to a folder that holds deep/file.gz. See there"
    )
    with pytest.raises(MissingFile, match=f"404.*{advice}"):
        get(server, tmp_path, hint="See there.")
    assert len(server.statuses) == 8 and list(tmp_path.iterdir()) == []  # no lock, no empty folder


def test_a_busy_server_is_tried_again(server, tmp_path):
    server.statuses = [503, 429]
    assert get(server, tmp_path, SUM).read_bytes() == BODY and server.statuses == []


def test_bytes_are_stored_as_sent_even_when_labelled_as_compressed(server, tmp_path):
    server.encoding = "gzip"  # some servers label a .gz file so; decoding would store another file
    assert get(server, tmp_path, SUM).read_bytes() == BODY


def test_a_server_that_never_stops_does_not_fill_the_disk(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "LARGEST", len(BODY) // 2)
    with pytest.raises(MissingFile, match="sends more than 512,000 bytes"):
        get(server, tmp_path)
    assert names(tmp_path) == [] and len(server.ranges) == 6


def test_no_connection(server, tmp_path):
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(
        DownloadFailed, match=rf"cannot download {server.url}: Connect call failed .*\. Put the file at {tmp_path}"
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
    with pytest.raises(MissingFile, match="folder is a folder without files"):
        fetch(RemoteFile("folder"), tmp_path)
    (tmp_path / "folder" / "part.csv").write_text("x")
    assert fetch(RemoteFile("folder"), tmp_path) == tmp_path / "folder"


def test_an_absolute_path_needs_no_data_folder(tmp_path):
    (tmp_path / "a.json").write_text("x")
    assert fetch(RemoteFile(str(tmp_path / "a.json")), Path("/nowhere")) == tmp_path / "a.json"


def test_a_folder_that_cannot_be_written_counts_as_missing(server, tmp_path):
    (tmp_path / "deep").write_text("a file where a folder should be")
    with pytest.raises(MissingFile, match="cannot download http.*Put the file at"):
        get(server, tmp_path)


@pytest.mark.parametrize("url", ["nowhere://x/y", "http://ann:p/ss@x/y", "http://"])
def test_a_url_that_is_none(tmp_path, url):
    with pytest.raises(MissingFile, match=r"this is not a URL that can be read") as caught:
        fetch(RemoteFile("y", url), tmp_path)
    assert "p/ss" not in str(caught.value)


@pytest.mark.parametrize(
    "remote", [RemoteFile("memory://shop/2024/a.csv"), RemoteFile("a.csv", "memory://shop/2024/a.csv")]
)
def test_other_stores_are_read_through_fsspec(tmp_path, remote):
    fsspec.filesystem("memory").pipe("/shop/2024/a.csv", b"user,item\n")
    path = fetch(remote, tmp_path)
    assert path.read_bytes() == b"user,item\n" and path.is_relative_to(tmp_path) and path.name == "a.csv"
    fsspec.filesystem("memory").rm("/shop/2024/a.csv")
    assert fetch(remote, tmp_path) == path  # downloaded once
    path.unlink()
    with pytest.raises(MissingFile, match=r"cannot download memory://shop/2024/a.csv: .*Put the file at"):
        fetch(remote, tmp_path)


def test_files_of_one_name_in_two_stores_do_not_meet(tmp_path):
    paths = {
        local_path(RemoteFile(f"{store}/a.csv"), tmp_path)
        for store in ("s3://one", "s3://two", "gs://one", "s3://one/x")
    }
    assert len(paths) == 4
    assert local_path(RemoteFile("s3://one/../../a.csv?key=1"), tmp_path) == tmp_path / "s3" / "one" / "a.csv"


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(
        MissingFile, match=r"cannot download s3://bucket/a.csv: s3:// needs a package: pip install 's3fs'\. Put"
    ):
        fetch(RemoteFile("s3://bucket/a.csv"), tmp_path)


def test_data_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("SEALR_DATA", str(tmp_path))
    assert data_dir() == tmp_path.resolve()
    monkeypatch.delenv("SEALR_DATA")
    assert data_dir() == Path("data").resolve()


def test_a_folder_of_parts_in_an_object_store(tmp_path):
    store = fsspec.filesystem("memory")
    for name in ("part-0.csv", "deep/part-1.csv", "_SUCCESS"):
        store.pipe(f"/bucket/export/{name}", name.encode())
    try:
        path = fetch(RemoteFile("memory://bucket/export/"), tmp_path)
        assert path == tmp_path / "memory" / "bucket" / "export"
        assert sorted(str(p.relative_to(path)) for p in path.rglob("*.csv")) == ["deep/part-1.csv", "part-0.csv"]
        assert not (path / "_SUCCESS").exists() and (path / "part-0.csv").read_text() == "part-0.csv"
        with pytest.raises(MissingFile, match="memory://bucket/nothing/ holds no files"):
            fetch(RemoteFile("memory://bucket/nothing/"), tmp_path)
    finally:
        store.rm("/bucket", recursive=True)
