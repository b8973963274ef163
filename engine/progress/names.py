"""The names of stages in words, for people who watch a run."""

import re

_NAME = re.compile(
    r"(?P<what>train|reverse|replay|seed|evaluate|update|move)"
    r"(?:\[(?P<of>[^\]]+)\])?(?: (?P<start>\d+)-(?P<stop>\d+))?"
)

_OTHERS = (
    (re.compile(r"audit (\w+)", re.ASCII), r"auditing the \1 canaries"),
    (
        re.compile(r"train without ([\d.]+) % \[(\d+)-(\d+)\)", re.ASCII),
        r"training without \1 %, subsets \2 to \3",
    ),
    (
        re.compile(r"train\[(\d+)\] ([-+][\d.e-]+) v (\d+)-(\d+)", re.ASCII),
        r"training steps \3 to \4, moved by \2 along direction \1",
    ),
    (
        re.compile(r"perturb\[(\d+)\] ([-+][\d.e-]+) v", re.ASCII),
        r"moving the metaparameters by \2 along direction \1",
    ),
    (re.compile(r"compare\[(\d+)\]", re.ASCII), r"comparing trainings along direction \1"),
    (
        re.compile(r"output ([-+][\d.e-]+) v", re.ASCII),
        r"the output, moved by \1 along direction 0",
    ),
)
"""Names of another form, each with the words that stand for it."""

_VERBS = {
    "train": "training",
    "reverse": "reversing",
    "replay": "replaying",
    "seed": "differentiating the output",
    "evaluate": "scoring the model",
    "update": "moving the metaparameters",
    "move": "optimizing the canaries",
}

_PARTS = {
    "initial": "the first metaparameters",
    "trial": "a trial with two queries",
    "train-without": "training without examples",
    "seed-queries": "differentiating the queries",
    "seed-basis": "choosing directions for the queries",
    "basis-scores": "scoring the queries by the directions",
    "trak": "TRAK",
    "train-at": "training at shifted metaparameters",
    "perturb": "shifting the metaparameters",
    "compare": "comparing trainings",
    "along": "training along the directions",
    "output": "the output at a shift",
    "move-canaries": "optimizing the canaries",
    "audit-canaries": "auditing the canaries",
    "retrain": "training by other routines",
    "schedules": "training schedules of the grid",
    "optuna": "Optuna's trials",
    "baseline": "choosing the baselines",
}
"""What the stages of a kind do, where neither a verb nor the kind itself says it."""


def in_words(name: str, *, has_outer_steps: bool = True) -> str:
    """Return the name of a stage in words, e.g. ``training steps 0 to 60 of outer step 3``.

    Args:
        name: Name of the stage in its run, e.g. ``train[3] 0-60``; one of another form stays as it
            is.
        has_outer_steps: Whether its run has any; an attribution trains once.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        fitting = (form.fullmatch(name) for form, _ in _OTHERS)
        said = (
            each.expand(words) for each, (_, words) in zip(fitting, _OTHERS, strict=True) if each
        )
        return next(said, name)
    words = _VERBS[found["what"]]
    if found["start"] is not None:
        words += f" steps {found['start']} to {found['stop']}"
    of = found["of"]
    if of is None:
        return words
    if of.isdigit():
        return f"{words} of outer step {of}" if has_outer_steps else words
    return f"{words} of {of}"


def part_in_words(kind: str) -> str:
    """Return a kind of stage in words, e.g. ``Training`` or ``Training without examples``."""
    return capital({**_VERBS, **_PARTS}.get(kind, kind.replace("-", " ")))


def capital(words: str) -> str:
    """Return words as a sentence begins."""
    return f"{words[:1].upper()}{words[1:]}"


def about(seconds: float) -> str:
    """Write a time that is only estimated, e.g. ``about 4 min``."""
    if seconds < 10:
        return "a few seconds"
    if seconds < 90:
        return f"about {5 * round(seconds / 5)} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"about {minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"about {hours} h {rest} min" if hours < 10 else f"about {round(minutes / 60)} h"


def clock(seconds: float) -> str:
    """Write a time as a clock does, e.g. ``3:05`` or ``1:03:05``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
