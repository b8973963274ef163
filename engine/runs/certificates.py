"""Certificates: results of a run's verification, kept beside the result of the run."""

from typing import Annotated, Any

from pydantic import Field

from engine.errors import CheckpointMissingError
from engine.preflight.verdict import Check, Verdict
from engine.recipes.settings import Document
from engine.schedules.segments import Segment
from engine.storage.location import join
from engine.storage.places import CERTIFICATE, run_folder
from engine.storage.records import read_model


class Verified(Document):
    """Parts of a run that were drawn and computed again, and how they compared."""

    segment: Segment
    """Steps that were made again."""

    outer_step: int | None = None
    """n, whose segment was made again, and whose metagradient was compared; none where nothing
    moves."""

    query: int | None = None
    """Of an attribution, the query whose metagradient was compared."""

    basis_direction: int | None = None
    """Of an attribution by a basis, the direction whose metagradient was compared."""

    checks: list[Check]
    """One for the bits of each part that was made again, and one or two for the difference."""

    def sentence(self) -> str:
        """Return a sentence on what was computed again."""
        where = "the training" if self.outer_step is None else f"outer step {self.outer_step}"
        steps = f"Steps {self.segment.start} to {self.segment.stop - 1} of {where}"
        compared = {"query": self.query, "direction": self.basis_direction}
        of = [f"{what} {number}" for what, number in compared.items() if number is not None]
        if not of:
            return f"{steps} were made again, and its metagradient compared with trainings."
        return f"{steps} were made again, and the metagradient of {of[0]} compared with trainings."


class Certificate(Verified):
    """Result of a verification: what was computed again, by which process, and when."""

    run: str
    """Name of the run."""

    verdict: Verdict
    """``refuse`` if something differs, ``warn`` if it could not be decided, else ``pass``."""

    made: str
    """UTC, ISO 8601."""

    seed: int
    """Seeds the choice of what was made again, and the direction of the difference."""

    environment: dict[str, Any]
    """Where it was made."""

    unkept: Annotated[str, Field(exclude=True)] = ""
    """Why it could not be kept beside the result; empty if it is kept. What was found holds."""


def read_certificate(store: str, run: str) -> Certificate | None:
    """Return the last certificate of a run, or None if it has none."""
    try:
        return read_model(join(run_folder(store, run), CERTIFICATE), Certificate)
    except CheckpointMissingError:
        return None


def how_verified(run: str, *, in_parts: bool) -> str:
    """Say how a finished run that has no certificate is verified.

    Args:
        run: Name of the run.
        in_parts: Whether ``mgd verify`` can make parts of it again.
    """
    if in_parts:
        return (
            f"Not verified yet: mgd verify {run} makes a random part of it again and compares the "
            "bits, and a metagradient with a central difference."
        )
    return f"No part of it is verified by itself. {BY_ALL_OF_IT}"


BY_ALL_OF_IT = (
    "Made again in an empty store, by the command that its report has under How to repeat it, it "
    "has stages of the same bits where both run.json have the same `content`."
)
"""How a run is verified of which nothing can be made again by itself."""
