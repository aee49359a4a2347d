"""Takes the pictures of docs/pictures anew, from the champion and its report.

    sealr run && python -m benchmarks.picture

Starts `sealr explore` and opens its page and the report of the same version in headless Chromium, over Chromium's
DevTools protocol. A picture has 128 colours, so that it stays small. MLFLOW_TRACKING_URI and SEALR_HOME say where the
job ran.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from websockets.sync.client import ClientConnection, connect

from benchmarks.machine import ROOT

PICTURES = ROOT / "docs" / "pictures"
COLOURS = 128
PATIENCE = 180.0  # seconds for a page to be ready; the first one loads the model
LIGHT = [{"name": "prefers-color-scheme", "value": "light"}]
# The bottom of the lowest paragraph or row that is wholly in the window: a picture cuts no line in half
END = """Math.max(...[...document.querySelectorAll('p, tr, ul')].map(e => e.getBoundingClientRect().bottom)
    .filter(bottom => bottom <= innerHeight), 1)"""
MARGIN = 4  # pixels below it
# Streamlit shows the page while its script runs, and again when an answer comes
DRAWN = """document.querySelector('[data-test-script-state="notRunning"]') !== null
    && document.body.innerText.includes('What if a review')"""


class PictureError(RuntimeError):
    """A picture cannot be taken; the message says why."""


def chromium() -> str | None:
    """The browser's program; None if none is installed."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """A page of a headless Chromium."""

    def __init__(self, page: ClientConnection) -> None:
        self.page, self.calls = page, 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Calls a method of the DevTools protocol and returns its result. Raises PictureError."""
        self.calls += 1
        self.page.send(json.dumps({"id": self.calls, "method": method, "params": parameters}))
        while (answer := json.loads(self.page.recv(PATIENCE))).get("id") != self.calls:
            pass  # an event
        if "error" in answer:
            raise PictureError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def picture(self, url: str, out: Path, size: tuple[int, int], ready: str = "true") -> None:
        """Writes the top of a page, at most ``size`` pixels. ready: JavaScript that is true when it is complete.

        Raises PictureError if that takes more than PATIENCE.
        """
        width, height = size
        self.call("Emulation.setEmulatedMedia", features=LIGHT)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=url)
        complete = f"document.readyState === 'complete' && ({ready})"
        until = time.monotonic() + PATIENCE
        while not self.call("Runtime.evaluate", expression=complete)["result"].get("value"):
            if time.monotonic() > until:
                raise PictureError(f"{url} was not ready after {PATIENCE:.0f} s")
            time.sleep(0.3)
        time.sleep(1)  # what fades in
        end = self.call("Runtime.evaluate", expression=END)["result"]["value"]
        shot = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        picture = Image.open(io.BytesIO(shot)).convert("RGB").crop((0, 0, width, min(height, int(end) + MARGIN)))
        colours = picture.quantize(COLOURS, dither=Image.Dither.NONE)
        out.parent.mkdir(parents=True, exist_ok=True)
        colours.save(out, optimize=True)


@contextmanager
def browser() -> Iterator[Browser]:
    """Starts Chromium with a profile of its own and ends it afterwards. Raises PictureError."""
    if (program := chromium()) is None:
        raise PictureError("no Chromium is installed: apt-get install chromium")
    with tempfile.TemporaryDirectory(prefix="sealr-picture-", ignore_cleanup_errors=True) as profile:
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0"]
        command = [program, *flags, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            said = Path(profile) / "DevToolsActivePort"
            wait_for(lambda: said.exists() and said.read_text().count("\n") >= 1, process)
            with urllib.request.urlopen(f"http://127.0.0.1:{said.read_text().split()[0]}/json") as answer:
                pages = [page for page in json.load(answer) if page["type"] == "page"]
            with connect(pages[0]["webSocketDebuggerUrl"], max_size=None) as page:
                yield Browser(page)
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def explorer(model: str) -> Iterator[str]:
    """Starts `sealr explore` and yields the address of its page."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    command = [sys.executable, "-m", "sealr", "explore", "--model", model, "--port", str(port)]
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(answers, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def wait_for(done: Any, process: subprocess.Popen[bytes]) -> None:
    """Returns when ``done()`` holds. Raises PictureError if the process ends, or after PATIENCE."""
    until = time.monotonic() + PATIENCE
    while not done():
        if process.poll() is not None or time.monotonic() > until:
            raise PictureError(f"{' '.join(map(str, process.args[:4]))} ended or did not answer")  # type: ignore[index]
        time.sleep(0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models:/sealr@champion")
    parser.add_argument("--user", default="u0001", help="whose list is shown")
    parser.add_argument("--out", type=Path, default=PICTURES)
    given = parser.parse_args()
    from sealr import tracked, tracking
    from sealr.report.make import open_report

    tracking.setup()
    report = open_report(tracked.run_of_model(given.model))
    with browser() as page:
        page.picture(report.as_uri(), given.out / "report.png", (1000, 900))
        with explorer(given.model) as address:
            url = f"{address}/?user={given.user}&satisfaction=3"
            page.picture(url, given.out / "explore.png", (1280, 1000), DRAWN)
    for path in sorted(given.out.glob("*.png")):
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
