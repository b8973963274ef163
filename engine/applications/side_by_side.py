"""Runs side by side: the settings that differ, the results, and curves in one figure.

Nothing here knows a kind of run: numbers, quantities and curves are what the records say.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.applications.open_run import OpenRun
from engine.errors import ConfigurationError
from engine.reports.canvas import BLUE, GREEN, GREY, ORANGE, legend, new_figure, whole_numbers
from engine.reports.curves import Curve
from engine.reports.sections import Figure, Page, Section, Table
from engine.reports.settings_rows import NOT_ASKED, all_rows, is_unread
from engine.reports.vector import vector
from engine.shown.html import pairs_html, rows_html

if TYPE_CHECKING:
    import matplotlib.figure

_COLOURS = (BLUE, ORANGE, GREEN, GREY)
_STROKES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D")

Rows = list[dict[str, Any]]


@dataclass(frozen=True, repr=False)
class SideBySide:
    """Comparison of several runs: the settings that differ, and their results.

    Attributes:
        runs: Runs in the order in which they were named.
        settings: Settings that differ: ``setting``, then a value for each run by its name.
        numbers: What stands at the top of each report, likewise.
        quantities: Every number of the results; None where a run has it not.
    """

    runs: Sequence[OpenRun]
    settings: Rows
    numbers: Rows
    quantities: Rows

    def __repr__(self) -> str:
        return f"SideBySide({', '.join(self.names)}: {self.headline})"

    def _repr_html_(self) -> str:
        """Return the differing settings and the results as tables, for a notebook."""
        rows = [each for each in (self.settings, self.numbers) if each]
        return pairs_html("Side by side", {}, [self.headline]) + "".join(map(rows_html, rows))

    @property
    def names(self) -> list[str]:
        """Names of the runs."""
        return [run.name for run in self.runs]

    @property
    def headline(self) -> str:
        """Sentence on the settings in which the runs differ."""
        keys = [row["setting"] for row in self.settings]
        if not keys:
            return f"{len(self.runs)} runs of the same settings."
        shown = ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
        return (
            f"{len(self.runs)} runs, which differ in {len(keys)} "
            f"setting{'s' * (len(keys) != 1)}: {shown}."
        )

    def curves(self) -> dict[str, dict[str, Curve]]:
        """Return each curve that a run has by its name, and by run."""
        found: dict[str, dict[str, Curve]] = {}
        for run in self.runs:
            for each in run.curves:
                found.setdefault(each.name, {})[run.name] = each
        return found

    def content(self) -> dict[str, Any]:
        """Return the comparison as a JSON object."""
        return {
            "runs": [
                {"run": run.name, "finished": run.finished, "headline": run.headline}
                for run in self.runs
            ],
            "settings": self.settings,
            "numbers": self.numbers,
            "quantities": self.quantities,
            "curves": {
                name: {
                    run: {"by": each.by, "points": [list(point) for point in each.points]}
                    for run, each in by_run.items()
                }
                for name, by_run in self.curves().items()
            },
        }


def side_by_side(runs: Sequence[OpenRun]) -> SideBySide:
    """Compare runs of any kinds.

    Raises:
        ConfigurationError: If there are fewer than two, or one is there twice.
    """
    names = [run.name for run in runs]
    if len(names) < 2 or len({*names}) < len(names):
        raise ConfigurationError(
            f"Two different runs or more can be compared, and {', '.join(names) or 'none'} was "
            "named. See their names with `mgd show`."
        )
    asked = _settings_by_key(runs)
    numbers = {run.name: {} if run.record is None else run.record.in_pairs() for run in runs}
    return SideBySide(
        runs=runs,
        settings=_differing(_rows("setting", asked, names, missing="(not there)"), names),
        numbers=_rows("number", numbers, names, missing=""),
        quantities=_rows("quantity", {run.name: run.quantities for run in runs}, names, None),
    )


def _settings_by_key(runs: Sequence[OpenRun]) -> dict[str, dict[str, str]]:
    """Return the settings of each run by key, without those that nothing read.

    Where all runs that read such a setting have the same value, it says nothing about them, and is
    left out of all.
    """
    unread = {run.name: [] if run.record is None else run.record.unread for run in runs}
    found = {
        run.name: {
            key: value or "none"
            for key, value, _ in all_rows(run.recipe, unread[run.name])
            if key.partition(".")[0] not in NOT_ASKED - {"kind"}
        }
        for run in runs
    }
    for key in {key for rows in found.values() for key in rows}:
        values = {rows[key] for rows in found.values() if key in rows}
        ignored = any(key not in found[name] and is_unread(key, unread[name]) for name in found)
        if ignored and len(values) == 1:
            for rows in found.values():
                rows.pop(key, None)
    return found


def page_of(found: SideBySide) -> Page:
    """Return the comparison as the page of a report."""
    names = frozenset(found.names)
    sections = [
        Section(
            "Results",
            lines=[f"{run.name}: {run.headline}" for run in found.runs],
            tables=[Table(found.numbers, named=names)],
        ),
        Section(
            "Settings that differ",
            notes=[] if found.settings else ["No setting differs."],
            tables=[Table(found.settings, code=frozenset({"setting"}), named=names)],
        ),
        Section(
            "Curves",
            notes=["A curve that only one of the runs has is there too."],
            figures=[_figure(name, by_run, found.names) for name, by_run in found.curves().items()],
        ),
        Section(
            "All numbers",
            tables=[Table([_written(row) for row in found.quantities], named=names)],
            folded=True,
        ),
        Section(
            "The reports",
            commands={f"mgd open {name} --store STORE": f"Of {name}" for name in found.names},
        ),
    ]
    return Page(
        title="Runs side by side",
        run=", ".join(found.names),
        headline=found.headline,
        warnings=[run.standing for run in found.runs if not run.finished],
        sections=[each for each in sections if each.title != "Curves" or each.figures],
    )


def _figure(name: str, by_run: dict[str, Curve], names: Sequence[str]) -> Figure:
    ends = "; ".join(
        f"{run} ends at {curve.points[-1][1]:.4g}" for run, curve in by_run.items() if curve.points
    )
    by = next(iter(by_run.values())).by
    return Figure(vector(lambda: draw(name, by_run, names)), f"{name} by {by}: {ends}")


def draw(name: str, by_run: dict[str, Curve], names: Sequence[str]) -> "matplotlib.figure.Figure":
    """Draw one curve of each run over those of the others.

    Args:
        name: Name of the curve.
        by_run: Run to its curve.
        names: All runs: the same one looks the same in every figure.
    """
    figure, (axes,) = new_figure(2.8)
    for run, curve in by_run.items():
        place = names.index(run)
        axes.plot(
            [x for x, _ in curve.points],
            [y for _, y in curve.points],
            color=_COLOURS[place % len(_COLOURS)],
            linestyle=_STROKES[place // len(_COLOURS) % len(_STROKES)],
            marker=_MARKERS[place % len(_MARKERS)],
            markersize=5,
            label=run,
        )
    if next(iter(by_run.values())).by == "outer step":
        whole_numbers(axes)
    axes.set(xlabel=next(iter(by_run.values())).by, ylabel=name)
    legend(axes, 2)
    return figure


def _rows(
    what: str, columns: dict[str, dict[str, Any]], names: Sequence[str], missing: str | None
) -> Rows:
    """Return a row for each name that a run has something of, in the order of first sight."""
    keys: Iterable[str] = dict.fromkeys(key for column in columns.values() for key in column)
    return [{what: key} | {name: columns[name].get(key, missing) for name in names} for key in keys]


def _differing(rows: Rows, names: Sequence[str]) -> Rows:
    return [row for row in rows if len({row[name] for name in names}) > 1]


def _written(row: dict[str, Any]) -> dict[str, str]:
    return {
        name: "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
        for name, value in row.items()
    }
