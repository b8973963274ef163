"""Sentences on how a run compares with set-ups made without a metagradient."""

from engine.runs import RunRecord


def comparison_findings(record: RunRecord) -> list[str]:
    """Say which baselines the chosen iterate beats on the test split, and which it does not."""
    if not record.baselines:
        return []
    uphill = record.recipe.outer.maximize
    own = record.iterates[record.chosen].scores["test"]
    beaten, others = [], []
    for each in record.baselines:
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
    ahead = [
        f"{each.name} ({100 * each.scores['test']['accuracy']:.1f} %)"
        for each in record.baselines
        if "accuracy" in own and _further(each.scores["test"]["accuracy"], own["accuracy"], uphill)
    ]
    if ahead:
        sentences.append(
            f"In test accuracy ({100 * own['accuracy']:.1f} %) it stays behind {_listed(ahead)}."
        )
    return sentences


def file_notes(record: RunRecord) -> list[str]:
    """Say which files lie beside the report, and what is missing for another one."""
    if not record.files:
        return []
    note = f"The examples with their scores are beside the report: {_listed(record.files)}."
    if record.files == ["selection.csv"]:
        note += (
            " There is no Parquet file because pyarrow is not installed: pip install "
            "'metagradient-descent[parquet]' and the same command add it."
        )
    return [note]


def _further(theirs: float, own: float, uphill: bool) -> bool:
    return theirs < own if uphill else theirs > own


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
