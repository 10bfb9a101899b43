"""The page in a real browser: silent console, no request, models hide, keys work, text fits, it paints at once.

The browser is the system's Chromium, driven by Playwright (extra ``dev``); without either the tests skip.
``FDLAB_REQUIRE_BROWSER=1`` makes that a failure.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mock_study import STUDENT, study_facts, study_table

from fdlab.report.page import write_page
from fdlab.report.report import Report
from fdlab.report.style import looks_of

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
playwright = pytest.importorskip("playwright.sync_api") if not os.environ.get("FDLAB_REQUIRE_BROWSER") else None
if playwright is None:
    from playwright import sync_api as playwright
elif CHROMIUM is None:
    pytest.skip("no Chromium on this machine: apt-get install chromium", allow_module_level=True)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    return write_page(Path(folder) / "index.html", Report(study_table(), study_facts()), teach=False).as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["desktop-light", "phone-dark"])
def view(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.said, page.asked = [], []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("request", lambda asked: page.asked.append(asked.url))
    page.goto(address)
    yield page
    assert page.said == []
    assert page.asked == [address]
    context.close()


def place_of(model: str) -> int:
    return list(looks_of(Report(study_table(), study_facts()))).index(model)


def drawn(page: Any, place: int) -> int:
    """How many shapes of a model are seen, in all figures."""
    return int(
        page.evaluate(
            """place => [...document.querySelectorAll('figure svg *')].filter(shape => {
                const own = (shape.getAttribute('style') || '').includes(`var(--m${place})`);
                const style = getComputedStyle(shape);
                const seen = style.visibility !== 'hidden' && [style.stroke, style.fill].some(
                    paint => paint !== 'none' && !paint.startsWith('rgba(0, 0, 0, 0'));
                return own && seen && !shape.closest('defs');
            }).length""",
            place,
        )
    )


def test_hiding_a_model_hides_it_in_every_figure(view: Any) -> None:
    if view.viewport_size["width"] < 640:  # a phone has no room for the list of models
        assert view.locator(".chips").is_hidden()
        return
    place, other = place_of(STUDENT), 0
    before, beside = drawn(view, place), drawn(view, other)
    assert before > 20
    view.locator(f"#model-{place}").uncheck()
    assert drawn(view, place) == 0
    assert drawn(view, other) == beside
    assert view.locator(f'svg [data-model="{place}"]').first.evaluate("p => getComputedStyle(p).visibility") == "hidden"
    assert view.locator(f'tr[data-model="{place}"]').first.is_hidden()
    view.locator(f"#model-{place}").check()
    assert drawn(view, place) == before


def test_the_first_screen_answers_and_shows(view: Any) -> None:
    if view.viewport_size["width"] < 1000:
        return
    top = view.evaluate("document.querySelector('figure svg').getBoundingClientRect().top")
    assert top < 700
    assert view.locator("h1").bounding_box()["y"] < 120
    for answer in view.locator(".answer").all():
        assert answer.bounding_box()["y"] < 400


def test_the_theme_button_wins_over_the_system(view: Any) -> None:
    def background() -> str:
        return str(view.evaluate("getComputedStyle(document.body).backgroundColor"))

    seen = []
    for _ in range(3):
        view.locator("#theme").click()
        seen.append(background())
    assert seen[0] == "rgb(255, 255, 255)" and seen[1] == "rgb(20, 23, 28)"


def test_a_column_sorts_the_models(view: Any) -> None:
    button = view.locator("table.all thead button").first
    for order in ("descending", "ascending"):
        button.click()
        assert view.locator(f'th[aria-sort="{order}"]').count() == 1
        values = [
            float(cell.get_attribute("data-value")) for cell in view.locator("table.all tbody td:nth-child(2)").all()
        ]
        known = [value for value in values if value == value]
        assert known == sorted(known, reverse=order == "descending")


SAVED = "HTMLAnchorElement.prototype.click = function () { (window.saved ||= {})[this.download] = this.href; }"
WIDTH = (
    """async url => { const image = new Image(); image.src = url; await image.decode(); return image.naturalWidth; }"""
)


def test_a_figure_is_downloaded_as_it_is_seen(browser: Any, address: str) -> None:
    page = browser.new_page()
    page.goto(address)
    page.evaluate(f"() => {{ {SAVED} }}")
    for kind in ("svg", "png", "csv"):
        page.locator(f'section.hero button[data-do="{kind}"]').click()
    page.wait_for_timeout(1500)  # waiting for a function is refused by the page's policy
    saved = {name.rsplit(".", 1)[1]: url for name, url in page.evaluate("window.saved").items()}
    assert set(saved) == {"svg", "png", "csv"}
    small, large = page.evaluate(WIDTH, saved["svg"]), page.evaluate(WIDTH, saved["png"])
    assert small > 300 and large == pytest.approx(3 * small, rel=0.02)
    page.close()


def test_nothing_is_wider_than_the_screen(view: Any) -> None:
    assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_nothing_is_hidden_without_a_script(browser: Any, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.locator("button.js:visible").count() == 0
    assert page.locator("section.hero svg").is_visible()
    page.locator("#model-0").uncheck()
    assert page.locator('tr[data-model="0"]').first.is_hidden()
    page.locator("section.hero details > summary").first.click()
    assert page.locator("section.hero .more").is_visible()
    context.close()


def test_every_figure_has_a_name_and_contrast(view: Any) -> None:
    for svg in view.locator("figure svg").all():
        for word in str(svg.get_attribute("aria-labelledby")).split():
            assert view.locator(f"#{word}").text_content()
    body = view.evaluate("(style => [style.color, style.backgroundColor])(getComputedStyle(document.body))")
    assert contrast(*body) >= 7


def contrast(first: str, second: str) -> float:
    """WCAG 2.1's contrast ratio of two ``rgb(...)`` colours."""

    def luminance(color: str) -> float:
        parts = [float(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_it_prints_on_a4_with_everything_open(browser: Any, address: str, tmp_path: Path) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto(address)
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    data = page.pdf(path=tmp_path / "page.pdf", prefer_css_page_size=True)
    assert data.startswith(b"%PDF")
    assert b"/MediaBox [0 0 594.95996 841.91998]" in data or b"/MediaBox [0 0 595" in data
    page.close()


def test_first_paint_is_under_a_second(browser: Any, address: str) -> None:
    times = []
    for _ in range(3):
        page = browser.new_page()
        page.goto(address)
        times.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        page.close()
    assert min(times) < 1000, times
