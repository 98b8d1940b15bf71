"""The pages about datasets in a real browser: no console message, nothing fetched, hostile names are text."""

import shutil
from pathlib import Path

import pytest

from softalign.config import CurationConfig, FilterConfig
from softalign.config.captions import CaptionFilterConfig
from softalign.data.curation.pipeline import curate
from softalign.data.curation.published import OpenedDataset
from softalign.data.versions.diff import compare_datasets
from softalign.data.versions.pages.data_page import render_dataset
from softalign.data.versions.pages.diff_page import render_diff
from softalign.store.store import Store
from tests.unit.data.curation.conftest import Handover, picture

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium (apt-get install chromium)")
HOSTILE = "<img src=x onerror=document.title='hacked'>\u202e.png"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    root = tmp_path_factory.mktemp("pages")
    store, handover = Store(str(root / "store")), Handover(root / "handover").add_pictures(4)
    handover.add(HOSTILE, [f"</style><script>alert(1)</script> {HOSTILE}"], picture(9))
    handover.add(f"gone {HOSTILE}", ["gone"])
    opened = []
    for key in ("a" * 64, "b" * 64):
        as_written = FilterConfig(captions=CaptionFilterConfig(repair=False, drop_non_captions=False))
        config = CurationConfig(name="test", sources=(handover.coco(),), filters=as_written)
        opened.append(OpenedDataset(curate(config, store, key), store))
        handover.rows[0][1][0] = "{{ 7 * 7 }} <b>other words</b>"
    for name, text in (
        ("data.html", render_dataset(opened[0])),
        ("diff.html", render_diff(compare_datasets(*opened), *opened)),
    ):
        (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize("name", ["data.html", "diff.html"])
def test_a_page_shows_hostile_text_and_fetches_nothing(pages: Path, name):
    messages, fetched = [], []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: fetched.append(request.url))
        page.goto((pages / name).as_uri())
        title, text, width = page.title(), page.inner_text("main"), page.evaluate("document.body.scrollWidth")
        broken = page.evaluate("[...document.images].filter(one => !one.naturalWidth).length")
        browser.close()
    assert messages == [] and broken == 0 and width <= 390
    assert [url for url in fetched if not url.startswith("data:")] == [(pages / name).as_uri()]
    assert "hacked" not in title and ("onerror=" in text if name == "data.html" else "<b>other words</b>" in text)
