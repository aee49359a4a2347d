"""The audit of CI never takes an advisory service that knows nothing for a clean bill."""

import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("audit", Path(__file__).resolve().parents[1] / ".ci" / "audit.py")
audit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(audit)

BAD = {"name": "requests", "version": "2.19.0", "vulns": [{"id": "CVE-2018-18074", "fix_versions": ["2.20.0"]}]}
GOOD = {"name": "numpy", "version": "2.4.6", "vulns": []}
UNKNOWN = {"name": "torch", "skip_reason": "torch (2.13.0+cpu) not found"}


@pytest.fixture
def run(monkeypatch, capsys):
    """The exit code and output, given what pip-audit says of the canary and of the installed packages."""

    def run(canary, installed=AssertionError):
        answers = iter([canary, installed])
        monkeypatch.setattr(audit, "ask", lambda options: (next(answers), "Failed to resolve the service"))
        return audit.main("site-packages"), capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    ("canary", "why"),
    [
        (None, "Failed to resolve"),
        ([{"name": "requests", "skip_reason": "requests not found"}], "requests not found"),
        ([{"name": "requests", "version": "2.19.0", "vulns": []}], "known to be vulnerable"),
        ([], "known to be vulnerable"),
    ],
)
def test_a_service_that_does_not_know_the_canary_is_no_pass(run, canary, why):
    code, out = run(canary)
    assert code == 0 and out.startswith("NOT AUDITED") and why in out and "0 known" not in out


def test_clean_vulnerable_and_unknown_packages(run):
    assert run([BAD], [GOOD, UNKNOWN]) == (
        0,
        "not audited: torch (2.13.0+cpu) not found\n1 packages audited, 1 not, 0 known vulnerabilities\n",
    )
    code, out = run([BAD], [GOOD, BAD])
    assert code == 1 and "requests 2.19.0: CVE-2018-18074, fixed in 2.20.0" in out


def test_a_failure_after_the_canary_is_a_failure(run):
    assert run([BAD], None)[0] == 1 and run([BAD], [UNKNOWN])[0] == 1
