"""Predicted and actual cost of a run."""

from engine.planning.forecast import STAGE_SECONDS, read_forecast
from engine.recipes.settings import Document
from engine.runs.overview import RunOverview, overview


class Comparison(Document):
    """A number of a run, predicted and actual."""

    what: str
    """Name of the number, with its unit."""

    predicted: float
    """Before the run."""

    actual: float
    """After it, over the stages that it computed."""


def compare(store: str, view: RunOverview) -> list[Comparison]:
    """Return the predicted numbers of a run with the actual ones of its stages.

    Seconds are of computing, with what each stage costs besides; stages that another run had made
    are not counted, so both numbers agree only for a run that started from nothing.
    """
    predicted = read_forecast(store, view.run)
    if predicted is None:
        return []
    # What parts of a run have computed is the run's own too.
    views = [view, *(overview(store, part.run) for part in view.parts)]
    lines = {(line.stage, line.key): line for each in views for line in each.stages if line.own}
    own = [line for line in lines.values() if line.stage != "preflight"]
    seconds = sum(line.seconds for line in own) + STAGE_SECONDS * len(own)
    found = [Comparison(what="seconds of the run", predicted=predicted.seconds.run, actual=seconds)]
    if predicted.written_bytes is not None:
        written = sum(line.written for line in own)
        found.append(
            Comparison(what="bytes written", predicted=predicted.written_bytes, actual=written)
        )
    return found
