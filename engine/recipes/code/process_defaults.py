"""Defaults of torch for the whole process, which a problem's file must not change.

Other runs compute in the same process, and a worker that has loaded one more file would compute
with other numbers. Torch is asked only where a user has imported it already.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.errors import ConfigurationError

_REMEDIES = {
    "set_default_dtype": "training.dtype says it, and the function is called with it as default",
    "set_default_device": "examples and model are made on the CPU, and training.device moves them",
    "set_grad_enabled": "the engine asks for graphs where it needs them",
}


@contextmanager
def defaults_kept(what: str) -> Iterator[None]:
    """Refuse code in the block that changes defaults of the process, and restore them.

    Args:
        what: Says whose code it is, for the message.

    Raises:
        ConfigurationError: Names the call, and what to do instead.
    """
    before = _defaults()
    with folder_kept(what):
        yield
    for name, value in _defaults().items():
        if value != before[name]:
            torch: Any = sys.modules["torch"]
            was = {"float32": torch.float32, "cpu": None}.get(before[name], before[name])
            getattr(torch, name)(was)
            raise ConfigurationError(
                f"{what} calls torch.{name} with {value} while it is loaded, which holds for all "
                f"other runs of the process too. Leave it out: {_REMEDIES[name]}."
            )


@contextmanager
def folder_kept(what: str) -> Iterator[None]:
    """Refuse code in the block that changes the working folder of the process, and restore it.

    Args:
        what: Says whose code it is, for the message.

    Raises:
        ConfigurationError: If it is refused; says what to do instead.
    """
    before = Path.cwd()
    try:
        yield
    finally:
        after = Path.cwd()
        os.chdir(before)
    if after != before:
        raise ConfigurationError(
            f"{what} calls os.chdir and moves the process to {after}, where all other relative "
            "paths, such as that of the store, would then be looked for. Leave it out: a file "
            "beside the problem's is Path(__file__).with_name('rows.csv')."
        )


def _defaults() -> dict[str, Any]:
    torch: Any = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_default_device"):
        return {"set_default_dtype": "float32", "set_default_device": "cpu",
                "set_grad_enabled": True}  # fmt: skip
    dtype, device = torch.get_default_dtype(), str(torch.get_default_device())
    return {
        "set_default_dtype": "float32" if dtype == torch.float32 else dtype,
        "set_default_device": device,
        "set_grad_enabled": torch.is_grad_enabled(),
    }
