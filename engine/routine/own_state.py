"""Vectors of the state that a problem keeps for itself: teachers, codebooks, hidden states.

They are one more flat vector of the state, stored, replayed and differentiated like the others. The
loss may read them, and only a pure function of the problem moves them.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import TreeSpec, keystr, tree_flatten_with_path, tree_unflatten

from engine.errors import ConfigurationError
from engine.metaparameters.base import constant
from engine.routine.layout import Layout

OWN = "own"
"""Name of the problem's own vector in a state."""

Own = dict[str, Any]
"""What a problem keeps, by its names: a tensor, or a dict of tensors, each."""


def takes(function: Any, name: str) -> bool:  # noqa: ANN401 (whatever is called)
    """Say whether a function has an argument of a name."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of a builtin, which says nothing about its arguments
        return False
    return any(each.name == name or each.kind is each.VAR_KEYWORD for each in parameters)


def told_state(function: Any, state: Own | None) -> dict[str, Own]:  # noqa: ANN401 (whatever is called)
    """Return the keyword by which a function is told the state, if it has an argument for it."""
    return {} if state is None or not takes(function, "state") else {"state": state}


@dataclass(frozen=True, eq=False)
class OwnState:
    """What a problem keeps, and how it moves.

    Attributes:
        given: What each name starts from: tensors, or a function of the parameters by name.
        advance: Maps (state, params, batch, step) to the next state.
        layout: Where each tensor lies in the flat vector.
        structure: Structure of what the problem calls its state.
    """

    given: Mapping[str, Any]
    advance: Callable[..., Any]
    layout: Layout
    structure: TreeSpec

    @classmethod
    def of(cls, given: Any, advance: Any, params: Mapping[str, Tensor]) -> "OwnState | None":  # noqa: ANN401 (whatever was handed in)
        """Return a problem's own state as given; None if it has none.

        Raises:
            ConfigurationError: If it is not tensors by name, or nothing moves it.
        """
        if given is None and advance is None:
            return None
        if not isinstance(given, Mapping) or not given or not callable(advance):
            raise ConfigurationError(
                f"state is a {type(given).__name__} and advance a {type(advance).__name__}. Hand "
                "in both: tensors by name, and a function that maps (state, params, batch, step) "
                "to the next state."
            )
        made = _first_state(given, params)
        leaves, structure = tree_flatten_with_path(made)
        for path, leaf in leaves:
            if not isinstance(leaf, Tensor):
                raise ConfigurationError(
                    f"state{keystr(path)} is a {type(leaf).__name__}. Keep tensors, or dicts of "
                    "tensors."
                )
        layout = Layout.of({keystr(path): leaf for path, leaf in leaves})
        return cls(given, advance, layout, structure)

    @property
    def wants_model(self) -> bool:
        """Say whether ``advance`` asks for the module as the loss saw it."""
        return takes(self.advance, "model")

    def initial(self, params: Mapping[str, Tensor]) -> Tensor:
        """Return the vector at step 0, given the parameters by name, shape (own,)."""
        return self.flatten(_first_state(self.given, params))

    def views(self, flat: Tensor) -> Own:
        """Return the state as the problem calls it, without a copy."""
        return tree_unflatten(list(self.layout.views(flat).values()), self.structure)

    def flatten(self, own: Any) -> Tensor:  # noqa: ANN401 (what advance returned)
        """Return the flat vector of a state.

        Raises:
            ConfigurationError: If it has other names or shapes than at the start.
        """
        leaves, structure = tree_flatten_with_path(own)
        found = {keystr(path): leaf for path, leaf in leaves}
        shapes = {n: tuple(getattr(leaf, "shape", ())) for n, leaf in found.items()}
        if structure != self.structure or shapes != self.layout.shapes:
            raise ConfigurationError(
                f"advance returned {shapes}, but the state is {self.layout.shapes}. Return the "
                "same names and shapes at every step."
            )
        return self.layout.flatten(found)


def _first_state(given: Mapping[str, Any], params: Mapping[str, Tensor]) -> Own:
    """Return the first state: constants where they were, functions called on the parameters."""
    device = next(iter(params.values())).device

    def constants(value: Any) -> Any:  # noqa: ANN401 (a tensor, or what holds some)
        if isinstance(value, Tensor):
            return constant(value).to(device)
        if isinstance(value, Mapping):
            return {name: constants(each) for name, each in value.items()}
        return value

    return {
        name: value(dict(params)) if _makes(value) else constants(value)
        for name, value in given.items()
    }


def _makes(value: Any) -> bool:  # noqa: ANN401 (a tensor, what holds some, or a function)
    return callable(value) and not isinstance(value, Tensor)
