"""Sentences on how a run compares with set-ups made without a metagradient."""

from typing import TYPE_CHECKING

from engine.extras import install
from engine.recipes.comparisons import SELECTIONS, BaselineName
from engine.reports.units import write_number, write_percent

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
    beaten, others, idle = [], [], idle_baselines(record)
    for each in record.baselines:
        if each.name in idle:
            continue
        theirs = each.scores["test"]
        wins = own["loss"] > theirs["loss"] if uphill else own["loss"] < theirs["loss"]
        (beaten if wins else others).append(f"{each.name} ({theirs['loss']:.4f})")
    side = "higher" if uphill else "lower"
    sentences = []
    found = f"The chosen set-up's test loss of {own['loss']:.4f}"
    if beaten:
        sentences.append(f"{found} is {side} than that of {_listed(beaten)}.")
    if others:
        sentences.append(f"{found} is not {side} than that of {_listed(others)}.")
    if idle:
        sentences.append(_said_of_idle(idle))
    if "accuracy" in own:
        sentences += [points(record)] if uphill else _ahead(record, own["accuracy"], idle)
    return sentences


def _said_of_idle(idle: list[str]) -> str:
    leave, they_are, say = (
        ("The baseline {} leaves", "it is", "says")
        if len(idle) == 1
        else ("The baselines {} leave", "they are", "say")
    )
    return (
        f"{leave.format(_listed(idle))} out as many examples as the run did, and so none: "
        f"{they_are} the set-up that it began from, and {say} nothing more."
    )


def _ahead(record: "RunRecord", own: float, idle: list[str]) -> list[str]:
    """Say which baselines have a higher test accuracy, whatever their loss is."""
    ahead = [
        f"{each.name} ({100 * each.scores['test']['accuracy']:.1f} %)"
        for each in record.baselines
        if each.name not in idle and each.scores["test"]["accuracy"] > own
    ]
    if not ahead:
        return []
    return [f"In test accuracy ({100 * own:.1f} %) it stays behind {_listed(ahead)}."]


def idle_baselines(record: "RunRecord") -> list[str]:
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
    own_falls, theirs_falls = own >= _LEAST, falls[name] >= _LEAST
    if own_falls and theirs_falls:
        return (
            f"Test accuracy falls by {own:.1f} points, under {name} by {falls[name]:.1f}: "
            f"{own / falls[name]:.1f} times as far."
        )
    if own_falls:
        return f"Test accuracy falls by {own:.1f} points, and under no baseline."
    if theirs_falls:
        return f"Test accuracy does not fall, but {name} lowers it by {falls[name]:.1f} points."
    return "Test accuracy falls neither with the chosen set-up nor with a baseline."


def rerun_findings(record: "RunRecord") -> list[str]:
    """Say what the chosen set-up does by other routines, and which of those say nothing."""
    sentences = []
    for each in record.reruns:
        if each.before is None:
            sentences.append(
                f"Trained again with {each.name}, the initial set-up diverges, so it says nothing."
            )
            continue
        if each.after is None:
            sentences.append(
                f"Trained again with {each.name}, the chosen set-up diverges: that is a training "
                "that failed, and not counted as an effect of the set-up."
            )
            continue
        before, after = each.before["test"], each.after["test"]
        sentence = (
            f"Trained again with {each.name}: test loss goes from {before['loss']:.4f} to "
            f"{after['loss']:.4f}"
        )
        if "accuracy" in before:
            old, new = (write_percent(each["accuracy"], 1) for each in (before, after))
            sentence += (
                f"; accuracy stays at {old}" if old == new else f", accuracy from {old} to {new}"
            )
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
            f"loss, in the best {100 * rank / size:.1f} %: it has {loss:.4f}, the best of them "
            f"{record.grid.losses[0]:.4f}. Test loss: {own['test']['loss']:.4f}, and "
            f"{record.grid.best['test']:.4f} for that one."
        )
    if record.optuna is not None:
        theirs = record.optuna.best
        sentences.append(
            f"Optuna, with as many trainings ({record.optuna.trainings}) and no reverse sweep, "
            f"reaches a validation loss of {theirs['validation']:.4f} and a test loss of "
            f"{theirs['test']:.4f}."
        )
    elif record.recipe.schedules.optuna:
        sentences.append(
            f"Optuna was not run, because it is not installed: {install('optuna')} and the same "
            "command add it."
        )
    return sentences


def _examples_noun(damage: "Damage") -> str:
    """Return the plural noun for the changed examples: images where they have classes."""
    return "images" if damage.classes else "examples"


def damage_findings(record: "RunRecord") -> list[str]:
    """Say how few images and classes account for the damage."""
    damage = record.damage
    if damage is None or damage.rise <= 0:
        return []
    if not damage.adds_up:
        return [
            f"By the metagradient the changed {_examples_noun(damage)} together add "
            f"{write_number(damage.parts)} nats to the objective, but it rose by "
            f"{write_number(damage.rise)}: which of them carry the rise is not known. Smaller "
            "outer steps, or a smoother training, would tell."
        ]
    half, total, parts = 0, 0.0, [image.damage for image in damage.images]
    while half < len(parts) and total < damage.rise / 2:
        total += parts[half]
        half += 1
    few = (
        f"{half} of the {len(parts)} changed {_examples_noun(damage)} carry half of the rise of "
        "the objective"
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
        else "No class of the test examples has a lower accuracy than before."
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


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
