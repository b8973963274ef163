"""Findings and warnings of a descent, as sentences for its report."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.applications.descent.comparison_findings import (
    comparison_findings,
    damage_findings,
    rerun_findings,
    retrieval_findings,
    schedule_findings,
)
from engine.applications.descent.source_shares import source_findings
from engine.recipes.descent import OuterUpdate
from engine.reports.units import measures, write_measure, write_number, write_percent
from engine.stages.monitoring import alarm

if TYPE_CHECKING:
    from engine.applications.descent.record import RunRecord

NOTICEABLE = 0.01
"""Relative change of a loss below which nothing is made of it."""


_TOLD = 3
"""Metrics that a sentence has room for; tables have all."""

TELLING = 0.0005
"""Relative change of a loss that is 0.0 % in the digits of a sentence."""


def rose(before: float, after: float) -> bool:
    """Say whether a loss rose by more than chance and rounding would explain."""
    return after > before * (1 + NOTICEABLE)


def headline(record: "RunRecord") -> str:
    """Return the test loss of the chosen iterate in a sentence, or that no iterate is better."""
    return findings(record)[1 if record.chosen else 0]


def findings(record: "RunRecord") -> list[str]:
    """Say which iterate was chosen, what it changed, and how it compares."""
    last, uphill = len(record.iterates) - 1, record.recipe.outer.maximize
    by, highest = record.recipe.outer.choose_by, record.recipe.outer.chooses_highest
    if record.chosen:
        sentences = [
            f"Outer step {record.chosen} of {last} was chosen: its validation {by} is the "
            f"{'highest' if highest else 'lowest'}.",
            _change(record, "test"),
            _change(record, "validation"),
        ]
    else:
        kept = record.iterates[0].scores
        steps = f"none of the {last} outer steps" if last > 1 else "the outer step did not"
        one, many = ("raise", "raised") if highest else ("lower", "lowered")
        lowered = many if last > 1 else one
        sentences = [
            f"Nothing {'changed' if uphill else 'improved'}: {steps} {lowered} the validation {by} "
            f"of {write_measure(by, kept['validation'][by])}, so the initial set-up was kept.",
            f"Its test loss is {write_number(kept['test']['loss'])}{_measured(kept['test'])}.",
        ]
    if record.chosen == last:
        sentences.append(
            f"The validation {by} was still {'rising' if highest else 'falling'} there: with a "
            f"larger outer.num_steps (now {record.recipe.outer.num_steps}) the run goes on from "
            "that step."
        )
    return [
        *sentences,
        *_selection_findings(record),
        *source_findings(record.sources),
        *damage_findings(record),
        *comparison_findings(record),
        *retrieval_findings(record),
        *rerun_findings(record),
        *schedule_findings(record),
    ]


def _change(record: "RunRecord", split: str) -> str:
    scores = record.before_and_after(split)
    before, after = scores["before"], scores["after"]
    old, new = write_number(before["loss"]), write_number(after["loss"])
    share = abs(after["loss"] / before["loss"] - 1) if before["loss"] else None
    if old == new:
        sentence = f"{split.capitalize()} loss stayed at {old}"
    elif share is not None and share < TELLING:
        sentence = f"{split.capitalize()} loss hardly changed: {old} before, {new} after"
    else:
        verb = "fell" if after["loss"] < before["loss"] else "rose"
        by = "" if share is None else f" by {write_percent(share)},"
        sentence = f"{split.capitalize()} loss {verb}{by} from {old} to {new}"
    return "; ".join([sentence, *_changes(before, after)]) + "."


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return a clause for each of the first metrics: its value before and after."""
    said = []
    for name, value in _metrics_in_sentences(before).items():
        old, new = write_measure(name, value), write_measure(name, after[name])
        verb = "rose" if after[name] > value else "fell"
        said.append(
            f"{name} stayed at {old}" if old == new else f"{name} {verb} from {old} to {new}"
        )
    return said


def _metrics_in_sentences(scores: Mapping[str, Any]) -> dict[str, float]:
    """Return metrics that stand in a sentence; captions to images have one of their own."""
    found = {name: value for name, value in measures(scores).items() if name != "text_to_image"}
    return dict(list(found.items())[:_TOLD])


def _measured(scores: Mapping[str, Any]) -> str:
    return "".join(
        f", its {n} {write_measure(n, value)}" for n, value in _metrics_in_sentences(scores).items()
    )


def _selection_findings(record: "RunRecord") -> list[str]:
    selection = record.selection
    if selection is None:
        return []
    sentences = []
    if record.chosen and selection.dropped:
        share = selection.dropped / selection.examples
        sentence = f"Dropped {selection.dropped} of {selection.examples} examples"
        if selection.corrupted:
            hit = selection.dropped_corrupted / selection.dropped
            base = selection.corrupted / selection.examples
            found, known = selection.dropped_corrupted, selection.corrupted
            sentence += f"; {found} of the {selection.dropped} ({write_percent(hit)}) had a wrong"
            sentence += (
                f" label, as {known} of all {selection.examples} ({write_percent(base)}) did"
            )
            if hit <= base:
                sentence += ", so dropping at random would do as well"
        else:
            sentence += f" ({write_percent(share)})"
        sentences.append(sentence + ".")
    elif record.chosen:
        sentences.append(f"Dropped none of the {selection.examples} examples.")
    if selection.auc is not None:
        sentences.append(
            "The first metagradient tells wrong labels from right ones with an AUC of "
            f"{selection.auc:.2f} (0.5 is chance)."
        )
    return sentences


def warnings(record: "RunRecord") -> list[str]:
    """Return warnings about the metagradients of a run and about its result."""
    found = [] if record.checks is None else record.checks.warnings()
    grown = alarm(record.growth)
    return [
        *found,
        *([grown] if grown else []),
        *_warnings(record),
    ]


def _warnings(record: "RunRecord") -> list[str]:
    objective, validation = record.losses["objective"], record.losses["validation"]
    if record.recipe.outer.maximize:
        return []  # an attack that over-fits is a weaker attack, which the test loss shows
    chosen, last = record.chosen, len(record.iterates) - 1
    outer = record.recipe.rule
    sizes = {
        name: record.recipe.arguments.get(f"num_{name}") for name in ("objective", "validation")
    }
    # Counts move by whole examples, so it is the number of moves that is too large.
    masked = outer.update is OuterUpdate.MASKED_SIGN
    length = "probability" if masked else "step_size"
    warnings = []
    if record.over_fitted:
        warnings.append(
            f"The descent over-fitted the objective split after outer step {chosen}: from there to "
            f"outer step {last} the objective fell from {write_number(objective[chosen])} to "
            f"{write_number(objective[last])}, but the validation loss rose from "
            f"{write_number(validation[chosen])} to {write_number(validation[last])}. "
            f"{_raise('objective', sizes)}"
        )
    elif rose(validation[chosen], validation[last]) and rose(objective[chosen], objective[last]):
        warnings.append(
            f"From outer step {chosen} to {last} the objective itself rose, from "
            f"{write_number(objective[chosen])} to {write_number(objective[last])}: "
            "the steps were too long, or the training is not smooth enough in z. "
            f"Lower outer.{length} (now {getattr(outer, length):g})."
        )
    elif len(set(objective)) == 1:
        warnings.append(
            f"The losses never changed: the steps were too short. Raise "
            f"outer.step_size (now {outer.step_size:g})."
        )
    test, by = record.before_and_after("test"), record.recipe.outer.choose_by
    before, after = test["before"][by], test["after"][by]
    if record.recipe.outer.chooses_highest:
        before, after = after, before
    if chosen and rose(before, after):
        warnings.append(
            "The gain on the validation split does not carry over to the test split: the choice "
            f"may be chance. {_raise('validation', sizes)}"
        )
    return warnings


def _raise(split: str, sizes: dict[str, int | None]) -> str:
    """Say how a split gets more examples: by an argument, where the problem has one."""
    if sizes[split] is None:
        return f"Give the {split} split more examples."
    return f"Raise arguments.num_{split} (now {sizes[split]})."
