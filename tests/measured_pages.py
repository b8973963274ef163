"""Pages measured by a browser: what is cut off, what is too small, and which texts overlap."""

import re

from tests.deployments.browser import open_browser

__all__ = ["PAPER", "WIDTHS", "faults", "open_browser", "pages_on_paper"]

PAPER = 695
"""Pixels between the margins of A4."""

WIDTHS = {"screen": 1200, "phone": 390, "paper": PAPER}

SMALLEST = 9
"""Pixels of the smallest text."""

_MEASURE = """
smallest => {
  const found = [], wide = document.documentElement, room = wide.clientWidth;
  if (wide.scrollWidth > room + 1) found.push(`the page is ${wide.scrollWidth} px wide`);
  for (const each of document.querySelectorAll('main *, header *')) {
    if (each.closest('svg') || !each.clientWidth) continue;
    const style = getComputedStyle(each);
    if (style.overflowX !== 'visible' && each.scrollWidth > each.clientWidth + 1)
      found.push(`cut: ${each.className || each.tagName}, ${each.textContent.trim().slice(0, 40)}`);
  }
  const texts = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    const words = node.textContent.trim(), parent = node.parentElement;
    if (!words || parent.closest('.skip, style, defs') || !parent.checkVisibility()) continue;
    const svg = parent.closest('svg');
    let size = parseFloat(getComputedStyle(parent).fontSize);
    if (svg) size *= svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    if (size < smallest) found.push(`${size.toFixed(1)} px: ${words.slice(0, 40)}`);
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
        page.emulate_media(media="print" if where == "paper" else "screen")
        page.goto(address)
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        found[where] = page.evaluate(_MEASURE, SMALLEST)

    return found


def pages_on_paper(page, address):
    """Return how many pages of A4 a page takes as it is opened."""
    page.emulate_media(media="print")
    page.goto(address)
    return len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4", prefer_css_page_size=True)))
