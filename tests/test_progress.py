"""Bars on a terminal, lines in a log."""

import io
import logging
import re
import sys
import time

import pytest

from sealr import progress
from sealr.progress import progress_bar


@pytest.fixture
def lines(monkeypatch, caplog):
    """Of the log, one each hundredth of a second."""
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.01)
    caplog.set_level(logging.INFO, "sealr.progress")
    return caplog


def test_a_log_gets_lines_with_done_total_rate_and_time_left(lines):
    with progress_bar(label="label", unit="texts", total=5000, done=1000) as bar:
        for _ in range(4):
            time.sleep(0.02)
            bar.update(1000)
    line = r"label: ([\d,]+) of 5,000 texts, [\d.]+k texts/s, \d\d:\d\d left"
    found = [re.fullmatch(line, message) for message in lines.messages]
    assert all(found) and [match[1] for match in found][:2] == ["2,000", "3,000"]


def test_bytes_are_shown_in_megabytes(lines):
    with progress_bar(label="read r.json", unit="MB", total=4_000_000, scale=1e-6) as bar:
        time.sleep(0.02)
        bar.update(2_000_000)
    assert re.fullmatch(r"read r.json: 2 of 4 MB, [\d.]+ MB/s, 00:0\d left", lines.messages[0])


def test_an_unknown_total_has_no_time_left(lines):
    for _ in progress_bar(iter(range(3)), label="read", unit="rows"):
        time.sleep(0.02)
    assert lines.messages
    assert all(re.fullmatch(r"read: \d rows, [\d.]+ rows/s", line) for line in lines.messages)


def test_short_and_hidden_work_is_silent(lines, monkeypatch):
    for _ in progress_bar(range(3), label="rank", unit="users", hidden=True):
        time.sleep(0.02)
    monkeypatch.setattr(progress, "LOG_SECONDS", 30)
    for _ in progress_bar(range(3), label="rank", unit="users"):
        time.sleep(0.02)
    assert not lines.messages


def test_a_terminal_gets_a_bar(lines, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "DELAY", 0)
    for _ in progress_bar(range(3), label="rank", unit="users"):
        time.sleep(0.12)
    assert "rank:" in terminal.getvalue() and "users/s" in terminal.getvalue() and not lines.messages
