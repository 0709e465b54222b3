"""Plots, as PNG files. Enters: figures. Leaves: the names of the files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bridgebench.findings import Spread, percentile

mpl.use("Agg")
mpl.rcParams.update(
    {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "legend.frameon": False,
    }
)
# Okabe and Ito's colours: told apart by colour-blind readers too.
OURS, OURS_TOO, PEER, CEILING, DARK = "#0072B2", "#56B4E9", "#B8B8B8", "#E69F00", "#444444"
_PARTS = {"worker": "#0072B2", "Triton": "#009E73", "RabbitMQ": "#E69F00", "Redis": "#CC79A7"}
_WAYS = (DARK, OURS, OURS_TOO)


def drain(
    out: Path,
    titles: Mapping[str, str],
    rates: Mapping[str, Sequence[float]],
    cpu: Mapping[str, Mapping[str, Spread]],
) -> list[str]:
    """Bars: tasks a second, and CPU time for each task by who spends it."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 0.5 * len(titles) + 1.6))
    keys = sorted(titles, key=lambda key: Spread.of(rates[key]).median)
    names = [titles[key] for key in keys]
    spreads = [Spread.of(rates[key]) for key in keys]
    medians = [spread.median for spread in spreads]
    left.barh(names, medians, color=[_colour(key) for key in keys])
    left.errorbar(medians, names, xerr=_bars(spreads), fmt="none", ecolor=DARK, capsize=3)
    for name, spread in zip(names, spreads, strict=True):
        left.annotate(
            f"{spread.median:,.0f}",
            (spread.high, name),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
        )
    left.set_title("Tasks/s, more is better")
    left.set_xlim(0, max(spread.high for spread in spreads) * 1.15)
    begin = [0.0] * len(keys)
    for part, colour in _PARTS.items():
        widths = [cpu[key][part].median for key in keys]
        right.barh(names, widths, left=begin, color=colour, label=part)
        begin = [a + b for a, b in zip(begin, widths, strict=True)]
    right.set_title("CPU time for a task, µs, less is better")
    right.set_yticklabels([])
    right.legend(loc="upper right")
    for axes in (left, right):
        axes.grid(axis="x", alpha=0.3)
    return [_saved(figure, out, "drain.png")]


def idle(out: Path, titles: Mapping[str, str], took: Mapping[str, Sequence[float]]) -> list[str]:
    """p50 and p99 of each way, on a logarithmic axis."""
    figure, axes = plt.subplots(figsize=(9, 0.5 * len(titles) + 1.4))
    keys = sorted(took, key=lambda key: percentile(took[key], 50), reverse=True)
    for at, key in enumerate(keys):
        p50, p99 = percentile(took[key], 50), percentile(took[key], 99)
        colour = (
            OURS if key == "ours" else CEILING if key.startswith(("direct", "triton")) else DARK
        )
        axes.plot([p50, p99], [at, at], color=colour, linewidth=2, alpha=0.6)
        axes.plot(p50, at, "o", color=colour, markersize=8)
        axes.plot(p99, at, "|", color=colour, markersize=14, markeredgewidth=2)
        axes.annotate(
            f"{p50:.1f} / {p99:.1f}",
            (p99, at),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(keys)), [titles[key] for key in keys])
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * 3)
    axes.set_xlabel("ms (logarithmic)")
    axes.set_title("Idle round trip of one row: p50 (dot) to p99 (bar)")
    axes.grid(axis="x", alpha=0.3)
    return [_saved(figure, out, "idle.png")]


def load(out: Path, titles: Mapping[str, str], data: Mapping[str, Any]) -> list[str]:
    """Latency and batch size against offered load."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.8))
    for colour, (name, title) in zip(_WAYS, titles.items(), strict=False):
        steps = data[name]
        loads = [step["offered_per_s"] for step in steps]
        for field, style in (("p50_ms", "o-"), ("p99_ms", "s--")):
            spreads = [Spread.of(step[field]) for step in steps]
            left.plot(
                loads,
                [spread.median for spread in spreads],
                style,
                color=colour,
                markersize=4,
                label=f"{title}, {field[:3]}",
            )
            _band(left, loads, spreads, colour)
        rows = [Spread.of(step["rows_in_a_batch"]) for step in steps]
        right.plot(
            loads, [spread.median for spread in rows], "o-", color=colour, markersize=4, label=title
        )
        _band(right, loads, rows, colour)
    left.set_yscale("log")
    left.set_title("Latency of a call, ms")
    right.set_title("Rows in a batch, as Triton counts them")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("offered calls/s (Poisson)")
        axes.grid(alpha=0.3)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
    return [_saved(figure, out, "load.png")]


def memory(out: Path, series: Sequence[tuple[int, float, float]]) -> list[str]:
    """RSS and PSS of the worker process against the tasks that it has served."""
    figure, axes = plt.subplots(figsize=(8, 3.4))
    tasks = [done for done, _, _ in series]
    axes.plot(tasks, [rss for _, rss, _ in series], "o-", color=OURS, markersize=4, label="RSS")
    axes.plot(tasks, [pss for _, _, pss in series], "s-", color=OURS_TOO, markersize=4, label="PSS")
    axes.axhline(150, color=CEILING, linestyle="--", label="aim: under 150 MB")
    axes.set_ylim(0, 170)
    axes.set_title("Memory of the worker process under load, MB")
    axes.set_xlabel("tasks served")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.legend(loc="lower right", ncols=3)
    axes.grid(alpha=0.3)
    return [_saved(figure, out, "memory.png")]


def growth(out: Path, data: Mapping[str, Any]) -> list[str]:
    """One panel for each series."""
    figure, panels = plt.subplots(2, 2, figsize=(12, 8))
    for axes, shown in zip(panels.flat, data.values(), strict=True):
        for colour, (way, points) in zip(_WAYS, shown["series"].items(), strict=False):
            at = sorted(int(point) for point in points)
            spreads = [Spread.of(points[str(point)]) for point in at]
            medians = [spread.median for spread in spreads]
            colour_ = OURS if len(shown["series"]) == 1 else colour
            axes.plot(at, medians, "o-", color=colour_, markersize=4, label=way)
            _band(axes, at, spreads, colour_)
        axes.set_xscale("log")
        if shown["unit"] != "tasks/s":
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
            axes.set_xticks(at, [f"{point:,}" for point in at])
            axes.minorticks_off()
        axes.set_title(f"{shown['title']}: {shown['unit']}")
        axes.set_xlabel(shown["point"])
        axes.grid(alpha=0.3)
        axes.legend()
    return [_saved(figure, out, "growth.png")]


def _colour(key: str) -> str:
    if key.startswith("ours"):
        return OURS
    return CEILING if key.startswith("ceiling") else PEER


def _bars(spreads: Sequence[Spread]) -> list[list[float]]:
    return [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]


def _band(axes: Axes, at: Sequence[float], spreads: Sequence[Spread], colour: str) -> None:
    axes.fill_between(
        at, [s.low for s in spreads], [s.high for s in spreads], color=colour, alpha=0.15
    )


def _saved(figure: Figure, out: Path, name: str) -> str:
    figure.tight_layout()
    figure.savefig(out / name, dpi=130)
    plt.close(figure)
    return name
