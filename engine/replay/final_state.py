"""The state that a training ends with, as people are given it."""

from collections import OrderedDict
from typing import Any

from torch import Tensor

from engine.shown.html import pairs_html
from engine.shown.line import shown_tensor, shown_value


class FinalState(dict[str, Tensor]):
    """s_T: flat vectors by name, which show themselves in one line.

    ``routine.model_at(state)`` is the trained model. Saved or copied, it is an ``OrderedDict``,
    so that ``torch.load`` reads it without the engine.
    """

    def __repr__(self) -> str:
        return f"FinalState({shown_value(self)})"

    def _repr_html_(self) -> str:
        """Return sizes and ranges as a table, for a notebook."""
        rows = {name: shown_tensor(row) for name, row in self.items()}
        return pairs_html("FinalState", rows, ["routine.model_at(state) is the trained model."])

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, (), None, None, iter(self.items())
