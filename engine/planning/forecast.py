"""Predicted cost of a run, kept with the run."""

from contextlib import suppress
from typing import Any

from engine.errors import CheckpointMissingError
from engine.recipes.descent import DescentRecipe
from engine.recipes.names import run_name
from engine.recipes.replay import ReplaySettings, ScheduleName, VjpMode
from engine.recipes.settings import Document
from engine.storage.places import PLAN, run_file
from engine.storage.records import read_record, write_record

STAGE_SECONDS = 0.04
"""What a stage costs besides its body: Prefect, claims, keys; ``tests/bench/results`` has it."""


class Seconds(Document):
    """Predicted time."""

    outer_step: float
    """One outer step: training, evaluation, reverse sweep and update."""

    run: float
    """The whole run but its preflight, on one local worker, from nothing."""

    step: float
    """One plain step. The stages that follow have their share of Prefect and of the store."""

    train: float
    """One training, over all of its segments."""

    evaluate: float
    """Scoring one trained model."""

    seed: float
    """The output and its adjoint."""

    reverse: float
    """One reverse sweep, over all of its segments."""

    update: float
    """One move of the metaparameters."""


class Alternative(Document):
    """Predicted cost of a run with one choice of schedule, segments and unroll."""

    schedule: ScheduleName
    """Schedule inside a segment."""

    segments: int
    """Segments of the run."""

    unroll: int
    """Steps whose graphs are kept at once."""

    forward_steps: int
    """Steps run forward in one outer step, in training and in the reverse sweep."""

    reverse_steps: int
    """Steps reversed in one outer step."""

    peak_bytes: dict[str, int]
    """Most bytes at once: graphs, states on the device, states in host memory, and in the store."""

    written_bytes: int | None
    """Bytes of states, adjoints and metaparameters that the run writes; None where only those of a
    descent with the same training are known."""

    seconds: Seconds
    """Predicted time."""

    settings: dict[str, str | int | float]
    """The settings that choose it."""


class Forecast(Alternative):
    """The planner's choice, and the alternatives that it considered."""

    alternatives: list[Alternative]
    """The best of each schedule, the fastest first."""

    price: float | None = None
    """Seconds of the run at a price per GPU-hour, if one was given."""

    product: VjpMode = VjpMode.REVERSE_OVER_REVERSE
    """How a step is reversed where the recipe says auto."""

    note: str = ""
    """What a reader has to know, e.g. that it was counted and not measured."""

    def content(self) -> dict[str, Any]:
        """Return the JSON object of ``mgd plan --json``."""
        absent = {name for name in ("price", "note") if not getattr(self, name)}
        if self.product is VjpMode.REVERSE_OVER_REVERSE:
            absent.add("product")
        return self.model_dump(mode="json", exclude={"settings"} | absent)

    def resolved(self, replay: ReplaySettings) -> ReplaySettings:
        """Return settings of a replay with the choice filled in."""
        chosen = {name.removeprefix("replay."): value for name, value in self.settings.items()}
        del chosen["steps_per_segment"]  # shapes the stages, so it is the recipe's
        vjp = self.product if replay.vjp is VjpMode.AUTO else replay.vjp
        return ReplaySettings.model_validate({**replay.model_dump(), **chosen, "vjp": vjp})


def keep_forecast(recipe: DescentRecipe, store: str, forecast: Forecast) -> None:
    """Keep a forecast with its run."""
    write_record(_url(store, run_name(recipe)), forecast.model_dump(mode="json"))


def read_forecast(store: str, run: str) -> Forecast | None:
    """Return the forecast that is kept with a run; None if there is none, or a damaged one."""
    with suppress(CheckpointMissingError, ValueError, OSError):
        return Forecast.model_validate(read_record(_url(store, run)))
    return None


def _url(store: str, run: str) -> str:
    return run_file(store, run, PLAN)
