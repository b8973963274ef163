"""What ``deployments/README.md`` tells people to type exists, as far as that can be seen here."""

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

from engine.recipes.files import list_recipes
from tests.deployments.targets import TEMPLATES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "deployments" / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = "".join(BLOCKS).replace("\\\n", " ")


@pytest.mark.parametrize("block", BLOCKS)
def test_block_is_a_shell_script(block):
    """A quote that is never closed leaves the reader at a prompt that does not answer."""
    parsed = subprocess.run(
        ["bash", "-n"], input=block, capture_output=True, text=True, check=False
    )

    assert parsed.returncode == 0, parsed.stderr


@pytest.mark.parametrize("module", sorted(set(re.findall(r"python -m (deployments\.\w+)", TEXT))))
def test_script_exists(module):
    """Scripts are renamed more often than documents."""
    assert importlib.util.find_spec(module)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(re.findall(r"'descent/([\w-]+)'", COMMANDS))))
def test_deployment_exists(name):
    """A command about a deployment that is not there ends in an error that names no remedy."""
    assert name in list_recipes()


@pytest.mark.parametrize("path", sorted(set(re.findall(r"deployments/[\w./-]*\w", COMMANDS))))
def test_file_exists(path):
    """A path is typed from the root; ``.env`` alone is made by following the document."""
    assert (ROOT / path.removesuffix(".env")).exists()


@pytest.mark.parametrize("kind", TEMPLATES)
def test_every_pool_is_told_of(kind):
    """Who has such machines finds how to start a worker there."""
    assert f"prefect worker start --pool mgd-{kind}" in TEXT


@pytest.mark.parametrize(
    "command", re.findall(r"^.*prefect (?:--no-prompt )?(?:worker|server) start.*$", COMMANDS, re.M)
)
def test_what_stays_stands_in_a_folder_that_nobody_else_can_write_to(command):
    """Prefect's own commands obey settings of their working folder, which may be a clone."""
    assert command.startswith("cd / && ")


@pytest.mark.parametrize("command", re.findall(r"^.*prefect .*server start.*$", COMMANDS, re.M))
def test_the_server_asks_nothing(command):
    """It asks for a profile first where there is none, and sends all later commands to itself."""
    assert "prefect --no-prompt server start" in command


def test_every_extra_that_is_installed_exists():
    """Pip only warns of an unknown extra, and the worker then asks for a package."""
    project = (ROOT / "pyproject.toml").read_text()

    extras = set(re.findall(r"-e '\.\[(\w+)\]'", TEXT))

    assert extras
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras)
