"""How to install what only some runs need. The project is used from a clone of it."""


def how_to_install(extra: str) -> str:
    """Return the command that installs an extra, and where it is to be typed."""
    return f"In the folder of the clone: pip install -e '.[{extra}]'"
