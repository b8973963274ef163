"""What people read of a finished run: plain sentences, figures, and one HTML file of both.

The file holds its figures and its style and refers to nothing outside, so that it can be mailed and
opened offline. Only what the record and the curves say is shown; nothing is computed again.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from engine.applications.descent.comparison_findings import (
    comparison_findings,
    damage_findings,
    file_notes,
    rerun_findings,
    retrieval_findings,
    schedule_findings,
)
from engine.applications.descent.figures import Curves, figures
from engine.applications.descent.record import RunRecord, rose
from engine.applications.descent.source_shares import source_findings
from engine.preflight.growth import GROWTH_LIMIT, WINDOW
from engine.recipes.descent import DescentRecipe, OuterUpdate
from engine.recipes.metaparameters import MetaparameterName, at_steps
from engine.recipes.problem_functions import arguments_of, find_function, is_shipped
from engine.recipes.settings import Settings
from engine.reports.page import as_source, templates
from engine.reports.units import write_duration, write_figure
from engine.stages.monitoring import alarm

if TYPE_CHECKING:
    from engine.applications.descent.shown_examples import ShownExample

__all__ = ["Curves", "figures", "render", "summary"]

TITLES = {
    MetaparameterName.COUNTS: "Example counts",
    MetaparameterName.WEIGHTS: "Example weights",
    MetaparameterName.LEARNING_RATE: "Learning rate",
    MetaparameterName.SCALARS: "Hyperparameters",
    MetaparameterName.GROUP_WEIGHTS: "Mixture",
    MetaparameterName.INPUTS: "Changed inputs",
    MetaparameterName.INITIAL_PARAMETERS: "Initial parameters",
}


def summary(record: RunRecord) -> list[str]:
    """Say in plain sentences what a run achieved, and what a reader should be wary of."""
    return [*_findings(record), *_trust(record), *_warnings(record), *file_notes(record)]


def render(
    record: RunRecord,
    images: dict[str, bytes],
    examples: "Mapping[str, Sequence[ShownExample]] | None" = None,
) -> str:
    """Write the report of a run as one HTML file that needs no network.

    Args:
        record: What is reported.
        images: PNG images by the names that ``figures`` gives them; those missing are left out.
        examples: Training candidates to look at, by the words for them.
    """
    pages = templates()
    pages.filters.update(
        number=_number, percent=_percent, figure=write_figure, duration=write_duration
    )
    return pages.get_template("report.html").render(
        record=record,
        recipe=record.recipe,
        started=f"{datetime.fromisoformat(record.started):%Y-%m-%d %H:%M} UTC",
        findings=_findings(record),
        warnings=[*_trust(record), *_warnings(record)],
        checks=[] if record.checks is None else record.checks.checks,
        has_accuracy="accuracy" in record.iterates[0].scores["test"],
        images={name: as_source(image) for name, image in images.items()},
        captions=_captions(record),
        examples=examples or {},
        marked=any(each.wrong for shown in (examples or {}).values() for each in shown),
        metaparameters=TITLES[record.recipe.metaparameters.name],
        settings=[row for row in _settings(record.recipe) if row[0] != "description"],
    )


def _findings(record: RunRecord) -> list[str]:
    last, uphill = len(record.iterates) - 1, record.recipe.outer.maximize
    if record.chosen:
        sentences = [
            f"Outer step {record.chosen} of {last} was chosen: its validation loss is the "
            f"{'highest' if uphill else 'lowest'}.",
            _change(record, "test"),
            _change(record, "validation"),
        ]
    else:
        kept = record.iterates[0].scores
        steps = f"none of the {last} outer steps" if last > 1 else "the outer step did not"
        one, many = ("raise", "raised") if uphill else ("lower", "lowered")
        lowered = many if last > 1 else one
        sentences = [
            f"Nothing {'changed' if uphill else 'improved'}: {steps} {lowered} the validation loss "
            f"of {_number(kept['validation']['loss'])}, so the initial set-up was kept.",
            f"Its test loss is {_number(kept['test']['loss'])}{_accuracy(kept['test'])}.",
        ]
    if record.chosen == last:
        sentences.append(
            f"The validation loss was still {'rising' if uphill else 'falling'} there: with a "
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


def _change(record: RunRecord, split: str) -> str:
    scores = record.before_and_after(split)
    before, after = scores["before"], scores["after"]
    old, new = _number(before["loss"]), _number(after["loss"])
    if old == new:
        sentence = f"{split.capitalize()} loss stayed at {old}"
    else:
        verb = "fell" if after["loss"] < before["loss"] else "rose"
        share = abs(after["loss"] / before["loss"] - 1) if before["loss"] else None
        by = "" if share is None else f" by {_percent(share)},"
        sentence = f"{split.capitalize()} loss {verb}{by} from {old} to {new}"
    if "accuracy" not in before:
        return sentence + "."
    old, new = _percent(before["accuracy"], 1), _percent(after["accuracy"], 1)
    if old == new:
        return f"{sentence}; accuracy stayed at {old}."
    verb = "rose" if after["accuracy"] > before["accuracy"] else "fell"
    return f"{sentence}; accuracy {verb} from {old} to {new}."


def _accuracy(scores: dict[str, float]) -> str:
    return f", its accuracy {_percent(scores['accuracy'], 1)}" if "accuracy" in scores else ""


def _selection_findings(record: RunRecord) -> list[str]:
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
            sentence += (
                f"; {selection.dropped_corrupted} of the {selection.dropped} ({_percent(hit)}) had "
                f"a wrong label, as {selection.corrupted} of all {selection.examples} "
                f"({_percent(base)}) did"
            )
            if hit <= base:
                sentence += ", so dropping at random would do as well"
        else:
            sentence += f" ({_percent(share)})"
        sentences.append(sentence + ".")
    elif record.chosen:
        sentences.append(f"Dropped none of the {selection.examples} examples.")
    if selection.auc is not None:
        sentences.append(
            "The first metagradient tells wrong labels from right ones with an AUC of "
            f"{selection.auc:.2f} (0.5 is chance)."
        )
    return sentences


def _trust(record: RunRecord) -> list[str]:
    """Say what speaks against the metagradients of a run."""
    found = [] if record.checks is None else record.checks.sentences()
    grown = alarm(record.growth)
    return [*(f"Preflight, {sentence}" for sentence in found), *([grown] if grown else [])]


def _warnings(record: RunRecord) -> list[str]:
    objective, validation = record.losses["objective"], record.losses["validation"]
    if record.recipe.outer.maximize:
        return []  # an attack that over-fits is a weaker attack, which the test loss shows
    chosen, last = record.chosen, len(record.iterates) - 1
    outer = record.recipe.outer
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
            f"outer step {last} the objective fell from {_number(objective[chosen])} to "
            f"{_number(objective[last])}, but the validation loss rose from "
            f"{_number(validation[chosen])} to {_number(validation[last])}. "
            f"{_raise('objective', sizes)}"
        )
    elif rose(validation[chosen], validation[last]) and rose(objective[chosen], objective[last]):
        warnings.append(
            f"From outer step {chosen} to {last} the objective itself rose, from "
            f"{_number(objective[chosen])} to {_number(objective[last])}: "
            "the steps were too long, or the training is not smooth enough in z. "
            f"Lower outer.{length} (now {getattr(outer, length):g})."
        )
    elif len(set(objective)) == 1:
        warnings.append(
            f"The losses never changed: the steps were too short. Raise "
            f"outer.step_size (now {outer.step_size:g})."
        )
    test = record.before_and_after("test")
    if chosen and rose(test["before"]["loss"], test["after"]["loss"]):
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


def _captions(record: RunRecord) -> dict[str, str]:
    recipe = record.recipe
    training = (
        "Above: loss of each training step on its own batch; where steps are many, the thick line "
        "is the mean over its neighbours. A run on other examples or weights has another training "
        "loss, so lower is not better by itself. Below: size of the adjoint, the derivative of the "
        "objective by the state, as the first reverse sweep found it; growth by many powers of ten "
        "towards step 0 means that the training is not smooth."
    )
    if recipe.metaparameters.name is MetaparameterName.COUNTS:
        training += f" Counts enter at {at_steps(recipe.injection_steps)}"
        training += (
            ", so the sweep ends there."
            if len(recipe.injection_steps) == 1
            else (", and the sweep ends at the first.")
        )
    kept = recipe.metaparameters.kept
    start = "every one is 1" if kept == 1 else f"a random {_percent(kept)} are 1, the others 0"
    values = f"Examples by their {{}} at the chosen iterate; at the start {start}."
    shown = {
        MetaparameterName.COUNTS: values.format("count in an epoch"),
        MetaparameterName.WEIGHTS: values.format("weight in the training loss"),
        MetaparameterName.LEARNING_RATE: "Learning rate of each step; the dots are the key points.",
        MetaparameterName.SCALARS: "Numbers that hold for the whole run.",
        MetaparameterName.GROUP_WEIGHTS: "Share of each group in the training loss.",
        MetaparameterName.INPUTS: "The changed images that carry most of the damage, with their "
        "label and their part of the rise of the objective.",
        MetaparameterName.INITIAL_PARAMETERS: "How far the descent moved the initial parameters.",
    }
    return {
        "classes": "Left: which changed images raise the objective, by label, measured by the "
        "metagradient along the path of their pixels. Right: on which test examples it shows.",
        "sources": "Share of each source in the training: of all counts or weights together.",
        "schedules": "Above: validation losses of the grid, and what the descent and Optuna reach. "
        "Below: the schedules with the lowest validation loss.",
        "comparison": "Test loss of the set-ups that were trained and scored in this run.",
        "sweep": "Above: size of the adjoint by parameter tensor and step, as the first reverse "
        "sweep found it. A row that is much brighter than the others is where training is "
        "sensitive. Below: how much of the metagradient each step contributes." + _growth(record),
        "losses": "Mean loss on three held-out splits. The objective is what the metagradient "
        "lowers, validation chooses the iterate, and test takes no part.",
        "metaparameters": shown[recipe.metaparameters.name],
        "training": training,
    }


def _growth(record: RunRecord) -> str:
    if not record.growth:
        return ""
    return (
        f" Backwards the adjoint grew {max(record.growth):.2f}-fold per step at most, over any "
        f"{WINDOW} steps of any outer step; from {GROWTH_LIMIT:g} on training counts as chaotic."
    )


def _settings(settings: Settings, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (dotted key, value, meaning) of every setting."""
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield from _settings(value, f"{prefix}{name}.")
        elif name == "arguments" and isinstance(settings, DescentRecipe):
            yield from _arguments(settings)
        else:
            plain = settings.model_dump(mode="json")[name]
            shown = "" if plain is None else str(plain).lower() if plain in (True, False) else plain
            yield prefix + name, str(shown), (field.description or "").replace("``", "")


def _number(value: float) -> str:
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.2e}"


def _percent(share: float, digits: int | None = None) -> str:
    if digits is None:
        digits = 0 if share >= 0.1 else 1
    return f"{100 * share:.{digits}f} %"


def _arguments(recipe: DescentRecipe) -> Iterator[tuple[str, str, str]]:
    """Yield the same of a problem's arguments; code of one's own is not loaded for a report."""
    if is_shipped(recipe.problem):
        function = find_function(recipe.problem, None)
        yield from _settings(arguments_of(function)(**recipe.arguments), "arguments.")
        return
    for name, value in recipe.arguments.items():
        yield f"arguments.{name}", "" if value is None else json.dumps(value), ""
