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
from urllib.parse import urlsplit

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

_CLICKS = 30
"""Until a button counts as one of which nothing comes."""

_LOOK, _FEW_LOOKS = 200, 20
"""Milliseconds between two looks, and how many of them a click gets that the page may drop."""

_CHANGES = {"create_flow_run", "schedules", "set_state"}
"""The last part of the addresses of what the tests' buttons do; a form is checked by another."""


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
        playwright.expect.set_options(timeout=_LONGEST)
        try:
            yield page
        finally:
            browser.close()


def height(page):
    """Return the height of what a page shows, in pixels, whatever part of it scrolls."""
    return page.evaluate(
        "Math.max(...[...document.querySelectorAll('*')].map(each => each.scrollHeight))"
    )


def settled_height(page):
    """Return the height of a page once two looks in a row find the same: fields are drawn late."""
    before, now = None, height(page)
    while now != before:
        page.wait_for_timeout(1000)
        before, now = now, height(page)
    return now


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


class _Sent:
    """What a page has asked its server to do, and whether that was taken."""

    def __init__(self, page):
        self.page, self.under_way, self.done = page, 0, 0

    def __enter__(self):
        self._heard = {
            "request": self._begin,
            "requestfinished": self._end,
            "requestfailed": self._fail,
        }
        for event, hear in self._heard.items():
            self.page.on(event, hear)
        return self

    def __exit__(self, *error):
        for event, hear in self._heard.items():
            self.page.remove_listener(event, hear)

    @staticmethod
    def _changes(request):
        path = urlsplit(request.url).path.rstrip("/")
        return request.method == "POST" and path.rsplit("/", 1)[-1] in _CHANGES

    def _begin(self, request):
        self.under_way += self._changes(request)

    def _end(self, request):
        if self._changes(request):
            answer = request.response()
            self.under_way -= 1
            self.done += answer is not None and answer.ok

    def _fail(self, request):
        self.under_way -= self._changes(request)

    def comes_of(self, until):
        """Look for what was awaited: a moment, or as long as it takes where the server knows."""
        for look in range(_LONGEST // _LOOK):
            if answer := until():
                return answer
            if look >= _FEW_LOOKS and self.under_way <= 0 and not self.done:
                return None
            self.page.wait_for_timeout(_LOOK)
        return None


def press(page, name, until):
    """Press a button until something has come of it, and never again once the server was asked.

    Prefect's form takes a moment to read what was typed last, and drops a click before that. A
    click that it takes may close the form with its button, while what comes of it takes longer;
    or leave it there, where a second click would make a second run.
    """
    from playwright.sync_api import TimeoutError as NotThere

    button = page.get_by_role("button", name=name, exact=True).last
    with _Sent(page) as sent:
        for _ in range(_CLICKS):
            with contextlib.suppress(NotThere):
                button.click(timeout=5000)
            if answer := sent.comes_of(until):
                return answer
    pytest.fail(f"nothing came of the button {name}; the page says:\n{page.inner_text('body')}")


_HEAR = """
addEventListener("click", event => {
  const what = event.target.closest("a, button");
  if (event.isTrusted && what) noteClick(what.getAttribute("href") || what.innerText.trim());
}, true);
"""


def clicked(page):
    """Return a list in which a context's pages, opened from now on, note what a person clicks on.

    A control is in it once: Prefect's form drops clicks while it reads what was typed last, and
    whoever waits for it to be ready needs one.
    """
    found = []
    page.context.expose_function(
        "noteClick", lambda what: None if what in found else found.append(what)
    )
    page.context.add_init_script(_HEAR)
    return found


def choose(page, until, *steps):
    """Go through a menu, from its first step again where it was closed half-way.

    Prefect's pages ask for news and draw their menus anew, closed.

    Args:
        page: Of a browser.
        until: Whether something has come of it.
        steps: What is clicked, one after the other.
    """
    from playwright.sync_api import TimeoutError as NotThere

    with _Sent(page) as sent:
        for _ in range(_CLICKS):
            with contextlib.suppress(NotThere):
                for each in steps:
                    each.first.click(timeout=20_000)
            if answer := sent.comes_of(until):
                return answer
            page.keyboard.press("Escape")
    pytest.fail(f"nothing came of the menu; the page says:\n{page.inner_text('body')}")


def write(box, text):
    """Fill in a field until it holds what was written: a form that is drawn anew empties it."""
    from playwright.sync_api import expect

    for _ in range(_CLICKS):
        box.fill(str(text))
        box.page.wait_for_timeout(200)
        if box.input_value() == str(text):
            break
    expect(box).to_have_value(str(text))
