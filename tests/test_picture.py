"""Pictures of pages: taken when the page is complete, cut at the end of a line, and small."""

import shutil

import pytest
from PIL import Image

from benchmarks import picture

PAGE = """<body style="margin: 0"><p style="height: 100px; margin: 0; background: red">wait</p><p>{more}</p><script>
setTimeout(() => {{ document.querySelector('p').style.background = 'rgb(0, 0, 255)'; window.done = true }}, 700)
</script></body>"""
needs_chromium = pytest.mark.skipif(picture.chromium() is None, reason="no Chromium is installed")


@needs_chromium
@pytest.mark.slow
def test_a_picture_is_of_the_complete_page_and_ends_with_a_line(tmp_path, monkeypatch):
    (tmp_path / "page.html").write_text(PAGE.format(more="a line<br>" * 99))
    with picture.browser() as page:
        page.picture((tmp_path / "page.html").as_uri(), tmp_path / "a.png", (300, 200), "window.done")
        monkeypatch.setattr(picture, "PATIENCE", 0.5)
        with pytest.raises(picture.PictureError, match=r"page.html was not ready after 0 s"):
            page.picture((tmp_path / "page.html").as_uri(), tmp_path / "b.png", (300, 200), "window.never")
    taken = Image.open(tmp_path / "a.png")
    assert taken.size == (300, 100 + picture.MARGIN) and taken.convert("RGB").getpixel((5, 90)) == (0, 0, 255)
    assert not (tmp_path / "b.png").exists()


def test_without_a_browser_there_is_a_sentence(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(picture.PictureError, match="no Chromium is installed"), picture.browser():
        pass


def test_the_pictures_are_small_and_shown():
    found = sorted(picture.PICTURES.glob("*.png"))
    assert [path.name for path in found] == ["explore.png", "report.png"]
    for path in found:
        assert path.stat().st_size < 250_000
        assert f"](pictures/{path.name})" in (picture.ROOT / "docs" / f"{path.stem}.md").read_text()
