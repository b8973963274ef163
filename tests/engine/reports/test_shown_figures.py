"""Figures read back from a page: images and drawings, with what they show, and no examples."""

import base64

from engine.reports.shown_figures import figures_of

PNG = b"\x89PNG\r\n\x1a\nrest"
SVG = '<svg xmlns="http://www.w3.org/2000/svg"><clipPath id="a"/><text>0.5 &lt; 1</text></svg>'

PAGE = f"""<!doctype html><title>t</title>
<h2>Loss</h2>
<figure><img src="data:image/png;base64,{base64.b64encode(PNG).decode()}" alt="one &amp; two">
<figcaption>How to
read it.</figcaption></figure>
<h2>Drawn</h2>
<figure class="drawing">
<div class="on-page" role="img" aria-label="Wide">{SVG}</div>
<div class="on-phone" role="img" aria-label="Wide"><svg><text>narrow</text></svg></div>
<figcaption>Below.</figcaption>
</figure>
<figure><img src="https://example.org/x.png" alt="elsewhere"></figure>
<ul class="cards"><li><img src="data:image/png;base64,AAAA" alt="an example"></li></ul>
<figure><svg><text>cut off"""


def test_images_and_drawings_are_found_with_their_words():
    """Of a drawing for a page and a phone the first; nothing that lies elsewhere, nothing cut."""
    image, drawing = figures_of(PAGE)

    assert (image.section, image.alt, image.caption) == ("Loss", "one & two", "How to read it.")
    assert (image.image, image.media_type) == (PNG, "image/png")
    assert (drawing.section, drawing.alt, drawing.caption) == ("Drawn", "Wide", "Below.")
    assert (drawing.image.decode(), drawing.media_type) == (SVG, "image/svg+xml")


def test_a_notebook_shows_them_as_images():
    """A drawing of a store may hold a script, which no image runs."""
    shown = [each._repr_html_() for each in figures_of(PAGE)]

    assert all("<img " in each and "<svg" not in each for each in shown)
    assert 'alt="one &amp; two"' in shown[0]
