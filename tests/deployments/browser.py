"""A browser for the tests of Prefect's UI: Debian's Chromium, and what is found on its pages.

With ``MGD_PICTURES`` set to a folder, the tests leave their pictures there, each of a page as it
looks on a screen and on a phone. Those in its folder ``documents`` are what the documents show:

    MGD_PICTURES=pictures pytest -m servers tests/deployments/test_browser.py
    cp pictures/documents/* engine/docs/pictures
"""

import contextlib
import io
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SCREEN = {"width": 1200, "height": 900}
PHONE = {"width": 390, "height": 844}
UIS = {"v2": "/v2", "v1": ""}
"""Prefect's UIs, with what the addresses of their pages begin with."""

COLOURS = 64
"""Of a document's picture: pages have few, and a picture stays below 100 kB."""

_LONGEST = 240_000
"""Milliseconds: a busy machine draws a page in many seconds."""


@contextmanager
def open_browser():
    """Yield a page of a new browser, which has cookies and storage of its own."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with playwright.sync_playwright() as started:
        # No browser is downloaded. As root, Chromium has no sandbox; it sees only our own pages.
        options = ["--disable-gpu", *(["--no-sandbox"] if os.getuid() == 0 else [])]
        browser = started.chromium.launch(executable_path=CHROMIUM, args=options)
        page = browser.new_page(viewport=SCREEN)
        page.set_default_timeout(_LONGEST)
        try:
            yield page
        finally:
            browser.close()


def height(page):
    """Return the height of what a page shows, in pixels, whatever part of it scrolls."""
    return page.evaluate(
        "Math.max(...[...document.querySelectorAll('*')].map(each => each.scrollHeight))"
    )


def picture(page, name):
    """Leave pictures of a page, if they are asked for."""
    folder = os.environ.get("MGD_PICTURES")
    if not folder:
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    for kind, size in (("screen", SCREEN), ("phone", PHONE)):
        page.set_viewport_size(size)
        page.wait_for_timeout(500)
        page.set_viewport_size({**size, "height": max(size["height"], min(height(page), 4000))})
        page.wait_for_timeout(500)
        page.screenshot(path=str(Path(folder) / f"{name}-{kind}.png"))
    page.set_viewport_size(SCREEN)


def document(page, name, width=SCREEN["width"]):
    """Leave a picture for the documents, if it is asked for: the first screen, in few colours."""
    folder = os.environ.get("MGD_PICTURES")
    if not folder:
        return
    from PIL import Image

    place = Path(folder) / "documents"
    place.mkdir(parents=True, exist_ok=True)
    page.set_viewport_size({**SCREEN, "width": width})
    page.wait_for_timeout(1000)
    shot = Image.open(io.BytesIO(page.screenshot()))
    few = shot.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(place / f"{name}.png", optimize=True)
    page.set_viewport_size(SCREEN)


def press(page, name, until):
    """Press a button until something has come of it.

    Prefect's form takes a moment to read what was typed last, and drops a click before that. A
    click that it takes may close the form with its button, while what comes of it takes longer.
    """
    from playwright.sync_api import TimeoutError as NotThere

    button = page.get_by_role("button", name=name, exact=True).last
    for _ in range(30):
        with contextlib.suppress(NotThere):
            button.click(timeout=5000)
        for _ in range(20):
            if until():
                return
            page.wait_for_timeout(200)
    pytest.fail(f"nothing came of the button {name}; the page says:\n{page.inner_text('body')}")
