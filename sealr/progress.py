"""Progress of long work: a bar on a terminal, and elsewhere a line in the log each LOG_SECONDS, with the time left."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

log = logging.getLogger(__name__)
LOG_SECONDS = 25  # between lines in the log, and a step may take 5 more; shorter work writes none
DELAY = 2  # seconds before a bar appears
QUICK = 100_000  # texts; a pass over fewer without a model takes seconds, and a bar would only cost time
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:,.0f} of {total:,.0f}{unit}, {rate_noinv_fmt}{postfix}, {remaining} left"
KNOWN = "{desc}: {n:,.0f} of {total:,.0f}{unit}, {rate_noinv_fmt}{postfix}, {remaining} left"
UNKNOWN = "{desc}: {n:,.0f}{unit}, {rate_noinv_fmt}{postfix}"


def progress_bar(
    items: Iterable[Any] | None = None,
    *,
    label: str,
    unit: str,
    total: int | None = None,
    done: int = 0,
    scale: float = 1,
    hidden: bool = False,
) -> tqdm:
    """A tqdm bar over ``items``, or one that ``update`` moves.

    unit: a plural. done: steps of an earlier run. scale: units in a step, as in bytes shown as MB.
    """
    total = len(items) if total is None and hasattr(items, "__len__") else total  # type: ignore[arg-type]
    given: dict[str, Any] = {"desc": label, "total": total, "initial": done, "unit": f" {unit}", "unit_scale": scale}
    given |= {"leave": False, "disable": hidden}
    if sys.stderr.isatty():
        return tqdm(items, **given, bar_format=BAR if total else UNKNOWN, delay=DELAY)
    given |= {"mininterval": LOG_SECONDS, "maxinterval": LOG_SECONDS, "delay": LOG_SECONDS, "miniters": 1}
    return tqdm(items, **given, bar_format=KNOWN if total else UNKNOWN, file=_Log())


class _Log:
    """A text stream whose lines go to the log."""

    encoding = "utf-8"

    def write(self, text: str) -> None:
        if text := text.strip():
            log.info("%s", text)

    def flush(self) -> None:
        pass
