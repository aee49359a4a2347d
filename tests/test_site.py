"""The site builds without a warning; its reference has every command and setting; the tutorial's commands work."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sealr.settings import RetrieveConfig

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def reference():
    sys.path.insert(0, str(ROOT / "docs" / "site"))
    yield __import__("reference")
    sys.path.remove(str(ROOT / "docs" / "site"))


def test_the_reference_of_commands_is_the_command_lines_help(reference):
    text = reference.commands()
    assert {"## sealr run", "## sealr config check", "## sealr items add"} <= set(text.splitlines())
    assert "| `--top-k`, `-k` | `10` | Items per list. |" in text and "`sealr run --data my-shop.yaml" in text
    assert "dry-run-is" not in text  # hidden


def test_the_reference_of_settings_has_each_with_its_comment(reference):
    text = reference.settings()
    section = text[text.index("\n## retrieve\n") : text.index("\n## content\n")]
    for field in dataclasses.fields(RetrieveConfig):
        assert f"| `{field.name}` |" in section or f"\n### retrieve.{field.name}\n" in section, field.name
    assert "| `hidden` | int | `64` | embedding width d |" in section
    assert "| `item_init` | random, cooccurrence | `'random'` | Initial item embeddings: random, or" in section
    assert "| `content` | none, metadata, reviews, both, shuffled |" in section


def test_every_message_that_a_page_quotes_comes_from_a_test():
    """Code of six words with a colon or semicolon is a message: a test expects it, or the table of mistakes has it."""
    known = "".join(path.read_text() for path in [*ROOT.glob("tests/**/*.py"), ROOT / "benchmarks/tables/mistakes.md"])
    quoted = []
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")]:
        text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for code in re.findall(r"`([^`]+)`", text):
            message = " ".join(code.split()).removesuffix(" ...")
            if re.search(r"[^&][:;] ", message) and len(message.split()) > 5 and "{" not in message:
                quoted.append((page.name, message))
    assert len(quoted) >= 2
    assert not [found for found in quoted if found[1] not in known]


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert "retrieve.bsarec" in (tmp_path / "site" / "reference" / "settings" / "index.html").read_text()
    pages = "".join(path.read_text() for path in (tmp_path / "site").rglob("*.html"))
    assert not re.search(r'(?:<script[^>]*src|<link[^>]*rel="(?:stylesheet|preconnect)"[^>]*href)="https?://', pages)


@pytest.mark.slow
def test_the_tutorials_commands_work_word_for_word(tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    text = (ROOT / "docs" / "tutorial.md").read_text()
    commands = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
    assert commands.count("sealr ") == 7
    mine = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "SEALR_HOME": str(tmp_path / "state")}
    mine |= {"BROWSER": "true", "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    done = subprocess.run(
        ["bash", "-euc", commands], cwd=tmp_path, capture_output=True, text=True, env=os.environ | mine
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1,581" in done.stdout and "now @challenger and @champion" in done.stdout and "report.html" in done.stdout
    lists = re.findall(r"D\d{4}", done.stdout[done.stdout.rindex("report.html") :])
    assert len(lists) >= 10 and lists[:5] != lists[5:10]  # the second list asks for satisfaction
