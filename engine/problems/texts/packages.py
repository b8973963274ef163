"""The packages of the extra ``lm``, imported when they are needed."""

from importlib import import_module
from typing import Any

from engine.errors import ConfigurationError
from engine.extras import install


def extra(name: str) -> Any:  # noqa: ANN401 (a module)
    """Import a package of the extra.

    Raises:
        ConfigurationError: If it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ConfigurationError(
            f"Texts for a language model need the package {name}, and it is not installed. "
            f"Run: {install('lm')}."
        ) from error
