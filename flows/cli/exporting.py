"""Work and output of ``mgd export``."""

import json

from rich.filesize import decimal

from engine.applications.descent.export import export_model
from engine.reports.units import write_measure
from engine.storage.location import absolute
from engine.storage.readable import check_readable
from flows.cli.terminal.screen import say, tell


def export(
    run: str, file: str, store: str, step: int | None, *, trusted: bool, as_json: bool
) -> None:
    """Write the model of a run, and say what it is."""
    place = absolute(store)
    check_readable(place)
    found = export_model(place, run, file, step, trusted=trusted)
    if as_json:
        say(json.dumps(found.model_dump(mode="json")))
        return
    shown = ", ".join(
        f"{name} {write_measure(name, value)}" for name, value in found.scores["test"].items()
    )
    tell(
        f"The model of outer step {found.iterate} of {found.run} ({shown} on the test split): "
        f"{found.tensors} tensors, {decimal(found.bytes)}, in {found.file}."
    )
