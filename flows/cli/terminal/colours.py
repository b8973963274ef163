"""Colours that can be read on light ground and on dark ground alike.

Yellow, cyan and the terminal's green are hardly seen on white. What a colour says stands there in
words as well, so nothing is lost without any (``NO_COLOR``).
"""

PASS, WARN, REFUSE = "green4", "dark_orange3", "red3"
"""Of a verdict; its contrast is at least 3.5 on white and on black."""

OF_HELP = {
    "STYLE_OPTION": "bold",
    "STYLE_SWITCH": "bold",
    "STYLE_COMMANDS_TABLE_FIRST_COLUMN": "bold",
    "STYLE_TYPES": "",
    "STYLE_USAGE": "bold",
    "STYLE_OPTION_ENVVAR": "dim",
}
"""Names of Typer's styles to ours."""


def use_in_help() -> None:
    """Let Typer write the pages of ``--help`` in such colours, for the rest of the process."""
    from typer import rich_utils  # takes longer to load than completing a word may

    for name, style in OF_HELP.items():
        setattr(rich_utils, name, style)  # Typer reads them where it writes
