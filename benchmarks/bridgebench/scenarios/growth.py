"""How it grows: rows in a message, tensor size, worker processes, models."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from pydantic import SecretStr

from bridge.client import BridgeClient
from bridge.embedded.server import Server
from bridge.embedded.triton import TritonServer
from bridge.errors import BridgeError
from bridge.tensors import Array
from bridge.triton_client import TritonClient
from bridgebench import plots
from bridgebench.callers import Call, direct, ones, side_by_side, through_queue
from bridgebench.competitors import OursBinary, OursJson
from bridgebench.competitors.taskiq_layout import binary_mail
from bridgebench.findings import Report, Spread, Table
from bridgebench.ground import Ground
from bridgebench.models import FEATURES, MLP, SIZED, WIDE, save_mlp
from bridgebench.posting import Mail
from bridgebench.scenarios.drain import drain_once
from bridgebench.scenarios.run import Run

NAME = "growth"
TITLE = "How it grows"
_ROWS, _QUICK_ROWS = (1, 4, 16, 64, 256, 1024), (1, 64)
_SIZES, _QUICK_SIZES = (*(1000 * 4**n for n in range(8)), 64_000_000), (1_000, 1_000_000)
_WORKERS, _QUICK_WORKERS = (1, 2, 4, 8), (2,)
_MODELS, _QUICK_MODELS = (1, 10, 100), (1, 2)
_DRAIN, _QUICK_DRAIN = 8_000, 200
_IN_FLIGHT = 16
_LARGE, _LARGE_IN_FLIGHT = 1_000_000, 2
_LOADING_S = 600.0
_BESIDE = "ours, payload in a file"
# RabbitMQ 3's own limit for a message; version 4 has 16 MiB, and so has our client.
_MOST_INLINE_BYTES = 2**27
_LIMIT = (
    "RabbitMQ 3 takes messages of up to 128 MiB, version 4 of 16 MiB by default. Our client "
    "refuses more than BRIDGE_MAX_MESSAGE_BYTES, 16 MiB by default and 128 MiB here; where "
    "BRIDGE_PAYLOAD_URL is set, large tensors go beside their message."
)
_SHARED = "Worker processes beyond the number of cores share them with RabbitMQ, Redis and Triton."
Series = dict[str, dict[int, list[float | None]]]
"""By way and point, one figure for each repetition; None: it reached a limit."""


async def measure(run: Run) -> Report:
    """Four series, one after the other; within each, the ways take turns."""
    report = Report(NAME, TITLE)
    rows = await _rows(run)
    _show(report, "rows", "Rows in a message", "rows in a message", "rows/s", rows)
    sizes = await _sizes(run, report)
    _show(report, "sizes", "Size of a message's tensor", "bytes", "MB/s", sizes)
    workers = await _workers(run)
    _show(report, "workers", "Worker processes", "processes", "tasks/s", workers)
    models = await _models(run)
    _show(report, "models", "Models in turn, one worker process", "models", "tasks/s", models)
    report.notes += [_LIMIT, _SHARED]
    report.plots = plots.growth(run.options.out, report.data)
    return report


async def _rows(run: Run) -> Series:
    """Rows a second, end to end."""
    series: Series = {"direct gRPC": defaultdict(list), "ours": defaultdict(list)}
    async with (
        run.working(run.ground.bridge_workers(1)),
        BridgeClient(run.ground.settings) as client,
        TritonClient.from_settings(run.ground.settings) as triton,
    ):
        for count in run.choose(_ROWS, _QUICK_ROWS):
            array = ones(count, FEATURES)
            calls = {
                "direct gRPC": direct(triton, WIDE, array),
                "ours": through_queue(client, WIDE, array),
            }
            for _ in range(run.few_repetitions):
                for way, call in calls.items():
                    loop = await side_by_side(call, _IN_FLIGHT, run.pick(2.0, 0.3))
                    series[way][count].append(loop.per_s * count)
                await run.redis.flushdb()
            run.say(f"  {count} rows")
    return series


async def _sizes(run: Run, report: Report) -> Series:
    """MB a second, end to end; above 1 MiB also beside the message, in a folder."""
    store = f"file://{run.ground.state.room('payloads')}"
    inline = run.ground.settings.model_copy(update={"bridge_max_message_bytes": _MOST_INLINE_BYTES})
    beside = inline.model_copy(update={"bridge_payload_url": SecretStr(store)})
    series: Series = {way: defaultdict(list) for way in ("direct gRPC", "ours", _BESIDE)}
    async with (
        run.working(run.ground.bridge_workers(1, BRIDGE_PAYLOAD_URL=store)),
        BridgeClient(inline) as client,
        BridgeClient(beside) as beside_client,
        TritonClient.from_settings(inline) as triton,
    ):
        for size in run.choose(_SIZES, _QUICK_SIZES):
            array = ones(1, size // 4)
            calls = {
                "direct gRPC": direct(triton, SIZED, array),
                "ours": through_queue(client, SIZED, array),
            }
            if array.nbytes > beside.bridge_payload_threshold_bytes:
                calls[_BESIDE] = through_queue(beside_client, SIZED, array)
            for _ in range(run.few_repetitions):
                for way, call in calls.items():
                    per_s = await _per_s(run, report, way, call, array)
                    series[way][size].append(per_s and per_s * array.nbytes / 1e6)
                await run.redis.flushdb()
            run.say(f"  {size / 1e6:g} MB")
    return series


async def _per_s(run: Run, report: Report, way: str, call: Call, array: Array) -> float | None:
    """Calls a second; None, and a note, where a limit is reached."""
    in_flight = _IN_FLIGHT if array.nbytes < _LARGE else _LARGE_IN_FLIGHT
    try:
        loop = await side_by_side(call, in_flight, run.pick(2.0, 0.3))
    except BridgeError as error:
        note = f"{way}, {array.nbytes / 1e6:g} MB: {type(error).__name__}: {str(error)[:300]}"
        if note not in report.notes:
            report.notes.append(note)
        return None
    return loop.per_s or None


async def _workers(run: Run) -> Series:
    """Drain rate of ours; the machine's cores stay the same."""
    series: Series = {"ours, JSON": defaultdict(list), "ours, binary": defaultdict(list)}
    for _ in range(run.few_repetitions):
        for count in run.choose(_WORKERS, _QUICK_WORKERS):
            for name, kind in (("ours, JSON", OursJson), ("ours, binary", OursBinary)):
                ours = kind(run.ground, workers=count)
                await ours.declare()
                drain = await drain_once(run, ours, int(run.pick(_DRAIN, _QUICK_DRAIN)))
                series[name][count].append(drain.per_s)
                run.say(f"  {count} worker processes, {name}: {drain.per_s:,.0f} tasks/s")
    return series


async def _models(run: Run) -> Series:
    """Drain rate with tasks for so many models in turn, copies of one."""
    points = run.choose(_MODELS, _QUICK_MODELS)
    repository = run.ground.state.room("many-models")
    names = [f"{MLP}_{index:03}" for index in range(max(points))]
    for name in names:
        await asyncio.to_thread(save_mlp, repository, name, 64)
    triton = TritonServer(run.ground.state, repository, models=names)
    triton.start_timeout_s = _LOADING_S  # type: ignore[misc] # each model is a process
    series: Series = {"ours, binary": defaultdict(list)}
    async with triton:
        for _ in range(run.few_repetitions):
            for count in points:
                ours = _ManyModels(run.ground, triton, names[:count])
                drain = await drain_once(run, ours, int(run.pick(_DRAIN, _QUICK_DRAIN)))
                series["ours, binary"][count].append(drain.per_s)
                run.say(f"  {count} models: {drain.per_s:,.0f} tasks/s")
    return series


class _ManyModels(OursBinary):
    """Ours, against another Triton, with tasks for several models."""

    def __init__(self, ground: Ground, triton: TritonServer, names: Sequence[str]) -> None:
        super().__init__(ground)
        self._triton = triton
        self._names = names

    def mail(self, index: int) -> Mail:
        """A task for the next model."""
        model = self._names[index % len(self._names)]
        return binary_mail(index, self.ground.models.row(index), model)

    def worker(self) -> Server:
        """Our pool, at the other Triton."""
        return self.ground.bridge_workers(1, self._triton)


def _show(  # noqa: PLR0913, PLR0917 - a series and its words
    report: Report, name: str, title: str, point: str, unit: str, series: Series
) -> None:
    points = sorted({p for each in series.values() for p in each})
    ways = list(series)
    first = series[ways[0]]

    def row(at: int) -> tuple[str, ...]:
        cells = [_shown(_measured(series[way].get(at, []))) for way in ways]
        if len(ways) == 1:  # beside its own first point
            ratios = _ratios(first[at], first[points[0]])
        else:
            ratios = _ratios(series[ways[1]][at], first[at])
        return (f"{at:,}", _shown(ratios, "×"), *cells)

    compared = f"{ways[1]} : {ways[0]}" if len(ways) > 1 else f"of {points[0]}"
    columns = (point, compared, *(f"{way}, {unit}" for way in ways))
    report.tables.append(Table(title, columns, tuple(row(at) for at in points)))
    plain: dict[str, Any] = {
        way: {str(at): found for at, values in each.items() if (found := _measured(values))}
        for way, each in series.items()
    }
    report.data[name] = {"title": title, "point": point, "unit": unit, "series": plain}


def _measured(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _ratios(
    numerators: Sequence[float | None], denominators: Sequence[float | None]
) -> list[float]:
    """Repetition by repetition, of those in which both were measured."""
    pairs = zip(numerators, denominators, strict=True)
    return [a / b for a, b in pairs if a is not None and b is not None]


def _shown(values: Sequence[float], unit: str = "") -> str:
    return Spread.of(values).shown(unit) if values else "-"
