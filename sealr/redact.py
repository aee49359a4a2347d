"""Hides credentials in texts that go to logs, tags and messages; addresses stay."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"
# A password may contain "/" and "@" (SQLAlchemy allows both), so everything up to the last @ is hidden
USER_INFO = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*://)(?P<user>[^:/@?#\s'\"]*)(?P<password>:[^\s'\"]*)?@")
SECRETS = "password|passwd|pwd|token|secret|sig|signature|key|credential"
PARAMETER = re.compile(rf"(?i)(?P<name>[?&;][\w.%-]*(?:{SECRETS})[\w.-]*=)[^&;#\s'\"]+")


def redact(text: str) -> str:
    """Replaces passwords and tokens in all URLs of a text by ***. A user name stays if a password follows it."""

    def hide(match: re.Match[str]) -> str:
        return f"{match['scheme']}{match['user'] + ':' if match['password'] else ''}{HIDDEN}@"

    return USER_INFO.sub(hide, PARAMETER.sub(rf"\g<name>{HIDDEN}", text))


def redacted(value: Any) -> Any:
    """A JSON value with all its strings redacted."""
    if isinstance(value, dict):
        return {k: redacted(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(v) for v in value]
    return redact(value) if isinstance(value, str) else value
