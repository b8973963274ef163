"""The configuration of a model of transformers: what its parameters do not say of its function.

The activation, the epsilon of a normalization or the base of rotary positions stand in a file
beside the weights, and an edit of it is another model with the same parameters.
"""

import hashlib
import json
from typing import Any

from torch import nn

from engine.problems.identity.names import CONFIGURATION


def configurations_of(model: nn.Module) -> dict[str, str]:
    """Return a digest of all configurations that a model's modules hold, by its name if there are.

    Where a model was read from, and the version that wrote it, are left out.
    """
    held = {id(each): each for m in model.modules() if _is_of_transformers(each := _config(m))}
    shown = sorted(
        {
            json.dumps(_counted(config.to_dict()), sort_keys=True, default=str)
            for config in held.values()
        }
    )
    return {CONFIGURATION: hashlib.sha256("\n".join(shown).encode()).hexdigest()} if shown else {}


def _config(module: nn.Module) -> Any:  # noqa: ANN401 (any attribute)
    return vars(module).get("config")


def _is_of_transformers(config: object) -> bool:
    return any(
        each.__module__.partition(".")[0] == "transformers" for each in type(config).__mro__
    ) and hasattr(config, "to_dict")


def _counted(content: Any) -> Any:  # noqa: ANN401 (JSON)
    if isinstance(content, dict):
        return {
            str(name): _counted(value)
            for name, value in content.items()
            if not str(name).startswith("_") and name != "transformers_version"
        }
    return content
