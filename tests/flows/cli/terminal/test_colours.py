"""Colours of the terminal: none that cannot be seen on white, or on black."""

import os
import subprocess
import sys

import pytest
from rich.color import Color

from flows.cli.terminal.colours import OF_HELP, PASS, REFUSE, WARN


def light(colour):
    """Return the relative luminance of a colour, as the guidelines for web pages define it."""
    parts = [part / 255 for part in colour]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("colour", [PASS, WARN, REFUSE])
def test_a_verdict_can_be_read_on_light_and_on_dark_ground(colour):
    """Yellow on white has a contrast of 1.6."""
    own = light(Color.parse(colour).get_truecolor())

    assert 1.05 / (own + 0.05) >= 3.5
    assert (own + 0.05) / 0.05 >= 3.5


def test_help_has_no_colour_that_is_lost_on_white():
    """Names of options and their types were cyan and yellow."""
    command = [sys.executable, "-m", "flows.cli.app", "check", "--help"]
    own = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment = {**own, "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)

    assert "\x1b[1m" in shown.stdout
    assert [code for code in (32, 33, 36, 37) if f"{code}m" in shown.stdout] == []


def test_the_styles_are_typers():
    """Of another name, nothing would come of them."""
    from typer import rich_utils

    assert [name for name in OF_HELP if name not in vars(rich_utils)] == []
