"""The report in a real browser: no console message, filters and boxes work, nothing is fetched."""

import shutil
from pathlib import Path

import pytest

from softalign.config import EvalConfig
from softalign.evaluation.compare import compare
from softalign.shapes.suite import build_suite
from softalign.store.store import Store
from tests.recorded_arms import publish_arms

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium (apt-get install chromium)")
TIMEOUT_MS = 120_000


@pytest.fixture(scope="module")
def report_path(tmp_path_factory):
    store = Store(str(tmp_path_factory.mktemp("report")))
    config = EvalConfig(
        suite="shapes", images_per_prompt=2, guidance_scale=1.0, reference_guidance_scale=2.0, num_bootstrap=100
    )
    prompts = tuple(build_suite()[::6])
    record = compare(*publish_arms(prompts, config, store), config, store, "key")
    return Path(record.uri) / "report.html"


@pytest.fixture(scope="module")
def browser():
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=BROWSER, args=arguments, timeout=TIMEOUT_MS)
        yield started
        started.close()


@pytest.fixture
def page(browser, report_path):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(TIMEOUT_MS)
    messages, fetched = [], []
    opened.on("console", lambda message: messages.append(message.text))
    opened.on("pageerror", lambda error: messages.append(str(error)))
    opened.on("request", lambda request: fetched.append(request.url))
    opened.goto(report_path.as_uri())
    opened.wait_for_selector(".pair")
    yield opened
    context.close()
    assert messages == []
    assert [url for url in fetched if not url.startswith(("data:", "file:"))] == []
    assert sum(url.startswith("file:") for url in fetched) == 1


def wait_until(page, expression):
    """Poll from here: the page's policy forbids the evaluation that playwright's own waiting needs."""
    for _ in range(TIMEOUT_MS // 100):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    pytest.fail(f"never true: {expression}")


def num_matching(page):
    return int(page.inner_text("#counts").split()[0])


def show_all(page):
    while page.locator("#gallery .pair").count() < num_matching(page):
        before = page.locator("#gallery .pair").count()
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        wait_until(page, f"document.querySelectorAll('#gallery .pair').length > {before}")


def test_images_are_drawn_lazily_to_the_last(page):
    assert num_matching(page) == 50
    assert page.locator("#gallery .pair").count() < 50
    show_all(page)
    assert page.locator("#gallery .pair").count() == 50
    assert page.locator("#gallery .pair img").count() == 150
    wait_until(page, "[...document.images].slice(-6).every(image => image.naturalWidth === 32)")


def test_filters_agree_with_the_numbers(page):
    totals = {}
    for change in ("fixed", "broken", "right", "wrong"):
        page.select_option("#f-change", change)
        totals[change] = num_matching(page)
        show_all(page)
        assert page.locator(f'#gallery .pair[data-change="{change}"]').count() == totals[change]
    assert sum(totals.values()) == 50
    page.select_option("#f-change", "fixed")
    for verdict, arm in (("wrong", 0), ("correct", 2)):
        texts = page.locator(f"#gallery .pair .shown:nth-child({arm + 1}) .arm").all_inner_texts()
        assert texts
        assert all(verdict in text for text in texts)
    page.click("button[type=reset]")
    wait_until(page, "document.getElementById('counts').innerText.startsWith('50 ')")


def test_task_reference_and_search(page):
    page.select_option("#f-tag", "counting")
    assert set(page.eval_on_selector_all("#gallery .pair", "all => all.map(one => one.dataset.tag)")) == {"counting"}
    page.select_option("#f-tag", "")
    against_base = page.inner_text("#counts")
    page.select_option("#f-reference", "1")
    assert page.inner_text("#counts") != against_base
    page.fill("#f-text", "PHOTO cross")
    assert 0 < num_matching(page) < 50
    page.fill("#f-text", "no such words")
    assert num_matching(page) == 0
    assert "No image matches" in page.inner_text("#gallery")


def test_boxes_lie_on_the_picture_and_can_be_hidden(page):
    box = page.locator("#gallery .pair .shown svg rect:not(.under)").first
    picture = page.locator("#gallery .pair .picture").first.bounding_box()
    assert picture["width"] == pytest.approx(picture["height"])
    assert box.is_visible()
    page.uncheck("#f-boxes")
    assert not box.is_visible()


@pytest.mark.parametrize("width", [320, 390, 768])
def test_narrow_windows_do_not_scroll_sideways(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
