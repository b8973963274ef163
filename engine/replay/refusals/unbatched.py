"""Runs that a recipe has trained as one batched run, although they cannot be: refused at once."""

from collections.abc import Sequence

from engine.errors import ConfigurationError
from engine.numerics.determinism import deterministic
from engine.replay.batched import Together, obstacle, runs_of
from engine.routine.idle import skipping_idle
from engine.routine.routine import Routine
from engine.types import Metaparams


@skipping_idle
def refuse_unbatched(
    routine: Routine,
    points: Sequence[Metaparams],
    setting: str,
    *,
    seeds: Sequence[int] | None = None,
) -> None:
    """Refuse runs that cannot be trained as one batched run, before any of them is trained.

    Args:
        routine: As for ``train_many``.
        points: z of two of the runs, or of more.
        setting: What asks for it, by name.
        seeds: As for ``train_many``.

    Raises:
        ConfigurationError: If it is refused; names the reason, and what the setting can be.

    Cost:
        Step 0 of the runs together, and of two of them by themselves.
    """
    runs = list(zip(runs_of(routine, points, seeds), points, strict=True))
    with deterministic():
        reason = obstacle(runs, must_be_faster=False)
    if reason is not None:
        raise ConfigurationError(
            f"{setting} is {Together.BATCHED}, but several trainings of this problem cannot go "
            f"through a step together: {reason} Set {setting} to {Together.LOOP}."
        )
