"""An `Overview` as tables for people, and as JSON for machines."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from bridge.cli.output import figure, make_table
from bridge.overview import Overview
from bridge.overview.histograms import Quantiles
from bridge.overview.parts import UP

_UNKNOWN = "-"
_READY = "ready"
_QUEUES = ("queue", "waiting", "in hand", "consumers", "in/s", "out/s")
_MODELS = ("model", "version", "requests/s", "rows/s", "failed/s", "batch", "p50 ms", "p99 ms")
_TRAININGS = ("task", "state", "priority", "slices", "worker", "progress")


def as_json(overview: Overview) -> dict[str, Any]:
    """Everything, with the time; what is unknown is null."""
    return {"at": datetime.now(UTC).isoformat(timespec="seconds"), **asdict(overview)}


def render(overview: Overview, *, brief: bool = False) -> RenderableType:
    """Tables, one below the other; what is unknown is "-".

    Args:
        overview: what is to be seen.
        brief: of parts and workers that are well, their number and no more: for a screen that
            does not scroll.
    """
    parts = [(part.part, part.address, part.state) for part in overview.parts]
    workers = [(worker.pool, worker.process, worker.state) for worker in overview.workers]
    shown: list[RenderableType] = []
    if brief:
        up = [part for part, _, state in parts if state == UP]
        ready = sum(state == _READY for *_, state in workers)
        shown.append(Text(f"up: {', '.join(up) or 'nothing'}; worker processes ready: {ready}"))
        parts = [row for row in parts if row[-1] != UP]
        workers = [row for row in workers if row[-1] != _READY]
    if parts:
        shown.append(make_table("parts", ("part", "address", "state"), parts))
    shown += _queues(overview)
    if workers:
        shown.append(make_table("workers", ("pool", "process", "state"), workers))
    shown += _models(overview)
    if overview.trainings:
        trainings = [
            (
                *(job[key] for key in ("task_id", "state", "priority", "slices", "worker")),
                _progress(job["progress"]),
            )
            for job in overview.trainings
        ]
        shown.append(make_table("trainings", _TRAININGS, trainings))
    if overview.tasks:
        tasks = [(row.task, *_milliseconds(row.seconds)) for row in overview.tasks]
        shown.append(make_table("tasks", ("task", "p50 ms", "p99 ms"), tasks))
    return Group(*shown)


def _queues(overview: Overview) -> list[RenderableType]:
    rows = [
        (
            row.queue,
            "not there" if row.waiting is None else row.waiting,
            *(
                _number(value)
                for value in (row.unacknowledged, row.consumers, row.in_per_s, row.out_per_s)
            ),
        )
        for row in overview.queues
    ]
    shown: list[RenderableType] = [make_table("queues", _QUEUES, rows)] if rows else []
    if overview.rates_missing:
        shown.append(Text(f"No rates: {overview.rates_missing}", style="dim"))
    for queue, count in overview.dead_letters.items():
        letters = "letter" if count == 1 else "letters"
        told = f"{count} dead {letters} of {queue}: `mlbridge dlq list` says why"
        shown.append(Text(told, style="yellow"))
    return shown


def _models(overview: Overview) -> list[RenderableType]:
    if not overview.models:
        return []
    rows = [
        (
            row.model,
            row.version,
            *(_number(value) for value in (row.requests_per_s, row.rows_per_s)),
            _number(row.failures_per_s),
            _number(row.batch_size),
            *_milliseconds(row.seconds),
        )
        for row in overview.models
    ]
    title = f"models, of {overview.window_s:.1f} s"
    shown: list[RenderableType] = [make_table(title, _MODELS, rows)]
    if any(row.seconds is not None and not row.seconds.recent for row in overview.models):
        shown.append(Text("* since the workers began: nothing came meanwhile", style="dim"))
    return shown


def _number(value: float | None) -> str:
    if value is None:
        return _UNKNOWN
    return str(value) if isinstance(value, int) else f"{value:.1f}"


def _milliseconds(seconds: Quantiles | None) -> tuple[str, str]:
    if seconds is None:
        return _UNKNOWN, _UNKNOWN
    mark = "" if seconds.recent else " *"
    p50, p99 = (figure(s * 1e3, digits=3) for s in (seconds.p50_s, seconds.p99_s))
    return p50 + mark, p99 + mark


def _progress(report: dict[str, Any] | None) -> str:
    if not report:
        return _UNKNOWN
    told = [str(report[name]) for name in ("stage",) if name in report]
    if "epoch" in report:
        told.append(f"epoch {report['epoch']} of {report.get('epochs', '?')}")
    if isinstance(report.get("loss"), float):
        told.append(f"loss {figure(report['loss'])}")
    if report.get("time_left_s") is not None:
        told.append(f"{report['time_left_s']:.0f} s left")
    return ", ".join(told) or _UNKNOWN
