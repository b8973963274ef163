"""Set-ups made without a metagradient, which a descent is compared with in its report.

This module does not know torch.
"""

from enum import StrEnum
from typing import Any

from engine.recipes.problem_functions import is_shipped, refuse_other_code
from engine.recipes.settings import with_setting


class BaselineName(StrEnum):
    """Set-ups made without a metagradient, trained and scored beside the descent."""

    ALL_DATA = "all-data"
    RANDOM = "random"
    LOW_LOSS = "low-loss"
    GRADIENT_SIMILARITY = "gradient-similarity"
    UNIFORM = "uniform"
    PROPORTIONAL = "proportional"
    RANDOM_PIXELS = "random-pixels"
    LABEL_FLIP = "label-flip"
    GRADIENT_CANCELLING = "gradient-cancelling"


SELECTIONS = (
    BaselineName.ALL_DATA,
    BaselineName.RANDOM,
    BaselineName.LOW_LOSS,
    BaselineName.GRADIENT_SIMILARITY,
)

MIXTURES = (BaselineName.UNIFORM, BaselineName.PROPORTIONAL)

POISONS = (
    BaselineName.RANDOM_PIXELS,
    BaselineName.LABEL_FLIP,
    BaselineName.GRADIENT_CANCELLING,
)


def check_baselines(
    kind: str, fitting: tuple[BaselineName, ...], names: tuple[BaselineName, ...]
) -> None:
    """Refuse baselines of another question, or one that is named twice.

    Args:
        kind: Kind of metaparameter.
        fitting: Baselines that answer the same question.
        names: Names of the baselines that are asked for.

    Raises:
        ValueError: If it is refused; names the reason and the remedy.
    """
    foreign = [name for name in names if name not in fitting]
    if foreign:
        known = ", ".join(fitting)
        raise ValueError(
            f"baselines names {foreign[0].value}, which is not a set-up of {kind}. "
            + (f"Use some of {known}." if known else "Leave baselines empty.")
        )
    if len(set(names)) < len(names):
        raise ValueError(f"baselines names one twice: {', '.join(names)}. Name each once.")


def is_initial(name: BaselineName, kept: float) -> bool:
    """Say whether a baseline is the initial set-up, which is trained and scored already.

    Args:
        name: The baseline.
        kept: Share of the examples that the initial set-up has, ``metaparameters.kept``.
    """
    if name is BaselineName.ALL_DATA:
        return kept == 1
    return name is BaselineName.PROPORTIONAL


RERUN_GROUPS = ("arguments", "optimizer", "training")
"""Groups of settings that a rerun may change: the routine, but neither its examples nor z."""

_SHIPPED_RERUN_GROUPS = ("arguments.model", *RERUN_GROUPS[1:])
"""The same for a problem that ships, whose other arguments make other examples; of a user's own
problem only the examples themselves tell, when it is trained."""


def rerun_content(content: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe's settings with those of a rerun, ``{"training.seed": 1}`` for example.

    Raises:
        ValueError: If a change is of something else than the routine.
    """
    changed = {**content, "reruns": [], "baselines": []}
    groups = _SHIPPED_RERUN_GROUPS if is_shipped(content["problem"]) else RERUN_GROUPS
    for key, value in changes.items():
        if not any(key.startswith(f"{group}.") for group in groups):
            raise ValueError(
                f"reruns names {key!r}, which is not a setting of the routine. Write it as "
                f"group.setting with a group of {', '.join(groups)}."
            )
        refuse_other_code(content, key, value, "reruns")
        changed = with_setting(changed, key, value)
    return changed


def name_rerun(changes: dict[str, Any]) -> str:
    """Return the name of a rerun: the setting that it changes."""
    return ", ".join(f"{key.split('.')[-1]} {value}" for key, value in changes.items())
