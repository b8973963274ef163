"""Pages measured by a browser: what is cut off, too small, pale or empty, and what overlaps."""

import re

from tests.deployments.browser import open_browser

__all__ = ["NO_FAULTS", "PAPER", "WIDTHS", "faults", "open_browser", "pages_on_paper"]

PAPER = 695
"""Pixels between the margins of A4."""

WIDTHS = {"screen": 1200, "phone": 390, "paper": PAPER}

DARK = "dark"
"""A page of 1200 px in the dark scheme."""

SMALLEST = 9
"""Pixels of the smallest text."""

PALEST = 4.5
"""Least contrast of a text with what is behind it: WCAG 2.2, 1.4.3, level AA."""

NO_FAULTS: dict[str, list[str]] = {**{where: [] for where in WIDTHS}, DARK: []}
"""What ``faults`` returns of a page without any."""

_MEASURE = r"""
([smallest, palest]) => {
  const luminance = colour => {
    const [r, g, b] = colour.match(/[\d.]+/g).slice(0, 3).map(Number).map(each => each / 255)
      .map(each => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const seen = colour => !/^rgba\(.*, 0\)$|transparent|none/.test(colour);
  const behind = element => {
    for (let each = element; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if (seen(colour)) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const contrast = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const found = [], wide = document.documentElement, room = wide.clientWidth;
  if (wide.scrollWidth > room + 1) found.push(`the page is ${wide.scrollWidth} px wide`);
  for (const each of document.querySelectorAll('main *, header *')) {
    if (each.closest('svg') || !each.clientWidth) continue;
    const style = getComputedStyle(each);
    if (style.overflowX !== 'visible' && each.scrollWidth > each.clientWidth + 1)
      found.push(`cut: ${each.className || each.tagName}, ${each.textContent.trim().slice(0, 40)}`);
  }
  for (const each of document.querySelectorAll('main h2, main h3')) {
    const next = each.parentElement.tagName === 'SUMMARY'
      ? each.parentElement.nextElementSibling : each.nextElementSibling;
    if (!next || (/^H[1-6]$/.test(next.tagName) && next.tagName <= each.tagName)
        || !next.getClientRects().length)
      found.push(`nothing below the heading: ${each.textContent.trim()}`);
  }
  for (const each of document.querySelectorAll('img'))
    if (each.checkVisibility() && !each.naturalWidth) found.push(`no picture: ${each.alt}`);
  for (const each of document.querySelectorAll('a[href^="#"]'))
    if (!document.getElementById(decodeURIComponent(each.hash.slice(1))))
      found.push(`a link to nothing: ${each.textContent.trim()}`);
  const texts = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    const words = node.textContent.trim(), parent = node.parentElement;
    if (!words || parent.closest('.skip, style, defs') || !parent.checkVisibility()) continue;
    const svg = parent.closest('svg');
    let size = parseFloat(getComputedStyle(parent).fontSize);
    if (svg) size *= svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    if (size < smallest) found.push(`${size.toFixed(1)} px: ${words.slice(0, 40)}`);
    const ink = getComputedStyle(parent)[svg ? 'fill' : 'color'];
    const clear = seen(ink) && contrast(ink, behind(parent));
    if (clear && clear < palest) found.push(`contrast ${clear.toFixed(1)}: ${words.slice(0, 40)}`);
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) {
      if (box.width < 1) continue;
      const edge = svg ? svg.getBoundingClientRect() : {left: 0, right: room};
      if (box.left < edge.left - 1 || box.right > edge.right + 1)
        found.push(`beyond the edge: ${words.slice(0, 40)}`);
      const turned = svg && box.height > 1.8 * size;
      const slack = turned ? 1 : 0.2 * box.height;  // a line is higher than its letters
      texts.push({words, node, left: box.left + 1, right: box.right - 1,
                  top: box.top + slack, bottom: box.bottom - slack});
    }
  }
  texts.sort((a, b) => a.top - b.top);
  texts.forEach((a, i) => {
    for (let j = i + 1; j < texts.length && texts[j].top < a.bottom; j++) {
      const b = texts[j];
      if (a.node !== b.node && a.left < b.right && b.left < a.right)
        found.push(`overlap: ${a.words.slice(0, 40)} / ${b.words.slice(0, 40)}`);
    }
  });
  return [...new Set(found)];
}
"""


def faults(page, address):
    """Return what is wrong with a page by where it is read, with all that is folded open.

    Args:
        page: Of a browser.
        address: URL of what to measure.
    """
    found = {}
    for where, width in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(media="print" if where == "paper" else "screen", color_scheme="light")
        page.goto(address)
        found[where] = _measured(page)
    page.set_viewport_size({"width": WIDTHS["screen"], "height": 900})
    page.emulate_media(media="screen", color_scheme="dark")
    page.goto(address)
    found[DARK] = _measured(page)
    page.emulate_media(color_scheme="light")
    return found


def _measured(page):
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    return page.evaluate(_MEASURE, [SMALLEST, PALEST])


def pages_on_paper(page, address):
    """Return how many pages of A4 a page takes as it is opened."""
    page.emulate_media(media="print")
    page.goto(address)
    return len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4", prefer_css_page_size=True)))
