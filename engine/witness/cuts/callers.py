"""Who called torch: the lines of the user's code."""

import os
import sys

from engine.witness.lines import NOT_THE_USERS

Place = tuple[tuple[str, int], ...]
"""Files of the user's code and lines of them: that which called torch, and those that led there."""

Origins = frozenset[Place]
"""The places from which a number comes."""

_ENGINE, _TORCH = (f"{folder}{os.sep}" for folder in NOT_THE_USERS)
_BETWEEN = (
    f"{_ENGINE}torch_modes.py",
    f"{_ENGINE}{os.path.join('routine', 'module', 'backward', 'own_derivative.py')}",
)
"""Files of the engine that stand between the user's code and torch."""
_NOBODYS = ("<frozen", "<@")
"""Beginnings of what stands for a file where Python or a check of types made the code."""


def calling_place() -> Place:
    """Return the lines of the user's code that led to torch; none if the engine called it."""
    frame, is_engines = sys._getframe(1), False
    found: list[tuple[str, int]] = []
    while frame is not None and not (found and is_engines):
        file = frame.f_code.co_filename
        if file in _BETWEEN:
            is_engines = False
        elif file.startswith(_ENGINE):
            is_engines = True
        elif not file.startswith((_TORCH, *_NOBODYS)):
            if is_engines:
                return ()
            found.append((file, frame.f_lineno))
        frame = frame.f_back
    return tuple(found)
