"""The examples in the documents run as they stand, each in a process and a folder of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "engine/README.md")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def examples():
    """Yield (document:line, code) of each Python block; a missing document has none."""
    for name in filter(lambda name: (ROOT / name).exists(), DOCUMENTS):
        text = (ROOT / name).read_text()
        for block in BLOCK.finditer(text):
            line = text.count("\n", 0, block.start()) + 1
            yield pytest.param(block[1], id=f"{name}:{line}")


@pytest.mark.slow
@pytest.mark.parametrize("code", list(examples()))
def test_example_runs(code, tmp_path):
    """The first thing that a reader tries is pasted into a file, and must end without an error."""
    script = tmp_path / "example.py"
    script.write_text(code)

    run = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_has_an_example(name):
    """Without this a typing error in the fence would leave nothing to run, and pass."""
    assert BLOCK.search((ROOT / name).read_text())


@pytest.mark.slow
def test_first_example_prints_what_the_readme_says(tmp_path):
    """It is the first claim that a reader can try; another machine may round one rank away."""
    readme = (ROOT / "README.md").read_text()
    (said,) = re.findall(r"It prints `(\d+) of the 20 \.\.\.`, .* and `pass`", readme)
    script = tmp_path / "example.py"
    script.write_text(BLOCK.findall(readme)[0])

    run = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=True
    )

    number, verdict = re.match(r"(\d+) of the 20 .*\n(\w+)\n$", run.stdout).groups()
    assert abs(int(number) - int(said)) <= 1
    assert verdict == "pass"
