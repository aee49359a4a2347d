"""The page: complete, closed to the network, safe against what the data hold, and true to the results."""

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from sealr import tracking
from sealr.data.tables import read_json
from sealr.evaluate.statistics import shown
from sealr.pipeline.job import Job
from sealr.report.page import duration, render
from sealr.report.sources import Version, find
from tests.report.finished import HOSTILE, FinishedJob

SECTIONS = "data feelings texts training results liking placebos users beyond costs".split()
pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Tags, attributes and visible text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.text += data

    def values(self, *names):
        return [value for name, value in self.attributes if name in names]


@pytest.fixture(scope="module")
def text(job):
    return render(find(job.run_id))


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_it_loads_nothing(text, page):
    links = page.values("src", "href", "xlink:href", "srcset", "action", "data")
    assert links and all(link.startswith("#") or link == "data:," for link in links)
    assert not {"script", "iframe", "object", "img"} & set(page.tags)
    assert not re.search(r"@import|url\((?!#)", text) and "default-src 'none'" in text
    assert len(text.encode()) < 5e6


def test_links_within_the_page_lead_somewhere_and_ids_are_unique(page):
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in page.values("href", "xlink:href") if link.startswith("#")} <= set(ids)


def test_it_has_every_section_and_every_plot_has_a_text(page):
    assert [value for value in page.values("id") if value in SECTIONS] == SECTIONS
    assert page.tags.count("svg") == page.tags.count("figure") >= 12
    assert all(page.values("aria-label")) and page.values("lang") == ["en"]


def test_sections_of_stages_that_a_job_does_not_have_are_left_out(site):
    short = Page(render(find(FinishedJob("label", "label").run_id)))
    assert [value for value in short.values("id") if value in SECTIONS] == ["data", "feelings", "costs"]
    assert "This job ended after label: sealr run trains" in short.text
    first = Page(render(find(FinishedJob("ingest", "ingest").run_id)))
    assert [value for value in first.values("id") if value in SECTIONS] == ["data", "costs"]


def test_what_the_data_hold_is_text(hostile):
    text = render(find(hostile.run_id))
    page = Page(text)
    assert "script" not in page.tags and "<script" not in text
    assert page.text.count(HOSTILE) > 20


def test_figures_are_those_of_the_results(job, page):
    found = read_json(job.made["evaluate"].path("results.json"))
    flat = page.text.replace("\N{NO-BREAK SPACE}", " ")
    for row in found["rows"]:
        assert f"{row['HR@10']:.4f}" in flat and f"{row['NDCG@10']:.4f}" in flat
    assert all(shown(*gap) in flat for gap in found["differences"].values())
    for section in found["sections"].values():
        cells = [cell for row in section["rows"] for name, cell in row.items() if name != "system" and cell]
        assert cells and all(f"{cell[0]:.4f}" in flat for cell in cells)


def test_it_is_the_same_when_it_is_made_again(job, text):
    assert render(find(job.run_id)) == text


def test_durations():
    assert [duration(s) for s in (0.31, 59.94, 228.4, 7260)] == ["0.3 s", "59.9 s", "3 min 48 s", "2 h 01 min"]


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on this machine")
def test_a_browser_has_nothing_to_complain_about(hostile, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(render(find(hostile.run_id)), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and 'id="users"' in done.stdout
    assert "CONSOLE" not in done.stderr, done.stderr


def test_a_version_that_was_not_compared_has_a_page(job):
    """The gate gives no figures where it compares nothing, such as with few users."""
    version = Version("shop", "3", ("challenger",), {"decision": "refused", "reason": "3 users decide nothing"})
    page = Page(render(replace(find(job.run_id), version=version)))
    assert "3 users decide nothing" in page.text and "users compared" not in page.text


def test_what_was_checked(site):
    """By the stage that checks in a job; the report finds it by the digest of the table."""
    made = FinishedJob("ingest", hostile=True)
    assert find(made.run_id).checks == ()
    with tracking.stage("ingest", made.run_id, {}):
        Job(made.config, made.run_id).validate_table(made.made["ingest"], "items")
    (checks,) = find(made.run_id).checks
    assert (checks.table, checks.rows) == ("items", len(made.table("ingest", "items"))) and len(checks.met) > 5
    assert {"expectation", "arguments", "found"} == checks.met[0].keys()
    shown = Page(render(find(made.run_id))).text
    assert f"items: {checks.rows:,} rows meet {len(checks.met)} expectations" in shown
    assert f"0 of {checks.rows:,} values unexpected" in shown and "column values to be unique" in shown
