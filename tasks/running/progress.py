"""What is told of a descent while it goes on: to the UI by Prefect, to a terminal by a logger."""

import logging
import math
import time
from typing import cast
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from engine.applications.descent.record import Iterate
from engine.recipes.descent import DescentRecipe

TERMINAL = logging.getLogger("tasks.running.progress")
"""INFO for each iterate, DEBUG for each stage. Silent unless somebody adds a handler.

The UI is told by Prefect's own loggers, so that it must not get these lines as well.
"""
TERMINAL.propagate = False
TERMINAL.addHandler(logging.NullHandler())


_UPDATE_SECONDS = 1.0
"""Shortest time between two updates of the UI: small stages come by the dozen a second."""


class Progress:
    """Shows where a run stands, after every stage, every iterate and at its end.

    Args:
        recipe: The set-up.
        num_stages: Stages that the run will have, baselines and whatever else is trained included.
    """

    def __init__(self, recipe: DescentRecipe, num_stages: int) -> None:
        self.num_outer_steps, self.num_stages = recipe.outer.num_steps, num_stages
        # Prefect's artifact functions are both sync and async; outside a coroutine they are sync.
        self._artifact = cast(
            UUID,
            create_progress_artifact(
                0.0, key=f"progress-{recipe.name}", description=f"Stages of {recipe.name}"
            ),
        )
        self._updated = -math.inf

    def stage_done(self, name: str, done: int) -> None:
        """Say that a stage is done, the ``done``-th one."""
        TERMINAL.debug("%s done, %d of %d stages", name, done, self.num_stages)
        if time.monotonic() - self._updated >= _UPDATE_SECONDS:
            # A stage that was not counted must not look like the end.
            self._show(min(99.9, 100.0 * done / self.num_stages))

    def iterate_done(self, iterate: Iterate) -> None:
        """Say what an iterate scores."""
        losses = ", ".join(f"{split} {s['loss']:.4f}" for split, s in iterate.scores.items())
        for logger in (get_run_logger(), TERMINAL):
            logger.info(
                "outer step %d of %d: loss %s", iterate.outer_step, self.num_outer_steps, losses
            )

    def finish(self) -> None:
        """Say that the run has come to its end, whatever it found done already."""
        self._show(100.0)

    def _show(self, percent: float) -> None:
        self._updated = time.monotonic()
        update_progress_artifact(self._artifact, round(percent, 1))
