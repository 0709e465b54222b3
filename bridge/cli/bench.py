"""`mlbridge bench`: a model of one's own on a running stack, through the queue and directly.

Both ways take turns in short rounds, so that what else the machine does meanwhile strikes both;
ratios are taken round by round.
"""

import asyncio
import math
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer

from bridge.cli.batches import batches_of, by_size
from bridge.cli.made_up import make_inputs, parse_shape
from bridge.cli.output import Json, figure, print_json, print_table
from bridge.client import BridgeClient
from bridge.settings import load_settings
from bridge.tensors import Array, Tensor
from bridge.triton_client import TritonClient

_WARM_UP_CALLS = 3
_PERCENTS = (50, 90, 99)


class Way(StrEnum):
    """How to the model."""

    BOTH = "both"
    QUEUE = "queue"
    DIRECT = "direct"


Call = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class _Round:
    """One way, some seconds."""

    calls_per_s: float
    took_ms: dict[int, float]
    """Percent -> milliseconds that so many calls did not exceed."""
    batches: dict[int, int]
    """Rows in a batch that Triton ran -> how many such batches."""


def bench(
    model: Annotated[str, typer.Argument(help="The model's name in Triton.")],
    *,
    rows: Annotated[int, typer.Option(min=1, help="Rows in a call.")] = 1,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Callers, each waiting for its answer. 1: idle latency.")
    ] = 16,
    seconds: Annotated[float, typer.Option(min=0.1, help="For each way, all rounds.")] = 10.0,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in which the ways take turns.")] = 5,
    way: Annotated[Way, typer.Option(help="Which ways to measure.")] = Way.BOTH,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SIZES",
            help="An input's shape without the rows, such as image=3,224,224, where the model "
            "leaves sizes open; they are 1 by default. Repeat for more.",
        ),
    ] = None,
    version: Annotated[str, typer.Option(help="A served version. Default: the newest.")] = "",
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0, help="Seconds for one call.")
    ] = 60.0,
    json: Json = False,
) -> None:
    """Measure a model on the running stack: throughput, latency and the batches Triton ran.

    Inputs are made up: normally distributed numbers, integers 0 and 1, short texts.

    Example: `mlbridge bench digits --concurrency 64`

    Example: `mlbridge bench resnet --rows 8 --shape image=3,224,224 --seconds 30 --json`
    """
    ways = [Way.DIRECT, Way.QUEUE] if way is Way.BOTH else [way]
    sizes = dict(parse_shape(item) for item in shape or ())
    plan = _Plan(model, version, rows, concurrency, seconds / rounds, rounds, timeout_s)
    report = asyncio.run(_bench(plan, ways, sizes))
    print_json(report) if json else _show(report)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is measured, and how long."""

    model: str
    version: str
    rows: int
    concurrency: int
    round_s: float
    rounds: int
    timeout_s: float


async def _bench(
    plan: _Plan, ways: Sequence[Way], sizes: dict[str, tuple[int, ...]]
) -> dict[str, Any]:
    settings = load_settings()
    async with TritonClient.from_settings(settings) as triton:
        spec = await triton.model_spec(plan.model, plan.version)
        inputs = make_inputs(spec, plan.rows, sizes)
        calls = {Way.DIRECT: _directly(plan, triton, inputs)}
        if Way.QUEUE not in ways:
            found = await _take_turns(plan, triton, {way: calls[way] for way in ways})
        else:
            async with BridgeClient(settings) as client:
                calls[Way.QUEUE] = _queued(plan, client, inputs)
                found = await _take_turns(plan, triton, {way: calls[way] for way in ways})
    return _report(plan, inputs, found)


def _directly(plan: _Plan, triton: TritonClient, inputs: dict[str, Array]) -> Call:
    tensors = {name: Tensor.from_array(array) for name, array in inputs.items()}
    return lambda: triton.infer(plan.model, tensors, version=plan.version, timeout_s=plan.timeout_s)


def _queued(plan: _Plan, client: BridgeClient, inputs: dict[str, Array]) -> Call:
    version = plan.version or None
    return lambda: client.infer(plan.model, inputs, version=version, timeout_s=plan.timeout_s)


async def _take_turns(
    plan: _Plan, triton: TritonClient, calls: dict[Way, Call]
) -> dict[Way, list[_Round]]:
    for call in calls.values():
        for _ in range(_WARM_UP_CALLS):
            await call()
    found: dict[Way, list[_Round]] = {way: [] for way in calls}
    for _ in range(plan.rounds):
        for way, call in calls.items():
            before = await batches_of(triton, plan.model)
            took_ms, lasted_s = await _round(call, plan.concurrency, plan.round_s)
            after = await batches_of(triton, plan.model)
            found[way].append(
                _Round(
                    len(took_ms) / lasted_s,
                    {percent: _percentile(took_ms, percent) for percent in _PERCENTS},
                    {
                        size: count - before.get(size, 0)
                        for size, count in after.items()
                        if count > before.get(size, 0)
                    },
                )
            )
    return found


async def _round(call: Call, concurrency: int, seconds: float) -> tuple[list[float], float]:
    """Milliseconds of each call, and how long the round lasted until its last answer."""
    took_ms: list[float] = []
    begun = time.perf_counter()

    async def caller() -> None:
        while (started := time.perf_counter()) < begun + seconds:
            await call()
            took_ms.append((time.perf_counter() - started) * 1e3)

    await asyncio.gather(*(caller() for _ in range(concurrency)))
    return took_ms, time.perf_counter() - begun


def _percentile(values: Sequence[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[math.ceil(len(ordered) * percent / 100) - 1]


def _report(
    plan: _Plan, inputs: dict[str, Array], found: dict[Way, list[_Round]]
) -> dict[str, Any]:
    report: dict[str, Any] = {
        "model": plan.model,
        "inputs": {name: list(array.shape) for name, array in inputs.items()},
        "rows": plan.rows,
        "concurrency": plan.concurrency,
        "rounds": plan.rounds,
        "round_s": plan.round_s,
        "ways": {way.value: _summed(plan, each) for way, each in found.items()},
    }
    if len(found) > 1:
        queue, direct = found[Way.QUEUE], found[Way.DIRECT]
        pairs = list(zip(queue, direct, strict=True))
        report["queue_to_direct"] = {
            "throughput": _spread([q.calls_per_s / d.calls_per_s for q, d in pairs]),
            **{
                f"p{percent}": _spread([q.took_ms[percent] / d.took_ms[percent] for q, d in pairs])
                for percent in _PERCENTS
            },
        }
    return report


def _summed(plan: _Plan, rounds: list[_Round]) -> dict[str, Any]:
    batches: dict[int, int] = {}
    for one in rounds:
        for size, count in one.batches.items():
            batches[size] = batches.get(size, 0) + count
    runs = sum(batches.values())
    return {
        "calls_per_s": _spread([one.calls_per_s for one in rounds]),
        "rows_per_s": _spread([one.calls_per_s * plan.rows for one in rounds]),
        **{f"p{p}_ms": _spread([one.took_ms[p] for one in rounds]) for p in _PERCENTS},
        "rows_in_a_batch": round(sum(s * n for s, n in batches.items()) / runs, 2)
        if runs
        else None,
        "batches": by_size(batches),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 4),
        "low": round(min(values), 4),
        "high": round(max(values), 4),
    }


def _show(report: dict[str, Any]) -> None:
    ways = report["ways"]
    ratios = report.get("queue_to_direct")
    lines = [("throughput", "calls_per_s", "calls/s"), ("", "rows_per_s", "rows/s")]
    lines += [(f"p{percent}", f"p{percent}_ms", "ms") for percent in _PERCENTS]
    table = [
        (
            f"{title or 'throughput'}, {unit}",
            *([_shown(ratios[title]) if title else ""] if ratios else []),
            *(_shown(way[field]) for way in ways.values()),
        )
        for title, field, unit in lines
    ]
    table.append(
        (
            "rows in a batch",
            *[""] * bool(ratios),
            *(str(way["rows_in_a_batch"]) for way in ways.values()),
        )
    )
    columns = ("", *(["queue : direct"] if ratios else []), *(_TITLES[name] for name in ways))
    print_table(
        f"{report['model']}: {report['rows']} rows in a call, {report['concurrency']} callers, "
        f"{report['rounds']} rounds of {report['round_s']:g} s; median (smallest to largest)",
        columns,
        table,
    )


_TITLES = {"direct": "direct gRPC", "queue": "through the queue"}


def _shown(spread: dict[str, float]) -> str:
    median, low, high = (figure(spread[key]) for key in ("median", "low", "high"))
    return f"{median} ({low} to {high})"
