"""Sentences on how a run compares with set-ups made without a metagradient."""

from typing import TYPE_CHECKING

from engine.extras import install
from engine.recipes.comparisons import SELECTIONS, BaselineName

if TYPE_CHECKING:
    from engine.applications.comparisons.results import Damage
    from engine.applications.descent.record import RunRecord


_LEAST = 0.05
"""Points of accuracy that are 0.0 in the digits of a sentence."""


def comparison_findings(record: "RunRecord") -> list[str]:
    """Say which baselines the chosen iterate beats on the test split, and which it does not."""
    if not record.baselines:
        return []
    uphill = record.recipe.outer.maximize
    own = record.iterates[record.chosen].scores["test"]
    beaten, others, idle = [], [], _idle(record)
    for each in record.baselines:
        if each.name in idle:
            continue
        theirs = each.scores["test"]
        wins = own["loss"] > theirs["loss"] if uphill else own["loss"] < theirs["loss"]
        (beaten if wins else others).append(f"{each.name} ({theirs['loss']:.4f})")
    side = "higher" if uphill else "lower"
    sentences = []
    found = f"{own['loss']:.4f}"
    if beaten:
        sentences.append(f"Its test loss of {found} is {side} than that of {_listed(beaten)}.")
    if others:
        sentences.append(f"Its test loss of {found} is not {side} than that of {_listed(others)}.")
    if idle:
        sentences.append(
            f"The baselines {_listed(idle)} leave out as many examples as the run did, and so "
            "none: they are the set-up that it began from, and say nothing more."
        )
    if uphill and "accuracy" in own:
        sentences.append(points(record))
    ahead = [
        f"{each.name} ({100 * each.scores['test']['accuracy']:.1f} %)"
        for each in record.baselines
        if each.name not in idle
        and "accuracy" in own
        and _further(each.scores["test"]["accuracy"], own["accuracy"], uphill)
    ]
    if ahead:
        sentences.append(
            f"In test accuracy ({100 * own['accuracy']:.1f} %) it stays behind {_listed(ahead)}."
        )
    return sentences


def _idle(record: "RunRecord") -> list[str]:
    """Return the selections among the baselines that select all examples, as weights let them."""
    first = record.iterates[0].scores
    selecting = {*SELECTIONS} - {BaselineName.ALL_DATA}
    return [
        each.name for each in record.baselines if each.name in selecting and each.scores == first
    ]


def points(record: "RunRecord") -> str:
    """Compare the fall of the accuracy with that under the most harmful baseline."""
    clean = record.iterates[0].scores["test"]["accuracy"]
    own = 100 * (clean - record.iterates[record.chosen].scores["test"]["accuracy"])
    falls = {
        each.name: 100 * (clean - each.scores["test"]["accuracy"]) for each in record.baselines
    }
    name = max(falls, key=lambda each: falls[each])
    if own < _LEAST and falls[name] < _LEAST:
        return f"Test accuracy does not fall, and it does not under {name} either."
    fall = f"falls by {own:.1f} points" if own >= _LEAST else "does not fall"
    other = f"by {falls[name]:.1f}" if falls[name] >= _LEAST else "not at all"
    sentence = f"Test accuracy {fall}, under {name} {other}"
    both = own >= _LEAST and falls[name] >= _LEAST
    return sentence + (f": {own / falls[name]:.1f} times as far." if both else ".")


def rerun_findings(record: "RunRecord") -> list[str]:
    """Say what the chosen set-up does by other routines, and which of those say nothing."""
    sentences = []
    for each in record.reruns:
        if each.before is None:
            sentences.append(f"With {each.name} the initial set-up diverges, so it says nothing.")
            continue
        if each.after is None:
            sentences.append(
                f"With {each.name} the chosen set-up diverges: that is a training that failed, and "
                "not counted as an effect of the set-up."
            )
            continue
        before, after = each.before["test"], each.after["test"]
        sentence = (
            f"With {each.name} test loss goes from {before['loss']:.4f} to {after['loss']:.4f}"
        )
        if "accuracy" in before:
            pair = (100 * before["accuracy"], 100 * after["accuracy"])
            sentence += f", accuracy from {pair[0]:.1f} % to {pair[1]:.1f} %"
        sentences.append(sentence + ".")
    return sentences


def schedule_findings(record: "RunRecord") -> list[str]:
    """Say where the chosen schedule stands in the grid, and beside Optuna."""
    own, sentences = record.iterates[record.chosen].scores, []
    loss = own["validation"]["loss"]
    if record.grid is not None:
        rank, size = record.grid.rank(loss), record.grid.trainings
        sentences.append(
            f"Among {size} one-cycle schedules the chosen one would be number {rank} by validation "
            f"loss (best {100 * rank / size:.1f} %): {loss:.4f}, and {record.grid.losses[0]:.4f} "
            f"for the grid's best; on the test split {own['test']['loss']:.4f} and "
            f"{record.grid.best['test']:.4f}."
        )
    if record.optuna is not None:
        theirs = record.optuna.best
        sentences.append(
            f"Optuna, with as many trainings ({record.optuna.trainings}) and no reverse sweep, "
            f"reaches {theirs['validation']:.4f} in validation and {theirs['test']:.4f} in test."
        )
    elif record.recipe.schedules.optuna:
        sentences.append(
            f"Optuna was not run, because it is not installed: {install('optuna')} and the same "
            "command add it."
        )
    return sentences


def _called(damage: "Damage") -> str:
    """Return the word for what was changed."""
    return "images" if damage.classes else "examples"


def damage_findings(record: "RunRecord") -> list[str]:
    """Say how few images and classes carry the damage."""
    damage = record.damage
    if damage is None or damage.rise <= 0:
        return []
    half, total, parts = 0, 0.0, [image.damage for image in damage.images]
    while half < len(parts) and total < damage.rise / 2:
        total += parts[half]
        half += 1
    few = (
        f"{half} of the {len(parts)} changed {_called(damage)} carry half of the rise of the "
        "objective"
    )
    if not damage.classes:
        return [f"{few}."]
    worst = max(damage.classes, key=lambda name: damage.classes[name])
    hurt = max(damage.victims, key=lambda name: damage.victims[name][0] - damage.victims[name][1])
    before, after = damage.victims[hurt]
    falls = round(100 * before, 1) > round(100 * after, 1)  # as it is written
    suffers = (
        f"Class {hurt} suffers most: its test accuracy falls from {100 * before:.1f} % to "
        f"{100 * after:.1f} %."
        if falls
        else "No class has a lower test accuracy for it."
    )
    return [
        f"{few}; those of class {worst} carry most.",
        suffers,
    ]


def retrieval_findings(record: "RunRecord") -> list[str]:
    """Say how well captions find images, for pairs; ``accuracy`` is the other way round."""
    test = record.before_and_after("test")
    if "text_to_image" not in test["before"]:
        return []
    before, after = (100 * test[name]["text_to_image"] for name in ("before", "after"))
    others = ", ".join(
        f"{each.name} {100 * each.scores['test']['text_to_image']:.1f} %"
        for each in record.baselines
    )
    return [
        "Accuracy is that of finding a caption of the right kind for an image. From caption to "
        f"images (R-precision): {before:.1f} % to {after:.1f} %{'; ' + others if others else ''}."
    ]


def file_notes(record: "RunRecord") -> list[str]:
    """Say which files lie beside the report, and what is missing for another one."""
    if not record.files:
        return []
    note = f"The examples with their scores are beside the report: {_listed(record.files)}."
    if record.files == ["selection.csv"]:
        note += (
            " There is no Parquet file because pyarrow is not installed: "
            f"{install('parquet')} and the same command add it."
        )
    return [note]


def _further(theirs: float, own: float, uphill: bool) -> bool:
    return theirs < own if uphill else theirs > own


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
