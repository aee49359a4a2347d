"""The page itself: its controls move what it shows, nothing of the data becomes markup, and a browser can open it."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from sealr.explore import view
from sealr.serving import recommender as serving
from sealr.serving.packing import Weights
from sealr.settings import RegistryConfig
from tests.serving.small_model import OnlyAnger, effects, small_recommender

pytest.importorskip("streamlit", reason="the extra explore is not installed")
ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "<script>alert(1)</script> **bold** [link](http://x) :red[red]"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Loaded:
    """In the place of `sealr.Model`."""

    def __init__(self, recommender):
        self.recommender = recommender


@pytest.fixture(autouse=True)
def main_module(monkeypatch):
    """Streamlit puts its script in the place of ``__main__``, which a process that a later test starts would run."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture
def models(monkeypatch):
    """Two versions; the second has no forecast."""
    monkeypatch.setattr(serving.Labeller, "from_config", lambda config: OnlyAnger())
    made = {"one": small_recommender(Weights(0.5, 1.0), effects()), "two": small_recommender(Weights(0.5))}
    made = {name: Loaded(recommender) for name, recommender in made.items()}
    monkeypatch.setattr(view, "load", made.__getitem__)
    return made


def opened(model="one", compare="", **address):
    from streamlit.testing.v1 import AppTest

    def script(model, compare):
        from sealr.explore.page import main

        main(model, compare)

    page = AppTest.from_function(script, default_timeout=60, args=(model, compare))
    page.query_params.update(address)
    page.run()
    assert not page.exception
    return page


def html(page):
    """Everything that the page shows as HTML."""
    return "\n".join(element.proto.body for element in page.get("html"))


def served(page):
    """The item ids of the list with reasons, best first. The toy's titles are ids, but for the first."""
    (table,) = [e.proto.body for e in page.get("html") if 'class="why"' in e.proto.body][:1]
    return re.findall(r'<td class="">(i\d\d|First thing)', table)


def expected(models, weight, **more):
    recommender = models["one"].recommender
    return view.served(recommender, view.query(recommender, "ann", **more), weight)[0]["title"].tolist()


def test_the_address_names_user_and_weight(models):
    page = opened(user="ann", satisfaction="0")
    assert page.selectbox(key="user").value == "ann" and page.slider(key="weight").value == 0
    assert served(page) == expected(models, 0) != expected(models, 1)
    assert "▲" in html(page) and "Marks compare with satisfaction at 1." in html(page)


def test_the_slider_moves_the_list_and_the_address(models):
    page = opened(user="ann")
    assert served(page) == expected(models, 1) and "Marks compare" not in html(page)
    page.slider(key="weight").set_value(3.0).run()
    assert served(page) == expected(models, 3) and page.query_params["satisfaction"] in ("3", ["3"])


def test_an_address_with_mistakes_starts_a_new_user(models):
    page = opened(user="<b>nobody</b>", satisfaction="much")
    assert page.selectbox(key="user").value is None and page.slider(key="weight").value == 1
    assert "&lt;b&gt;nobody&lt;/b&gt;, whom the model does not know" in html(page) and "<b>nobody" not in html(page)
    assert opened(satisfaction="99").slider(key="weight").value == 3


def test_hidden_items_are_gone(models):
    page = opened(user="ann")
    best = served(page)[:2]
    page.multiselect(key="hidden").set_value(best).run()
    assert not page.exception and not set(best) & set(served(page)) and len(served(page)) == 10


def test_categories_are_offered(models):
    page = opened(user="ann")
    page.multiselect(key="categories").set_value(["Kitchen"]).run()
    assert set(served(page)) == {f"i{n}" for n in range(11, 21)}


def test_a_typed_review_is_read_and_its_words_are_shown(models):
    page = opened()
    page.multiselect(key="items").set_value(["i05"]).run()
    page.text_area(key="text i05").set_value("grr <i>grr</i>").run()
    assert not page.exception
    assert "anger 90%" in html(page) and "&lt;i&gt;grr&lt;/i&gt;</span>" in html(page) and "<i>grr" not in html(page)
    assert "i05" not in served(page)  # it is in the history now
    assert any("left out in turn" in caption.value for caption in page.caption)


def test_what_if_shows_both_feelings(models):
    page = opened(user="ann")
    page.selectbox(key="place").set_value(0).run()
    felt = [e.proto.body for e in page.get("html") if '<th class="">felt' in e.proto.body]
    assert "Strong Positive" in felt[-2] and "Strong Negative" in felt[-1] and "First thing" in felt[-1]
    page.radio(key="by").set_value("text").run()
    assert not page.exception and "anger 90%" in html(page)


def test_another_user_has_another_history_to_change(models):
    page = opened(user="all")
    page.selectbox(key="place").set_value(29).run()
    page.selectbox(key="user").set_value("ann").run()  # who has three items
    assert not page.exception and page.selectbox(key="place").value in (0, 1, 2)


def test_where_nothing_is_left_the_page_says_so(models):
    page = opened(user="ann")
    page.multiselect(key="hidden").set_value(list(view.names(models["one"].recommender))).run()
    assert not page.exception and "the filters leave 0 items" in html(page)


def test_two_versions_stand_side_by_side(models):
    page = opened("one", "two", user="ann")
    lists = [view.served(m.recommender, view.query(m.recommender, "ann"))[0]["item"].tolist() for m in models.values()]
    shared = len(set(lists[0]) & set(lists[1]))
    assert 0 < shared and html(page).count("<tr class=both>") == 2 * shared
    assert any(f"{shared} items are in both lists" in caption.value for caption in page.caption)


def test_a_version_without_forecast_has_no_slider_to_move(models):
    page = opened("two", user="ann")
    assert page.slider(key="weight").disabled
    assert any("no forecast of satisfaction" in caption.value for caption in page.caption)


def test_a_model_that_hides_its_users_is_asked_by_id(models):
    recommender = models["one"].recommender
    wanted = served(opened(user="ann"))
    recommender.config = replace(recommender.config, registry=RegistryConfig(users="salted"))
    recommender.histories = {f"hash of {user}": stored for user, stored in recommender.histories.items()}
    recommender.stored_as = "hash of {}".format
    page = opened(user="ann")
    assert served(page) == wanted and "hash of" not in html(page) and "user" not in page.query_params
    page.text_input(key="user").set_value("nobody").run()
    assert "is not known and no history was given" in html(page)


def test_titles_are_never_markup(models):
    titles = models["one"].recommender.titles
    titles[1:] = [HOSTILE] * 30
    page = opened("one", "one", user="ann")
    assert "<script" not in html(page) and "&lt;script&gt;alert(1)&lt;/script&gt; **bold**" in html(page)
    marked = [e.value for kind in (page.markdown, page.caption, page.title, page.header, page.subheader) for e in kind]
    assert marked and not any("bold" in text for text in marked)
    assert not any("bold" in str(w.label) for kind in (page.text_area, page.expander) for w in kind)


def test_other_users_are_named_in_the_choice_only(models):
    page = opened(user="ann")
    models["one"].recommender.histories["zoe-secret"] = models["one"].recommender.histories["ann"]
    page.run()
    assert "zoe-secret" in page.selectbox(key="user").options and "zoe-secret" not in html(page)


def test_a_taken_port_is_told_before_a_model_is_loaded(tmp_path, capsys):
    from sealr.cli import main

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as end:
        port = taken.getsockname()[1]
        main(["explore", "--model", str(tmp_path), "--port", str(port)])
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.startswith(f"error: 127.0.0.1:{port} is taken") and said.count("\n") == 1


# A process, and a browser


@pytest.fixture(scope="module")
def address(parts, tmp_path_factory):
    """`sealr explore` on a toy model whose titles are hostile."""
    folder = tmp_path_factory.mktemp("explore")
    packed = parts.pack(folder / "packed", satisfaction=0.5)
    items = pd.read_parquet(packed / "items.parquet")
    items.assign(title=[f"{HOSTILE} {n}" for n in range(len(items))]).to_parquet(packed / "items.parquet")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "sealr", "explore", "--model", str(packed), "--port", str(port)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(folder), "PYTHONUNBUFFERED": "1"}
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        env.pop(name, None)
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(command, env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        for _ in range(240):
            assert process.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, log.read_text()
        assert f"http://127.0.0.1:{port} shows" in log.read_text() and "Traceback" not in log.read_text()
        assert not (folder / ".streamlit").exists()  # nothing is kept: no e-mail, no installation's number
    finally:
        process.kill()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="listening sockets are read from /proc")
def test_the_server_listens_on_this_machine_only(address):
    port = int(address.rpartition(":")[2])
    rows = [r.split() for f in ("/proc/net/tcp", "/proc/net/tcp6") for r in Path(f).read_text().splitlines()[1:]]
    listening = [row[1].split(":") for row in rows if row[3] == "0A"]
    assert {host for host, number in listening if int(number, 16) == port} == {"0100007F"}


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on this machine")
def test_a_browser_shows_the_list_and_runs_nothing_of_the_titles(address, tmp_path):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"{address}/?user=u1&satisfaction=2"]
    for number in range(12):  # virtual time does not wait for a websocket, so a slow answer comes too late
        budget = f"--virtual-time-budget={60_000 * 2**number}"
        page = subprocess.run([*command, budget], capture_output=True, text=True, timeout=300).stdout
        if "Marks compare" in page:
            break
    assert "What is recommended, and why" in page and "Marks compare with satisfaction at 1." in page
    assert page.count('class="why"') == 12 - 6  # the user knows six of twelve items
    assert "&lt;script&gt;alert(1)&lt;/script&gt; **bold** [link](http://x) :red[red]" in page
    assert not re.search(r'<script>alert|href="http://x|<strong>bold', page)
