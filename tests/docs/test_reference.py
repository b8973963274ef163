"""The reference of the library, built by the command that its README says."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import engine

ROOT = Path(engine.__file__).parents[1]

pytestmark = pytest.mark.slow


def test_the_reference_shows_every_public_name_and_leads_nowhere_else(tmp_path):
    """Types of settings were shown with pydantic's notes, and its mark as their default."""
    pytest.importorskip("pdoc", reason="pip install pdoc")
    (command,) = re.findall(r"^`(pdoc engine .*?)`", (ROOT / "engine/README.md").read_text(), re.M)

    # As a module: the tests may run without the environment's `bin` folder on the path.
    words = [sys.executable, "-m", *shlex.split(command), "-o", str(tmp_path)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True)

    page = (tmp_path / "engine.html").read_text()
    assert not [name for name in engine.__all__ if f'id="{name}"' not in page]
    assert not re.findall(r"FieldInfo|PydanticUndefined|object at 0x", page)
    there = set(re.findall(r'id="([^"]+)"', page))
    assert not [place for place in re.findall(r'href="#([^"]+)"', page) if place not in there]
    # Signatures were cut at the right, on a phone all of them.
    assert re.search(r"overflow-wrap:\s*anywhere", page)
