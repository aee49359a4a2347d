"""Credentials do not belong into logs, tags and messages; addresses do."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"
# A password may hold any character but white space and quotes (SQLAlchemy allows "/" and "@" in one), so everything up to the
# last @ goes: hiding too much is better than too little.
USER_INFO = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*://)(?P<user>[^:/@?#\s'\"]*)(?P<password>:[^\s'\"]*)?@")
PARAMETER = re.compile(
    r"(?i)(?P<name>[?&;][\w.%-]*(?:password|passwd|pwd|token|secret|sig|signature|key|credential)[\w.-]*=)[^&;#\s'\"]+"
)


def redact(text: str) -> str:
    """The text with passwords and tokens of every URL in it replaced by ***; a user name with a password stays."""

    def hide(match: re.Match[str]) -> str:
        return f"{match['scheme']}{match['user'] + ':' if match['password'] else ''}{HIDDEN}@"

    return USER_INFO.sub(hide, PARAMETER.sub(rf"\g<name>{HIDDEN}", text))


def redacted(value: Any) -> Any:
    """A value of JSON with every string in it redacted."""
    if isinstance(value, dict):
        return {k: redacted(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(v) for v in value]
    return redact(value) if isinstance(value, str) else value
