"""HTML reports: the templates, and pages of sections of sentences, tables and figures."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.extras import load
from engine.recipes.descent import DescentRecipe
from engine.reports.units import write_duration
from engine.storage.location import join
from engine.storage.records import write_bytes

if TYPE_CHECKING:
    from jinja2 import Environment

    from engine.preflight.verdict import CheckReport
    from engine.runs.endings import Finished
    from engine.runs.run import Stages

REPORT = "report.html"
"""File in the run's folder."""


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        heading: Its title; empty for the first one.
        lines: Sentences, one to a bullet.
        table: Rows of the same columns.
        image: A PNG image.
        caption: What the image shows.
    """

    heading: str = ""
    lines: Sequence[str] = ()
    table: Sequence[dict[str, Any]] = ()
    image: bytes | None = None
    caption: str = ""

    @property
    def source(self) -> str | None:
        """The image as a page holds it."""
        return None if self.image is None else as_source(self.image)


def templates() -> "Environment":
    """Return the templates of all reports; a name that is not given is an error."""
    jinja = load("jinja2", "A report")
    return jinja.Environment(
        loader=jinja.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def as_source(image: bytes) -> str:
    """Return a PNG image as a page holds it that needs no other file."""
    return "data:image/png;base64," + base64.b64encode(image).decode()


def how_made(
    record: "Finished",
    counts: "Stages | None" = None,
    checks: "CheckReport | None" = None,
    environment: dict[str, Any] | None = None,
) -> dict[str, str]:
    """Say how a run was made: when, what all of its starts took, and where."""
    ending = record.ending
    made = {
        "Started": f"{record.started[:19].replace('T', ' ')} UTC",
        "Took": f"{write_duration(record.seconds)} in {ending.starts} "
        f"start{'s' * (ending.starts != 1)}",
        "Computing": write_duration(ending.computing_seconds),
    }
    if counts is not None:
        made["Stages"] = (
            f"{counts.total}, of which {counts.cached} were there when it was started last"
        )
    if checks is not None:
        made["Preflight"] = str(checks.verdict)
    return made | {n: str(value) for n, value in (environment or {}).items() if value is not None}


def write_page(
    folder: str,
    title: str,
    sections: Sequence[Section],
    made: dict[str, str],
    recipe: DescentRecipe,
) -> None:
    """Write ``report.html`` into a run's folder.

    Args:
        folder: URL of the folder.
        title: Heading of the page.
        sections: What it says, in order.
        made: How it was made: a name to a value.
        recipe: The settings.
    """
    page = (
        templates()
        .get_template("application.html")
        .render(
            title=title,
            description=recipe.description,
            sections=sections,
            made=made,
            settings=recipe.model_dump_json(indent=2, exclude_defaults=True),
        )
    )
    write_bytes(join(folder, REPORT), page.encode())
