"""Charts of a kind of metaparameter: numbers and the form of the chart, without drawing it.

``engine.applications.descent.charts`` draws each form.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class OfExamples:
    """One number for each training candidate, counted; those with a wrong label apart.

    Attributes:
        values: Shape (examples,).
        label: What the numbers are, with their unit.
        whole: Whether they are whole numbers.
    """

    values: Tensor
    label: str
    whole: bool = False


@dataclass(frozen=True)
class Histogram:
    """Many numbers, counted on a logarithmic axis.

    Attributes:
        values: Any shape.
        label: What the values are.
        counted: What there is of them: parameters, for example.
    """

    values: Tensor
    label: str
    counted: str


@dataclass(frozen=True)
class Line:
    """A number for each training step.

    Attributes:
        heights: Heights by step.
        dots: (step, height) of points that are marked.
    """

    heights: Sequence[float]
    dots: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Lines:
    """A line before and one after.

    Attributes:
        before: Line at the start.
        after: Line at the chosen iterate.
        label: What the heights are, with their unit.
    """

    before: Line
    after: Line
    label: str


@dataclass(frozen=True)
class Bars:
    """A bar for each of some numbered things, before and after.

    Attributes:
        before: Heights at the start, shape (things,).
        after: Heights at the chosen iterate, shape (things,).
        things: Name of what the bars stand for.
        label: What the heights are, with their unit.
    """

    before: Tensor
    after: Tensor
    things: str
    label: str


@dataclass(frozen=True)
class Panels:
    """Numbers by name, each in a panel of its own, since their units differ.

    Attributes:
        before: Numbers at the start.
        after: Numbers at the chosen iterate, with the same names.
    """

    before: dict[str, float]
    after: dict[str, float]


@dataclass(frozen=True)
class Pictures:
    """Pictures before and after, those that changed most.

    Attributes:
        before: Pictures at the start, shape (pictures, ...).
        after: Pictures at the chosen iterate, of the same shape.
    """

    before: Tensor
    after: Tensor


Chart = OfExamples | Histogram | Lines | Bars | Panels | Pictures
