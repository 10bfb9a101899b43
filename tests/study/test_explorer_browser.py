"""The explorer in a real browser: rows and numbers are the model's, keys and links work, nothing leaves the page."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no folder by itself

from explored import MODELS

from fdlab.data.sources import open_data
from fdlab.data.streamed import Streamed
from fdlab.encoders.encoder import Encoder
from fdlab.study.explore import explore

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
playwright = pytest.importorskip("playwright.sync_api") if not os.environ.get("FDLAB_REQUIRE_BROWSER") else None
if playwright is None:
    from playwright import sync_api as playwright
elif CHROMIUM is None:
    pytest.skip("no Chromium on this machine: apt-get install chromium", allow_module_level=True)
IMAGES = 2


@pytest.fixture(scope="module")
def models() -> dict[str, Encoder]:
    return {name: make() for name, make in MODELS.items()}


@pytest.fixture(scope="module")
def address(models: dict[str, Encoder], tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("explorer")
    return explore(models, "photos", folder, images=IMAGES, quiet=True, teach=True).path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def view(browser: Any, address: str) -> Iterator[Any]:
    yield from opened(browser, address)


def opened(browser: Any, address: str, **options: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)
    page = context.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    yield page
    assert said == []
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]
    assert page.locator("#fault").is_hidden()
    context.close()


def maps_of(encoder: Encoder, image: int) -> list[torch.Tensor]:
    """(windows, heads, T, T) of every block, by the encoder itself."""
    size = encoder.info.image_size
    source = open_data("photos", size=size, seed=0).sample(IMAGES, 0)
    raw = Streamed(source, (size, size))[image : image + 1]
    blocks = range(encoder.info.depth)
    with torch.no_grad():
        found = encoder.attention(encoder.normalise(raw), blocks=blocks)
    return [found[block].double() for block in blocks]


def test_rows_are_those_of_the_model(view: Any, models: dict[str, Encoder]) -> None:
    draw = np.random.default_rng(0)
    for number, encoder in enumerate(models.values()):
        for image in range(IMAGES):
            for block, maps in enumerate(maps_of(encoder, image)):
                windows, heads, tokens, _ = maps.shape
                prefix = encoder.info.prefix_tokens
                window, head = int(draw.integers(windows)), int(draw.integers(heads))
                for query in (0, prefix, int(draw.integers(tokens))):
                    words = [number, image, block, head, query, window]
                    row = view.evaluate("words => window.explorer.row(...words)", words)
                    own = maps[window, head, query, prefix:]
                    own = (own / own.sum()).numpy()
                    assert np.abs(np.array(row) - own).max() / own.max() < 0.11, words


def test_numbers_of_all_chunks_are_those_of_the_model(view: Any) -> None:
    worst = view.evaluate(
        """async () => {
            const worst = [0, 0, 0], X = window.explorer;
            for (const [m, model] of X.facts.models.entries()) for (let i = 0; i < X.facts.images.length; i++)
                for (const [b, block] of model.blocks.entries()) for (let h = 0; h < block.heads; h++) {
                    const now = await X.numbers(m, i, b, h, 1);
                    const own = X.facts.chunks[`c-${m}-${i}-${block.number - 1}`].numbers;
                    worst[0] = Math.max(worst[0], Math.abs(now[0] / own.distance[h] - 1));
                    worst[1] = Math.max(worst[1], Math.abs(now[1] - own.entropy[h]));
                    worst[2] = Math.max(worst[2], Math.abs(now[2] - own.nmi[h]));
                }
            return worst;
        }"""
    )
    assert worst[0] < 0.003 and worst[1] < 0.003 and worst[2] < 0.003, worst


def test_temperature_sharpens_as_dividing_the_logits_does(view: Any, models: dict[str, Encoder]) -> None:
    maps = maps_of(models["plain"], 0)[1][0, 2][3:, 3:]
    sharper = maps.log().mul(2).softmax(-1)
    entropy = float(torch.special.entr(sharper).sum(-1).mean() / np.log(64))
    now = view.evaluate("() => window.explorer.numbers(0, 0, 1, 2, 0.5)")
    assert now[1] == pytest.approx(entropy, abs=0.01)


def test_the_keys_move_and_the_link_brings_it_back(view: Any, address: str) -> None:
    view.locator("#photo").focus()
    before = view.locator("#asking").inner_text()
    view.keyboard.press("ArrowRight")
    view.keyboard.press("Shift+ArrowDown")
    assert view.locator("#asking").inner_text() != before
    for key, text in (("]", "block"), ("h", "head"), ("-", "heat"), ("n", "image")):
        view.keyboard.press(key)
        assert view.evaluate("Object.keys(window.explorer.state)"), text
    view.wait_for_timeout(400)
    state = view.evaluate("window.explorer.state")
    assert state["i"] == 1 and state["t"] < 1 and state["pin"] == {"m": 0, "b": state["pin"]["b"], "h": 0}
    view.goto(view.url)
    view.reload()
    view.wait_for_selector("html[data-ready]")
    again = view.evaluate("window.explorer.state")
    assert {name: again[name] for name in ("i", "b", "who", "pin")} == {n: state[n] for n in ("i", "b", "who", "pin")}
    assert again["t"] == pytest.approx(state["t"], abs=1e-3)
    view.locator("#photo").focus()
    view.keyboard.press("Escape")
    assert view.evaluate("window.explorer.state.pin") is None


def test_a_class_token_asks_and_a_model_without_one_says_so(view: Any) -> None:
    view.get_by_role("button", name="The class token asks").click()
    view.wait_for_timeout(200)
    assert "it has no class token" in view.locator(".model").nth(2).inner_text()
    assert view.locator(".model").nth(0).locator("canvas").count() == 4
    assert view.locator("#box").is_hidden()


def test_a_dot_shows_its_head_and_a_click_keeps_it(view: Any) -> None:
    dot = view.locator('.dot[data-m="0"][data-b="2"][data-h="1"]')
    dot.click()
    view.wait_for_timeout(200)
    assert view.evaluate("window.explorer.state.pin") == {"m": 0, "b": 2, "h": 1}
    pressed = view.locator('.model >> nth=0 >> .tile[aria-pressed="true"]')
    assert "head 2" in pressed.inner_text()
    assert "head 2" in view.locator("#numbers tbody tr").first.inner_text()


def test_the_difference_of_two_and_the_map_as_a_table(view: Any) -> None:
    view.get_by_role("button", name="Difference of two").click()
    view.locator("#listed > summary").click()
    view.wait_for_timeout(200)
    assert view.locator(".model:visible").count() == 1
    assert "minus" in view.locator(".model:visible").inner_text()
    assert view.locator("#tops tr").count() == 3 * 11


@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_nothing_is_wider_than_the_screen(browser: Any, address: str, width: int) -> None:
    for page in opened(browser, address):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_an_old_browser_and_one_without_scripts_are_told(browser: Any, address: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script("delete window.DecompressionStream")
    page.goto(address)
    assert "DecompressionStream" in page.locator("#fault").inner_text()
    assert page.locator(".dot").count() > 20
    context.close()
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert "JavaScript" in page.locator("noscript").inner_text()
    context.close()
