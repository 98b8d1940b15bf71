"""The report in a real browser: no console message, filters and boxes work, nothing is fetched."""

import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from softalign.artifacts import TagDifference
from softalign.artifacts.fronts import FrontPoint, GuidanceFronts
from softalign.config import EvalConfig
from softalign.evaluation.compare import compare
from softalign.evaluation.report.guidance import guidance_section
from softalign.evaluation.report.rendering import Lacking, render
from softalign.geneval.prompts import official_prompts
from softalign.shapes.suite import build_suite
from softalign.store.store import Store
from tests.photograph_pages import photograph_page
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


@contextmanager
def opened(browser, path, width=1280, scheme="light"):
    """Open a page, and see at the end that it said nothing and fetched nothing."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    shown = context.new_page()
    shown.set_default_timeout(TIMEOUT_MS)
    messages, fetched = [], []
    shown.on("console", lambda message: messages.append(message.text))
    shown.on("pageerror", lambda error: messages.append(str(error)))
    shown.on("dialog", lambda dialog: (messages.append(dialog.message), dialog.dismiss()))
    shown.on("request", lambda request: fetched.append(request.url))
    shown.goto(path.as_uri())
    shown.wait_for_selector(".pair")
    yield shown
    context.close()
    assert messages == []
    assert [url for url in fetched if not url.startswith(("data:", "file:"))] == []
    assert sum(url.startswith("file:") for url in fetched) == 1


@pytest.fixture
def page(browser, report_path):
    with opened(browser, report_path) as shown:
        yield shown


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


AUDIT, CONTRASTS = (Path(__file__).with_name(name) for name in ("audit.js", "contrasts.js"))
ARMS = ("base", "untrained", "champion", "adapter")
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u202e {{ 7 * 7 }} " + "w" * 200
MIN_CONTRAST = 4.5
"""Of text and what it stands on: WCAG 2.2, level AA."""


def fronts():
    """Return a sweep of four arms at three values."""
    points = tuple(
        FrontPoint(
            arm=arm,
            guidance_scale=guidance,
            denoiser_calls_per_image=60,
            overall_score=0.5 + 0.02 * number + 0.01 * guidance,
            overall_ci_low=0.4,
            overall_ci_high=0.6,
            counting=0.4 + 0.03 * number - 0.01 * guidance,
            is_on_front=guidance > 1.5,
            report_digest="d",
        )
        for guidance in (1.5, 3.0, 7.0)
        for number, arm in enumerate(ARMS)
    )
    gain = TagDifference(tag="overall", difference=0.01, ci_low=-0.02, ci_high=0.04)
    return GuidanceFronts(points=points, gains=(), best_base=7.0, best_adapter=3.0, adapter_over_base_at_best=gain)


@pytest.fixture(scope="module")
def full_path(tmp_path_factory):
    """A page with everything that a page can show: of photographs, four arms, a sweep, a set that lacks something."""
    hostile = [prompt.model_copy(update={"prompt": HOSTILE, "tag": "own_tag"}) for prompt in official_prompts()[:1]]
    made = photograph_page((*hostile, *official_prompts()[::60]), 3, ARMS, num_pictures=4)
    path = tmp_path_factory.mktemp("full") / "page.html"
    full = replace(
        made,
        title=f"Evaluation of {HOSTILE}",
        guidance=guidance_section(fronts(), "geneval-hf"),
        lacking=(Lacking(HOSTILE, (HOSTILE,)),),
        settings=((HOSTILE, HOSTILE * 3),),
    )
    path.write_text(render(full), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def full(browser, full_path):
    with opened(browser, full_path) as shown:
        yield shown


def test_hostile_words_stay_words(full):
    assert full.locator("script").count() == 2 and full.locator("img[src=x]").count() == 0
    assert HOSTILE.split("\u202e")[0] in full.inner_text("#gallery")
    assert "{{ 7 * 7 }}" in full.inner_text("h1")


def test_every_arm_stands_in_every_table_and_gallery(full):
    labels = ["base model", "untrained tokens", "champion", "adapter"]
    heads = full.locator("section[aria-labelledby=h-tasks] thead th").all_inner_texts()
    assert [head.split(" geneval")[0] for head in heads[2:]] == labels
    assert all("geneval-hf" in head for head in heads[2:])
    for place in ("#fixed", "#broken", "#gallery"):
        first = full.locator(f"{place} .pair").first.locator(".arm > span:first-child").all_inner_texts()
        assert first == labels
    assert "own tag" in full.inner_text("section[aria-labelledby=h-tasks] tbody")


def test_the_two_galleries_hold_what_changed(full):
    for reference, name in enumerate(("base", "untrained", "champion")):
        full.select_option("#f-pair", str(reference))
        for place, words in (
            ("fixed", f"{name.capitalize()} wrong, adapter right"),
            ("broken", f"{name.capitalize()} right, adapter wrong"),
        ):
            heading = full.inner_text(f"#changes h3.{place}")
            full.select_option("#f-reference", str(reference))
            full.select_option("#f-change", place)
            assert heading.startswith(f"{words}: {num_matching(full)} image")
            wrong = reference if place == "fixed" else 3
            verdicts = full.locator(f"#{place} .pair .shown:nth-child({wrong + 1}) .bad")
            assert verdicts.count() == full.locator(f"#{place} .pair").count()
    full.select_option("#f-pair", "0")
    full.click("button[type=reset]")


def test_more_of_what_changed_comes_by_keyboard_and_takes_the_focus_along(browser, report_path):
    with opened(browser, report_path) as shown:
        shown.keyboard.press("Tab")
        assert shown.evaluate("document.activeElement.className") == "skip"
        button = shown.locator("#fixed + button")
        before, left = shown.locator("#fixed .pair").count(), int(button.inner_text().split("(")[1].split()[0])
        button.focus()
        shown.keyboard.press("Enter")
        assert shown.locator("#fixed .pair").count() == before + min(24, left)
        assert shown.evaluate(f"document.activeElement === document.querySelectorAll('#fixed .pair')[{before}]")


def test_a_screen_reader_finds_names_and_order(full):
    assert full.evaluate(AUDIT.read_text()) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_read_by_day_and_by_night(browser, full_path, scheme):
    with opened(browser, full_path, scheme=scheme) as shown:
        contrasts = shown.evaluate(CONTRASTS.read_text())
        paper = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    assert len(contrasts) > 20
    assert {name: round(value, 2) for name, value in contrasts.items() if value < MIN_CONTRAST} == {}


@pytest.mark.parametrize("width", [320, 360, 390, 768])
def test_narrow_windows_do_not_scroll_sideways(page, full, width):
    for shown in (page, full):
        shown.set_viewport_size({"width": width, "height": 800})
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
