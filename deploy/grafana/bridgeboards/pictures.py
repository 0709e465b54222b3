"""A dashboard as a picture: its panels where Grafana puts them, drawn by matplotlib.

Enters: a dashboard's JSON, a Prometheus. Leaves: a PNG file. It draws what our dashboards use
(stat, timeseries, table), nothing else; text panels are left out.
"""

import math
import textwrap
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from bridgeboards.prometheus import Prometheus, Series
from bridgeboards.queries import queries_of
from bridgeboards.triton import GPU

mpl.use("Agg")

_UNIT_WIDE, _UNIT_HIGH = 0.58, 0.36  # inches for a unit of Grafana's grid
_HEAD = 1.5  # units above the first panel
_DPI = 75
_COLOURS = {
    "green": "#2f9e44",
    "red": "#e03131",
    "dark-red": "#8f1515",
    "orange": "#e8830c",
    "blue": "#1c7ed6",
    "purple": "#9c36b5",
    "text": "#343a40",
}
_CYCLE = ("#1c7ed6", "#e8830c", "#2f9e44", "#9c36b5", "#0c8599", "#c2255c", "#5f6b2d", "#495057")
_MOST_LEGENDS = 8
_WIDE = 8
_FEW = 3  # points that would make no curve to see
_MINUTE_S = 60
_LONG = 1000
Answers = dict[str, list[tuple[str, Series]]]
"""By the title of a panel: its series, with the legend of their query or its column."""


def draw(
    board: Mapping[str, Any],
    prometheus: Prometheus,
    values: dict[str, str],
    span: tuple[float, float],
    file: Path,
) -> None:
    """Ask all that the dashboard asks over `span`, two Unix times in seconds; write `file`."""
    start, end = span
    answers: Answers = {}
    for query in queries_of(board):
        asked = prometheus.series(query, values, start=start, end=end)
        answers.setdefault(query.title, []).extend((query.legend, series) for series in asked)
    panels = [panel for panel in board["panels"] if panel["type"] != "text"]
    high = height_of(board)
    figure = Figure(figsize=(24 * _UNIT_WIDE, high * _UNIT_HIGH), facecolor="#f1f3f5")
    subject = f"  ({values['model']})" if board["uid"] == "bridge-model" else ""
    top = 1 - 0.8 / high
    figure.text(0.012, top, board["title"] + subject, size=15, weight="bold", va="center")
    marks = [
        series for name in answers if name.startswith("marks: ") for _, series in answers[name]
    ]
    for panel in panels:
        place = panel["gridPos"]
        box = box_of(place, high)
        if panel["type"] == "row":
            figure.text(
                box[0], box[1] + box[3] / 2, panel["title"], size=12, va="center", weight="bold"
            )
            continue
        card = Rectangle(
            box[:2], box[2], box[3], color="white", transform=figure.transFigure, zorder=-1
        )
        figure.add_artist(card)
        axes = figure.add_axes(box, facecolor="white")
        for spine in axes.spines.values():
            spine.set_visible(False)
        found = answers.get(panel["title"], [])
        ink = _PANELS[panel["type"]](axes, panel, found, span) if found else _say(axes, panel)
        title = textwrap.shorten(panel["title"], 3 * place["w"] + 26, placeholder="…")
        x, y = box[0] + 0.005, box[1] + box[3] - 0.55 / high
        figure.text(x, y, title, size=9, weight="bold", color=ink, va="center")
        if panel["type"] == "timeseries" and found:
            for mark in marks:
                axes.axvline(mark.times[0] - end, color=_COLOURS["purple"], lw=1, ls=":")
    figure.savefig(file, dpi=_DPI, pil_kwargs={"optimize": True})


def height_of(board: Mapping[str, Any]) -> float:
    """Of the whole picture, in units of Grafana's grid: with its title."""
    ends = (
        float(panel["gridPos"]["y"] + panel["gridPos"]["h"])
        for panel in board["panels"]
        if panel["type"] != "text"
    )
    return _HEAD + max(ends)


def box_of(place: Mapping[str, int], high: float) -> tuple[float, float, float, float]:
    """Left, bottom, width, height, as shares of the figure."""
    left, width = place["x"] / 24, place["w"] / 24
    bottom = 1 - (place["y"] + place["h"] + _HEAD) / high
    return left + 0.004, bottom + 0.1 / high, width - 0.008, (place["h"] - 0.2) / high


def _legend(series: Series, legend: str) -> str:
    return textwrap.shorten(series.named(legend), 40, placeholder="…")


def _lines(
    axes: Axes, panel: Mapping[str, Any], found: list[tuple[str, Series]], span: tuple[float, float]
) -> str:
    _inset(axes, left=0.13, bottom=0.12, top=0.13)
    fixed = {
        override["matcher"]["options"]: override["properties"][0]["value"].get("fixedColor")
        for override in panel["fieldConfig"]["overrides"]
    }
    cycle = iter(_CYCLE * 4)
    for legend, series in found:
        name = _legend(series, legend)
        colour = _COLOURS.get(fixed.get(name, "")) or next(cycle)
        times, values = _with_gaps(series)
        dot = "." if len(times) < _FEW else ""
        since = [time - span[1] for time in times]
        axes.plot(since, values, lw=1.6, color=colour, label=name, marker=dot)
    top = max((value for _, series in found for value in series.values), default=0)
    for step in panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", ())[1:]:
        if step["value"] <= 1.5 * top:
            axes.axhline(step["value"], color=_COLOURS[step["color"]], lw=1, ls="--")
    unit = panel["fieldConfig"]["defaults"].get("unit", "")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, unit)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _ago(value)))
    axes.set_xlim(span[0] - span[1], 0)
    axes.set_ylim(bottom=0, top=top * 1.45 or 1)  # room for the legend
    axes.grid(color="#e9ecef")
    axes.tick_params(labelsize=7.5, length=0)
    axes.legend(
        *(part[:_MOST_LEGENDS] for part in axes.get_legend_handles_labels()),
        loc="upper left",
        fontsize=7.5,
        ncols=2 if panel["gridPos"]["w"] >= _WIDE else 1,
        framealpha=0.6,
        edgecolor="none",
        borderpad=0.2,
    )
    return _COLOURS["text"]


def _with_gaps(series: Series) -> tuple[list[float], list[float]]:
    """No line leads over times of which nothing is known."""
    steps = [later - time for time, later in pairwise(series.times)]
    usual = min(steps, default=0.0)
    times, values = series.times[:1], series.values[:1]
    for step, time, value in zip(steps, series.times[1:], series.values[1:], strict=True):
        if step > 2 * usual:
            times.append(time)
            values.append(math.nan)
        times.append(time)
        values.append(value)
    return times, values


def _number(
    axes: Axes, panel: Mapping[str, Any], found: list[tuple[str, Series]], span: tuple[float, float]
) -> str:
    del span
    axes.set_xticks([])
    axes.set_yticks([])
    legend, series = found[-1]
    defaults = panel["fieldConfig"]["defaults"]
    value = series.values[-1]
    steps = defaults["thresholds"]["steps"]
    colour = next(s["color"] for s in reversed(steps) if s["value"] is None or value >= s["value"])
    named = {k: v["text"] for m in defaults.get("mappings", ()) for k, v in m["options"].items()}
    text = named.get(shown(value, "short")) or shown(value, defaults.get("unit", ""))
    if panel["options"].get("textMode") == "name":
        text = _legend(series, legend)
    if len(steps) > 1:
        axes.set_facecolor(_COLOURS[colour])
    ink = "white" if len(steps) > 1 else _COLOURS["text"]
    axes.text(0.5, 0.42, text, ha="center", va="center", size=20, color=ink, weight="bold")
    return ink


def _table(
    axes: Axes, panel: Mapping[str, Any], found: list[tuple[str, Series]], span: tuple[float, float]
) -> str:
    del span
    axes.set_axis_off()
    _inset(axes, left=0.01, bottom=0, top=0.15)
    options = panel["transformations"][-1]["options"]
    names = options["renameByName"]
    units = {
        override["matcher"]["options"]: override["properties"][0]["value"]
        for override in panel["fieldConfig"]["overrides"]
        if override["properties"][0]["id"] == "unit"
    }
    columns = [
        names.get(name, name)
        for name in sorted(options["indexByName"], key=options["indexByName"].get)
    ]
    lines: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}
    for column, series in found:
        key = tuple(sorted(series.labels.items()))
        line = lines.setdefault(key, dict(key))
        line[column] = shown(series.values[-1], units.get(column, ""))
    cells = [[line.get(column, "") for column in columns] for line in lines.values()]
    drawn = axes.table(
        cells[:9], colLabels=columns, loc="upper center", cellLoc="left", edges="horizontal"
    )
    drawn.auto_set_font_size(value=False)
    drawn.set_fontsize(8.5)
    drawn.auto_set_column_width(list(range(len(columns))))
    drawn.scale(1, 1.35)
    return _COLOURS["text"]


def shown(value: float, unit: str) -> str:
    """A number with its unit, short."""
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit in {"bytes", "Bps"}:
        return _scaled(value, ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (0, "B"))) + (
            "/s" if unit == "Bps" else ""
        )
    if unit == "s":
        if value >= _MINUTE_S:
            return _scaled(value, ((86400, "d"), (3600, "h"), (_MINUTE_S, "min")))
        return f"{value:.3g} s" if value >= 1 or value == 0 else f"{1000 * value:.3g} ms"
    ending = {"ops": "/s", "reqps": "/s", "watt": " W"}.get(unit, "")
    return f"{value:.3g}{ending}" if abs(value) < _LONG else f"{value:,.0f}{ending}"


def _scaled(value: float, steps: tuple[tuple[float, str], ...]) -> str:
    size, name = next(step for step in steps if abs(value) >= step[0])
    return f"{value / (size or 1):.3g} {name}"


def _ago(seconds: float) -> str:
    if not seconds:
        return "now"
    short = seconds > -10 * _MINUTE_S
    return f"{seconds:.0f} s" if short else f"{seconds / _MINUTE_S:.0f} min"


def _say(axes: Axes, panel: Mapping[str, Any]) -> str:
    """That there is nothing to show."""
    axes.set_xticks([])
    axes.set_yticks([])
    text = "no data: it needs a GPU" if panel["title"].startswith(GPU) else "no data"
    axes.text(0.5, 0.45, text, ha="center", va="center", color="#868e96", transform=axes.transAxes)
    return _COLOURS["text"]


def _inset(axes: Axes, *, left: float, bottom: float, top: float) -> None:
    """Room for numbers beside and below, inside the panel's box."""
    box = axes.get_position()
    axes.set_position(
        (
            box.x0 + left * box.width,
            box.y0 + bottom * box.height,
            box.width * (1 - left - 0.02),
            box.height * (1 - bottom - top),
        )
    )


_PANELS = {"timeseries": _lines, "stat": _number, "table": _table}
