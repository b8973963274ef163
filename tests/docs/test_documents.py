"""Notebooks run to their last cell, the reference is made, and links lead somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import engine

ROOT = Path(engine.__file__).parents[1]
DOCS = ROOT / "engine" / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.py"))
PAGES = sorted(DOCS.glob("*.md"))


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
    assert any("text/html" in each.get("data", {}) for each in outputs) or path.stem == "selection"
    assert any(each.get("name") == "stdout" for each in outputs)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    """To files of the project; what is elsewhere is not asked for."""
    found = re.findall(r"\]\((?!https?://)([^)#]*)(?:#[\w-]*)?\)", path.read_text())

    assert [each for each in found if each and not (path.parent / each).exists()] == []


def test_every_application_has_a_notebook():
    """A new one brings its own."""
    folders = {
        path.parent.name for path in (ROOT / "engine" / "applications").glob("*/__init__.py")
    }
    about = {
        "descent": {"selection", "mixture", "schedule", "distillation", "poisoning"},
        "smoothness": {"metasmoothness"},
    }

    wanted = [about.get(name, {name}) for name in folders - {"comparisons"}]
    assert set().union(*wanted) == {path.stem for path in NOTEBOOKS}


@pytest.mark.slow
def test_the_reference_is_made(tmp_path):
    """Of every public name, with its docstring."""
    pytest.importorskip("pdoc", reason="the reference needs pdoc")
    command = [sys.executable, "-m", "pdoc", "engine", "!engine[.].*", "-d", "google"]

    run = subprocess.run(
        [*command, "-o", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )

    assert run.returncode == 0, run.stderr
    page = (tmp_path / "engine.html").read_text()
    assert [name for name in engine.__all__ if f'id="{name}"' not in page] == []
