"""Notebooks run to their last cell, the reference is made, and links lead somewhere."""

import re
from pathlib import Path

import pytest

import engine

ROOT = Path(engine.__file__).parents[1]
DOCS = ROOT / "engine" / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.py"))
FOLDERS = ("engine", "flows", "tasks", "deployments", "tests")
PAGES = sorted([*ROOT.glob("*.md"), *(p for each in FOLDERS for p in (ROOT / each).rglob("*.md"))])


def cells(text):
    """Return kind and source of each cell of a script in the percent format."""
    for part in re.split(r"^# %%", text, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n")
        if head.strip() == "[markdown]":
            yield "markdown", re.sub(r"^# ?", "", body, flags=re.MULTILINE).strip()
        else:
            yield "code", body.strip()


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_its_first_cell_to_its_last(path, tmp_path):
    """In a kernel of Jupyter, as whoever opens it has; its last cell asserts what it says."""
    nbformat = pytest.importorskip("nbformat", reason="notebooks need nbformat")
    nbclient = pytest.importorskip("nbclient", reason="notebooks need nbclient")
    pytest.importorskip("ipykernel", reason="notebooks need ipykernel")
    made = nbformat.v4.new_notebook()
    for kind, source in cells(path.read_text()):
        new = nbformat.v4.new_markdown_cell if kind == "markdown" else nbformat.v4.new_code_cell
        made.cells.append(new(source))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("IPYTHONDIR", str(tmp_path))
        nbclient.NotebookClient(
            made, timeout=240, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
        ).execute()

    outputs = [each for cell in made.cells for each in cell.get("outputs", ())]
    assert any("text/html" in each.get("data", {}) for each in outputs)
    assert any(each.get("name") == "stdout" for each in outputs)


def anchors(text):
    """Return the anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def links(text):
    """Return file and heading of each link of a page that leads into the project."""
    return re.findall(r"\]\((?!https?://)([^)#]*)(?:#([\w-]*))?\)", text)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    """To files of the project and their headings; what is elsewhere is not asked for."""
    dead = []
    for place, anchor in links(path.read_text()):
        page = path.parent / place if place else path
        if not page.exists() or (anchor and anchor not in anchors(page.read_text())):
            dead.append(f"{place}#{anchor}")

    assert dead == []


def test_links_of_a_page_are_found():
    """A pattern that finds none would pass every page."""
    assert links("[a](b.md#c-d), ![e](f.png), [g](#h), [i](https://j.org/k)") == [
        *(("b.md", "c-d"), ("f.png", ""), ("", "h")),
    ]
    assert len(links((ROOT / "README.md").read_text())) > 10
