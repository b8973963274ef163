"""Section of examples: dropped ones, kept ones, and surprising ones."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from engine.applications.descent.material import Material
from engine.applications.shown_examples import candidate, together
from engine.problems.data.splits import DataSet
from engine.reports.sections import Card, Section, Table
from engine.reports.units import write_small

SHOWN, SURPRISING = 12, 6
"""Examples of each kind."""


def section(run: Material) -> Section | None:
    """Return examples that were dropped and kept; none for what selects no examples."""
    about = run.record.recipe.metaparameters.about
    if not about.selects_examples:
        return None
    uphill = run.record.recipe.outer.maximize
    groups = shown_examples(run.data, run.curves.value, run.first_gradient, uphill=uphill)
    if not groups:
        return None
    note = (
        "A number is the derivative of the objective by "
        f"{'one more copy' if about.is_injected else 'the weight'} of the example, of the first "
        "metagradient: positive where more of it would "
        f"{'raise the objective, which this run maximizes' if uphill else 'hurt'}."
    )
    if not run.data.names and not run.data.texts:
        note += " The number after # is the id of selection.csv, beside this page."
    if run.data.true_labels is not None:
        note += (
            " Where its true label is known to be another one, that stands beside the given one."
        )
    if run.data.corrupted.any():
        note += " An orange frame marks one that is known to be wrong."
    return Section("Examples to look at", notes=[note], examples=groups)


def left_out(value: Tensor) -> tuple[Tensor, str, str]:
    """Return which candidates a selection leaves out, and the words for these and for the others.

    Args:
        value: Count or weight of each; of weights, what weighs less than the mean is left out.
    """
    if (value == value.round()).all():
        return value == 0, "dropped", "kept"
    return value < value.mean(), "weighs little", "weighs much"


def shown_examples(
    data: DataSet, value: Tensor, score: Tensor, *, uphill: bool = False
) -> Mapping[str, Sequence[Card] | Table]:
    """Return examples by the words for them; none if there is not one value for each.

    Args:
        data: Data whose training candidates are shown.
        value: Count or weight of each at the chosen iterate.
        score: First metagradient of each.
        uphill: Whether the objective is maximized, so that the run speaks for what raises it.
    """
    number = len(data.splits["train"])
    if len(value) != number or len(score) != number:
        return {}
    against_it = -score if uphill else score
    worst = torch.argsort(against_it, descending=True, stable=True)
    best = torch.argsort(against_it, stable=True)
    dropped, out, kept = left_out(value)
    known = bool(data.corrupted.any()) and not uphill  # an attack is free to keep what is wrong
    right, wrong = (~data.corrupted, data.corrupted) if known else (against_it < 0, against_it > 0)
    saying = "known to be {}" if known else "at the start the metagradient spoke {} it"
    for_it, against = ("right", "wrong") if known else ("for", "against")
    # What is known to be right surprises most where the run is surest that it harms. Where nothing
    # is known, the run itself surprises: most, where its first metagradient spoke loudest.
    if known:
        late, early = worst, best
    else:
        late, early = best, worst
    spoils, serves = ("lower", "raise") if uphill else ("raise", "lower")
    groups = {
        f"{out.capitalize()}: more of these would {spoils} the objective most": (
            [place for place in worst.tolist() if dropped[place]][:SHOWN]
        ),
        f"{kept.capitalize()}: more of these would {serves} the objective most": (
            [place for place in best.tolist() if not dropped[place]][:SHOWN]
        ),
        f"Surprising: {out}, although {saying.format(for_it)}": (
            [place for place in late.tolist() if dropped[place] and right[place]][:SURPRISING]
        ),
        f"Surprising: {kept}, although {saying.format(against)}": (
            [place for place in early.tolist() if not dropped[place] and wrong[place]][:SURPRISING]
        ),
    }
    return {
        words: together(
            [candidate(data, place) for place in places],
            [write_small(float(score[place])) for place in places],
            wrong=[bool(data.corrupted[place]) for place in places],
        )
        for words, places in groups.items()
        if places
    }
