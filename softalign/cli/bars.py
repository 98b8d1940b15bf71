"""Progress bars at the bottom of a terminal, lines above them; loads rich, so it is imported where a bar is due."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from softalign.processes.progress import StageProgress

BAR_WIDTH = 40
"""Characters of a bar at most; where a terminal is too narrow, the bar gives way first."""


class _Console(Console):
    """A console that leaves the cursor visible: a process that is killed could not bring it back."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


class Bars:
    """The bars of counts that go on, on a terminal; a finished count's bar stays among the lines.

    Args:
        stream: the terminal.
        width: its columns; None: as it says itself.
    """

    def __init__(self, stream: TextIO, width: int | None = None) -> None:
        self._console = _Console(file=stream, force_terminal=True, width=width, highlight=False)
        self._counts: dict[tuple[str, str], StageProgress] = {}
        self._waiting = ""
        self._live: Live | None = None

    def say(self, line: str) -> None:
        """Write a line above the bars; what was waited for is over."""
        self._waiting = ""
        self._console.print(Text(line), soft_wrap=True)
        self._refresh()

    def show(self, progress: StageProgress) -> None:
        """Move a bar on, or leave it among the lines if that was its last."""
        self._waiting = ""
        self._counts[progress.stage, progress.unit] = progress
        if progress.is_last:
            del self._counts[progress.stage, progress.unit]
            self._console.print(bar_of(progress))
        self._refresh()

    def wait(self, text: str) -> None:
        """Say below the bars what is being waited for, until something comes."""
        self._waiting = text
        self._refresh()

    def close(self) -> None:
        """Leave unfinished bars among the lines, and the terminal as it was."""
        unfinished, self._counts, self._waiting = list(self._counts.values()), {}, ""
        for progress in unfinished:
            self._console.print(bar_of(progress))
        self._refresh()

    def _refresh(self) -> None:
        has_something = bool(self._counts or self._waiting)
        if self._live is None and has_something:
            self._live = Live(
                get_renderable=self._region,
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,  # results go there, and it may be a file
            )
            self._live.start(refresh=True)
        elif self._live is not None and has_something:
            self._live.refresh()
        elif self._live is not None:
            self._live.stop()
            self._live = None

    def _region(self) -> RenderableType:
        rows = [bar_of(progress) for progress in list(self._counts.values())]
        return Group(*rows, *([_line(self._waiting, "dim")] if self._waiting else []))


def bar_of(progress: StageProgress) -> RenderableType:
    """Return a count as a row of stage, bar, counts, rate and time, and below it the figures that people watch."""
    row = Table.grid(padding=(0, 1))
    row.add_column(no_wrap=True)
    row.add_column(max_width=BAR_WIDTH)
    for _ in range(3):
        row.add_column(no_wrap=True, overflow="ellipsis")
    row.add_row(
        Text(progress.stage),
        ProgressBar(total=progress.total, completed=progress.done),
        Text(f"{progress.unit} {progress.counts_text()}"),
        Text(progress.rate_text(), "magenta"),
        Text(progress.time_text(), "cyan"),
    )
    figures = progress.figures_text()
    return Group(row, _line(f"  {figures}", "")) if figures else row


def _line(text: str, style: str) -> Text:
    return Text(text, style, no_wrap=True, overflow="ellipsis")
