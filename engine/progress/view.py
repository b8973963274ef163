"""Picture of unfinished runs in a terminal or a notebook, drawn with Rich."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from engine.progress.memory import memory_in_words
from engine.progress.meter import Meter
from engine.progress.names import about, capital, clock
from engine.progress.snapshot import Running, Snapshot
from engine.reports.units import write_number, write_percent

if TYPE_CHECKING:
    import rich.console
    import rich.text

_MOST_RUNS = 3
"""Runs, and stages of each, that are drawn at once; other runs are counted."""

_BAR, _LEAST_BAR = 24, 8
"""Columns of a bar, and of one that is narrowed for what stands behind it; there is none below."""

Clean = Callable[[str], str]


class Picture:
    """A picture of what a meter notes, drawn anew whenever it is asked for.

    Args:
        meter: What is watched.
        gone: Returns the seconds since the program began.
        clean: Takes out of a text what a terminal would obey.
    """

    def __init__(self, meter: Meter, gone: Callable[[], float], clean: Clean) -> None:
        self._meter, self._gone, self._clean = meter, gone, clean
        from rich.spinner import Spinner

        self._spinner = Spinner("dots")

    def __rich_console__(
        self, console: "rich.console.Console", options: "rich.console.ConsoleOptions"
    ) -> "Iterator[rich.console.RenderableType]":
        """Draw what is seen now."""
        seen = [board.snapshot() for board in list(self._meter.boards)]
        going = [each for each in seen if not each.is_finished]
        if going or (seen and not self._meter.words):
            yield draw(going or seen[-_MOST_RUNS:], self._clean)
        else:
            words = capital(self._clean(self._meter.work)) or "Starting"
            self._spinner.update(text=_line(f"{words}  {clock(self._gone())}", "bold"))
            yield self._spinner


def draw(seen: Sequence[Snapshot], clean: Clean = str) -> "rich.console.Group":
    """Return a picture of runs: a bar for each and for its stages, and what came of it so far."""
    from rich.console import Group

    lines: list[rich.console.RenderableType] = []
    bars = _Bars()
    for each in seen[:_MOST_RUNS]:
        left = f", {about(each.left)} left" if each.left is not None else ""
        times = f"{clock(each.elapsed)} gone{left}"
        lines += [_line(clean(each.title), "bold"), bars.bar(each.share, times, "bold")]
        lines += _stages(each, bars, clean)
        lines += [_lines(fact, "dim") for fact in _facts(each)]
    others = len(seen) - _MOST_RUNS
    more = [f"{others} more runs"] if others > 0 else []
    return Group(*lines, _lines(" · ".join([*more, f"Memory: {memory_in_words()}"]), "dim"))


def _line(words: str, style: str) -> "rich.text.Text":
    """Return one line, cut where there is no room: a picture whose height changes is restless."""
    from rich.text import Text

    return Text(words, style, no_wrap=True, overflow="ellipsis")


def _lines(words: str, style: str) -> "rich.text.Text":
    """Return a line, or several where there is no room for one."""
    from rich.text import Text

    return Text(words, style)


class _Bars:
    """Bars of one picture, all as wide as the longest of the texts behind them allows."""

    def __init__(self) -> None:
        self._longest = 0

    def bar(self, share: float | None, words: str, style: str) -> "rich.console.RenderableType":
        """Return a bar and what stands behind it; one that only moves where no share is known."""
        behind = words if share is None else f"{write_percent(share, 0):>5}  {words}"
        self._longest = max(self._longest, len(behind))
        return _Bar(self, share, behind, style)

    def width(self, room: int) -> int:
        """Return the columns of a bar, 0 if there are too few, in so many columns for a line."""
        left = room - self._longest - 1
        return min(_BAR, left) if left >= _LEAST_BAR else 0


class _Bar:
    """A bar, which knows how wide it is when it is drawn.

    Args:
        bars: Bars of the same picture.
        share: Which part is full; None if it only moves.
        behind: What stands behind it.
        style: Style of that.
    """

    def __init__(self, bars: _Bars, share: float | None, behind: str, style: str) -> None:
        self._bars, self._share, self._behind, self._style = bars, share, behind, style

    def __rich_console__(
        self, console: "rich.console.Console", options: "rich.console.ConsoleOptions"
    ) -> "Iterator[rich.console.RenderableType]":
        """Draw it into the columns that there are."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        width = self._bars.width(options.max_width)
        if not width:
            yield _lines(self._behind.strip(), self._style)
            return
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=width)
        grid.add_column(no_wrap=True, overflow="ellipsis")
        total = None if self._share is None else 1.0
        bar = ProgressBar(total, self._share or 0.0, width=width)
        grid.add_row(bar, _line(self._behind, self._style))
        yield grid


def _stages(seen: Snapshot, bars: _Bars, clean: Clean) -> "list[rich.console.RenderableType]":
    if not seen.running:
        return [_line(capital(clean(seen.work)), "")]
    lines: list[rich.console.RenderableType] = []
    stages = [each for each in seen.running if not each.is_run]  # runs are drawn by themselves
    for stage in stages[:_MOST_RUNS]:
        lines.append(_line(capital(clean(stage.work)), ""))
        lines.append(bars.bar(stage.share, _step(stage) or clock(stage.seconds), ""))
    return lines


def _step(stage: Running) -> str:
    """Say at which step a stage is."""
    if stage.step is None or not stage.num_steps:
        return ""
    verb = "reversed" if stage.is_reversed else "forward"
    return f"step {stage.step} of {stage.num_steps}, {verb}"


def _facts(seen: Snapshot) -> list[str]:
    """Return the facts below the bars, in a line or two."""
    facts: list[str] = []
    if seen.outer and seen.best is not None:
        last, best = seen.outer[-1], seen.outer[seen.best]
        measured = "".join(f", {each}" for each in last.measured())
        facts.append(
            f"{capital(seen.judge)} loss {write_number(last.loss)}{measured}; best "
            f"{seen.best_figure()} at outer step {best.number}"
        )
    outer = f"{len(seen.outer)} of {seen.num_outer + 1} models scored · " if seen.num_outer else ""
    cached = f", {seen.cached} of them already there" if seen.cached else ""
    return [*facts, f"{outer}{seen.done} of {seen.total} {seen.noun}{cached}"]
