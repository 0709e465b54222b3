"""How a training that is followed looks: a few lines on a terminal, or one line of text.

Enters: what is known of it (progress reports, its record, how it ended). Leaves: text, in the width
that there is. Knows neither queue nor Redis.
"""

import time
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from bridge.cli.output import figure, sparkline
from bridge.jobs import Job

_MOST_BAR, _LEAST_BAR = 32, 6
_MOST_CURVE = 48
_SILENT_S = 15.0  # a training reports each second; an export or a long batch takes a while
_BETWEEN = "   "
_UNTAKEN = ": no training worker has taken it yet (mlbridge status)"
_NEXT_TURN = ": waits for its next turn (mlbridge status says what runs)"
_UNKNOWN = "no training of this id is known (yet)"
_STYLES = {
    "running": "green",
    "publishing": "green",
    "succeeded": "bold green",
    "failed": "bold red",
    "paused": "yellow",
}


class TrainingView:
    """What is known of one training, and how it is shown: a renderable of rich's, live."""

    def __init__(self, task_id: str, title: str = "") -> None:
        """Nothing is known yet.

        Args:
            task_id: of the training.
            title: what is trained, if that is known.
        """
        self.task_id, self.title = task_id, title
        self.state = "queued"
        self.trouble = ""
        """Why nothing new can be heard; empty: nothing is wrong."""
        self.report: dict[str, Any] = {}
        self._known = False
        self._spinner = Spinner("dots")
        self._heard = time.monotonic()
        self._last: Any = None

    def heard(self, job: Job | None, progress: dict[str, Any] | None) -> None:
        """Take in what Redis has: the training's record, and its last report.

        Both are None of one that was never submitted, and of one that is not begun where it came
        without our client.
        """
        if (job, progress) != self._last:
            self._last, self._heard = (job, progress), time.monotonic()
        self._known = self._known or job is not None or progress is not None
        self.trouble = "" if self._known else _UNKNOWN
        if progress and "epoch" in progress:
            self.report = progress
        if job is not None:
            self.state = "pausing" if job.pausing and job.state == "running" else job.state
        elif progress:
            self.state = "running"
        if self.state == "running" and progress and "stage" in progress:
            self.state = str(progress["stage"])
        if self.state == "queued" and progress and "hindered" in progress:
            self.trouble = f"the last turn failed: {progress['hindered']}"

    @property
    def moving(self) -> bool:
        """Whether it is being worked on."""
        return self.state in {"running", "pausing", "publishing"}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        del console
        width = options.max_width
        yield self._headline(width)
        if self.report:
            yield self._course(width)
            yield from (Text(line) for line in _packed(self._figures(), width))
            yield from self._curve(width)
        places = [*(self._places() if self.report else ()), f"task {self.task_id}"]
        yield from (Text(line, style="dim") for line in _packed(places, width))
        if self.trouble:
            yield Text(self.trouble, style="yellow", overflow="fold")

    @property
    def _waits_long(self) -> str:
        """What to say of one that is queued for long; empty: it is not."""
        if self.state != "queued" or time.monotonic() - self._heard <= _SILENT_S:
            return ""
        return _NEXT_TURN if self.report else _UNTAKEN

    def line(self) -> str:
        """All of it but the curve, for a log."""
        parts = [self.state + self._waits_long]
        if self.report:
            parts += [*self._counts(), *self._figures(), *self._places()]
        if self.trouble:
            parts.append(self.trouble)
        return ", ".join(parts)

    def _headline(self, width: int) -> Table | Text:
        state = self.state
        silent_s = time.monotonic() - self._heard
        if self.moving and silent_s > _SILENT_S:
            state += f", no news for {_span(silent_s)}"
        elif self.state == "paused":
            state += f" (mlbridge resume {self.task_id})"
        else:
            state += self._waits_long
        style = _STYLES.get(self.state, "")
        text = Text(state, style=style, overflow="fold")
        if self.title and cell_len(self.title) + len(_BETWEEN) + cell_len(state) < width - 2:
            text = Text.assemble((self.title, "bold"), _BETWEEN, (state, style))
        if not self.moving and self.state != "queued":
            return text
        line = Table.grid(padding=(0, 1))
        line.add_row(self._spinner, text)
        return line

    def _counts(self) -> list[str]:
        report = self.report
        return [
            f"epoch {report['epoch']}/{report['epochs']}",
            f"step {report['step']}/{report['steps']}",
        ]

    def _course(self, width: int) -> Table | Text:
        done = min(self.report["step"] / max(self.report["steps"], 1), 1.0)
        before, after = _BETWEEN.join(self._counts()), f"{done:.0%}"
        room = width - cell_len(before) - cell_len(after) - 4
        if room < _LEAST_BAR:
            return Text(before, overflow="fold")
        line = Table.grid(padding=(0, 2, 0, 0))
        bar = ProgressBar(total=1.0, completed=done, width=min(room, _MOST_BAR))
        line.add_row(before, bar, after)
        return line

    def _figures(self) -> list[str]:
        report, found = self.report, []
        if report.get("loss") is not None:
            found.append(f"loss {short(report['loss'])}")
        if report.get("metric"):
            found.append(f"{report['metric']} {short(report.get('value'))}")
        if self.state == "running":
            if report.get("samples_per_s") is not None:
                found.append(f"{report['samples_per_s']:,} samples/s")
            if report.get("time_left_s") is not None:
                found.append(f"{_span(report['time_left_s'])} left")
        return found

    def _curve(self, width: int) -> RenderResult:
        losses = [loss for _, loss, _ in self.report.get("curve") or ()]
        if not losses:
            return
        before, ends = "validation loss ", f" {short(losses[0])} to {short(losses[-1])}"
        if width < len(before) + len(ends) + _LEAST_BAR:
            before = ""
        room = max(min(width - len(before) - len(ends), _MOST_CURVE), 1)
        every = -(-len(losses) // room)
        shown = losses[::-every][::-1]  # the last one is always there
        yield Text.assemble(before, (sparkline(shown), "cyan"), ends)

    def _places(self) -> list[str]:
        report, found = self.report, []
        if saved := report.get("checkpoint"):
            found.append(f"checkpoint at epoch {saved['epoch']}, step {saved['step']}")
        else:
            found.append("no checkpoint yet")
        if report.get("slice"):
            found.append(f"slice {report['slice']}")
        if report.get("worker"):
            found.append(f"worker {report['worker']}")
        return found


def short(value: Any) -> str:
    """A figure in four digits."""
    return figure(value) if isinstance(value, float) else str(value)


def _packed(parts: Sequence[str], width: int) -> list[str]:
    """As many of them in a line as it holds; one that is too long for a line is cut."""
    lines: list[str] = []
    for part in parts:
        piece = part if cell_len(part) <= width else set_cell_size(part, width)
        if lines and cell_len(lines[-1]) + len(_BETWEEN) + cell_len(piece) <= width:
            lines[-1] += _BETWEEN + piece
        else:
            lines.append(piece)
    return lines


def _span(seconds: float) -> str:
    """A time in the unit that people would say it in."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
