"""Share of each source of texts in training, before and after a descent."""

import torch
from torch import Tensor

from engine.problems.passage import Texts
from engine.recipes.metaparameters import GroupName, MetaparametersSettings
from engine.recipes.settings import Document


class SourceShare(Document):
    """One corpus and how much of the training it is."""

    name: str
    """Name of the corpus."""

    candidates: int
    """Training candidates from it."""

    before: float
    """Its share of all counts or weights at z_0."""

    after: float
    """The same at the chosen z."""

    dropped: int | None
    """Its candidates that are not used at the chosen z; None for mixtures."""


def measure_sources(
    settings: MetaparametersSettings, texts: Texts | None, before: Tensor, after: Tensor
) -> list[SourceShare]:
    """Return the share of each source, in the order of their names; none without sources.

    Args:
        settings: What z is.
        texts: The candidates; None for data without sources.
        before: z_0.
        after: z of the chosen iterate.
    """
    if texts is None:
        return []
    candidates = torch.bincount(torch.tensor(texts.source_of), minlength=len(texts.sources))
    if settings.about.selects_examples:
        shares = [_totals(texts, value) for value in (before, after)]
        dropped = _totals(texts, (after == 0).double()).round().long().tolist()
    elif settings.about.weighs_groups and settings.groups == GroupName.SOURCE:
        shares = [value.double().softmax(0) for value in (before, after)]
        dropped = [None] * len(texts.sources)
    else:
        return []
    old, new = ((each / each.sum()).tolist() for each in shares)
    return [
        SourceShare(name=name, candidates=n, before=b, after=a, dropped=d)
        for name, n, b, a, d in zip(
            texts.sources, candidates.tolist(), old, new, dropped, strict=True
        )
    ]


def source_findings(shares: list[SourceShare]) -> list[str]:
    """Say which source grew and which shrank most."""
    if len(shares) < 2 or all(each.before == each.after for each in shares):
        return []
    most = max(shares, key=lambda each: each.after - each.before)
    least = min(shares, key=lambda each: each.after - each.before)
    if all(f"{each.before:.0%}" == f"{each.after:.0%}" for each in (most, least)):
        return ["The shares of the sources stay as they were, to within a percent."]
    return [
        f"Training moves to the source {most.name}: its share rises from {100 * most.before:.0f} % "
        f"to {100 * most.after:.0f} %; {least.name} falls most, from {100 * least.before:.0f} % to "
        f"{100 * least.after:.0f} %."
    ]


def _totals(texts: Texts, value: Tensor) -> Tensor:
    """Sum a value over the candidates of each source."""
    groups = torch.tensor(texts.source_of)
    return torch.bincount(groups, weights=value.double(), minlength=len(texts.sources))
