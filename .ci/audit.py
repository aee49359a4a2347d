"""Audits installed packages for known vulnerabilities: ``python .ci/audit.py SITE_PACKAGES [pip-audit's options]``.

Run it in an environment that has pip-audit. Where its advisory service does not know a package, pip-audit skips the
package and still reports success; behind an index that only serves files, it does so for every package. So this script
first asks about a release that is known to be vulnerable. If that is not found, it reports that nothing was audited.
Exit code 1: vulnerabilities were found.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CANARY = "requests==2.19.0"  # CVE-2018-18074


def ask(options: Sequence[str]) -> tuple[list[dict[str, Any]] | None, str]:
    """What pip-audit says of every package, and its last words; None where it said nothing that can be read."""
    command = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    words = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    try:
        return json.loads(done.stdout)["dependencies"], words
    except (ValueError, KeyError, TypeError):
        return None, words


def reachable(options: Sequence[str]) -> str:
    """Why the advisory service cannot be relied on; empty where it can."""
    with tempfile.TemporaryDirectory() as folder:
        (requirements := Path(folder) / "canary.txt").write_text(CANARY + "\n")
        found, words = ask(["-r", str(requirements), "--no-deps", "--disable-pip", *options])
    if found is None:
        return words
    if not any(package.get("vulns") for package in found):
        reasons = [package["skip_reason"] for package in found if "skip_reason" in package]
        return f"it knows nothing against {CANARY}, which is known to be vulnerable" + "".join(
            f" ({r})" for r in reasons
        )
    return ""


def main(packages: str, *options: str) -> int:
    if trouble := reachable(options):
        print(f"NOT AUDITED: pip-audit's advisory service cannot be used here: {trouble}")
        return 0
    found, words = ask(["--path", packages, "--skip-editable", *options])
    if found is None:
        print(f"NOT AUDITED: pip-audit failed on {packages}: {words}")
        return 1  # the service was there
    audited = [p for p in found if "skip_reason" not in p]
    bad = [(p, v) for p in audited for v in p["vulns"]]
    for package, vulnerability in bad:
        fixed = ", ".join(vulnerability["fix_versions"]) or "no release yet"
        print(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    for package in found:
        if "skip_reason" in package:
            print(f"not audited: {package['skip_reason']}")
    print(f"{len(audited)} packages audited, {len(found) - len(audited)} not, {len(bad)} known vulnerabilities")
    return 1 if bad or not audited else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
