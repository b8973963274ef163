"""Option groups as the options of a command."""

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from rich.text import Text
from typer.testing import CliRunner

from engine.errors import ConfigurationError
from flows.cli.commands.declaring import command
from flows.cli.options import OptionGroup, OutputOptions


@dataclass(frozen=True, kw_only=True)
class Size(OptionGroup):
    """An option that has to be given, and one that has a default."""

    width: Annotated[int, typer.Option("--width", "-w")]
    height: Annotated[int, typer.Option(help="Of the picture.")] = 3


def invoke(body, *words):
    """Run a function as the only command of an application."""
    app = typer.Typer()
    app.command()(command(body))
    return CliRunner().invoke(app, words)


def test_a_group_is_filled_from_its_options():
    """Beside parameters that are no group; short names and defaults are those of the fields."""
    got = []

    def draw(
        name: Annotated[str, typer.Argument()] = "sky", *, size: Size, output: OutputOptions
    ) -> None:
        got.append((name, size, output))

    assert invoke(draw, "-w", "5", "--json").exit_code == 0
    assert invoke(draw, "sea", "--height", "7", "--width", "2", "-q", "--debug").exit_code == 0

    assert got == [
        ("sky", Size(width=5, height=3), OutputOptions(as_json=True)),
        ("sea", Size(width=2, height=7), OutputOptions(quiet=True, debug=True)),
    ]


def test_an_option_without_a_default_has_to_be_given():
    """Its field has none either, so the command would fail later and say less."""

    def draw(size: Size) -> None:
        raise AssertionError(size)

    found = invoke(draw)

    assert found.exit_code == 2
    assert "--width" in Text.from_ansi(found.output).plain


@pytest.mark.parametrize("words", [(), ("--debug",)])
def test_an_error_is_one_message_unless_debug_is_given(words):
    """Also where the function takes no group and is never told of ``--debug``."""

    def draw() -> None:
        raise ConfigurationError("There is no paper. Buy some.")

    found = invoke(draw, *words)

    if words:
        assert isinstance(found.exception, ConfigurationError)
    else:
        assert (found.exit_code, found.output.strip()) == (2, "There is no paper. Buy some.")


def test_two_options_of_one_name_are_refused():
    """The second would silently take the place of the first."""

    def draw(width: int = 1, *, size: Size) -> None:
        raise AssertionError(width, size)

    with pytest.raises(TypeError, match="Two options of draw have the same name"):
        command(draw)
