"""What a verification of a run has found, as it is kept beside the run's result."""

from typing import Any

from engine.errors import CheckpointMissingError
from engine.preflight.verdict import Check, Verdict
from engine.recipes.settings import Document
from engine.schedules.segments import Segment
from engine.storage.location import join
from engine.storage.places import CERTIFICATE, run_folder
from engine.storage.records import read_model


class Certificate(Document):
    """What was made again of a run, and how it compared."""

    run: str
    """Name of the run."""

    verdict: Verdict
    """``refuse`` if something differs, ``warn`` if it could not be decided, else ``pass``."""

    made: str
    """UTC, ISO 8601."""

    seed: int
    """Seeds the choice of outer step, segment and direction."""

    outer_step: int
    """n, whose metagradient was compared."""

    segment: Segment
    """Steps that were trained and reversed again."""

    checks: list[Check]
    """One for the bits of the training, of the reverse sweep, and one for the difference."""

    environment: dict[str, Any]
    """Where it was made."""


def read_certificate(store: str, run: str) -> Certificate | None:
    """Return the last certificate of a run, or None if it has none."""
    try:
        return read_model(join(run_folder(store, run), CERTIFICATE), Certificate)
    except CheckpointMissingError:
        return None
