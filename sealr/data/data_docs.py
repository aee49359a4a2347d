"""Makes Great Expectations' Data Docs readable without a network.

Its pages load their styles and scripts from elsewhere, and its index is drawn by a script. So an isolated machine shows
an empty index, and no sign of what failed. Here pages get one style of their own and lose scripts, and the index is
plain HTML. Nothing is requested, so nobody outside learns that a page was opened.
"""

from __future__ import annotations

import re
import shutil
from html import escape
from pathlib import Path
from urllib.parse import quote

STYLE = Path(__file__).with_suffix(".css")
DROPPED = re.compile(r"<(script|style|footer)\b.*?</\1>|<(?:link|img)\b[^>]*>", re.DOTALL)
INDEX = """<!DOCTYPE html>
<html lang="en"><head><meta charset="UTF-8"><title>Data Docs: {suite}</title>
<meta name="viewport" content="width=device-width, initial-scale=1.0"><style>{style}</style></head>
<body><main class="container-fluid"><h4>Data Docs: {suite}</h4>
<p><strong>{said}</strong></p><ul>{links}</ul></main></body></html>
"""


def make_offline(folder: Path, suite: str, success: bool) -> Path:
    """Rewrites all pages of a site of Data Docs, and returns its new index. success: of the validation."""
    style = STYLE.read_text(encoding="utf-8")
    links = []
    for title, part in (("what was found", "validations"), ("what is expected", "expectations")):
        for page in sorted((folder / part).rglob("*.html")):
            html = DROPPED.sub("", page.read_text(encoding="utf-8"))
            page.write_text(html.replace("</head>", f"<style>{style}</style></head>", 1), encoding="utf-8")
            links.append(f'<li><a href="{quote(page.relative_to(folder).as_posix())}">{title}</a></li>')
    said = "✓ All expectations are met." if success else "✗ Some expectations are not met."
    shutil.rmtree(folder / "static", ignore_errors=True)  # fonts and pictures of the dropped styles
    index = folder / "index.html"
    made = INDEX.format(suite=escape(suite), style=style, said=said, links="".join(links))
    index.write_text(made, encoding="utf-8")
    return index
