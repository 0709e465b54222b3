"""Latency against offered load, open loop, up to saturation; and what batches Triton saw."""

from collections import defaultdict
from dataclasses import dataclass

from bridge.client import BridgeClient
from bridge.triton_client import TritonClient
from bridgebench import plots
from bridgebench.arrivals import Offered, offer
from bridgebench.callers import Call, direct, one_after_another, through_queue
from bridgebench.findings import Finding, Report, Spread, Table, percentile
from bridgebench.models import MLP
from bridgebench.scenarios.run import Run

NAME = "load"
TITLE = "Latency against offered load"
TITLES = {"direct": "direct gRPC", "ours": "ours, through the queue"}
_LOADS = (100, 250, 500, 750, 1_000, 1_500, 2_000, 3_000, 4_000, 6_000)
_QUICK_LOADS = (50, 100)
_KEEPS_UP = 0.9
_TOO_SLOW_MS = 1_000.0


@dataclass(frozen=True, slots=True)
class Step:
    """One load, one way, all repetitions."""

    offered_per_s: int
    served_per_s: Spread
    p50_ms: Spread
    p99_ms: Spread
    rows_in_a_batch: Spread
    saturated: bool


async def measure(run: Run) -> Report:
    """Both ways take turns at each load; one that is saturated climbs no further."""
    steps: dict[str, list[Step]] = {name: [] for name in TITLES}
    row = run.ground.models.row(0)
    async with (
        run.working(run.ground.bridge_workers(1)),
        BridgeClient(run.ground.settings) as client,
        TritonClient.from_settings(run.ground.settings) as triton,
    ):
        calls = {"direct": direct(triton, MLP, row), "ours": through_queue(client, MLP, row)}
        for call in calls.values():
            await one_after_another(call, 5)
        for load in run.choose(_LOADS, _QUICK_LOADS):
            climbing = [name for name in TITLES if not steps[name] or not steps[name][-1].saturated]
            if not climbing:
                break
            for name, step in (await _step(run, triton, calls, climbing, load)).items():
                steps[name].append(step)
                run.say(f"  {load}/s {TITLES[name]}: p50 {step.p50_ms.shown('ms')}")
    return _report(run, steps)


async def _step(
    run: Run, triton: TritonClient, calls: dict[str, Call], names: list[str], load: int
) -> dict[str, Step]:
    found: dict[str, list[tuple[Offered, float]]] = defaultdict(list)
    for repetition in range(run.few_repetitions):
        for name in names:
            before = await _counts(triton)
            offered = await offer(calls[name], load, run.pick(3.0, 0.5), seed=repetition)
            rows, batches = (b - a for a, b in zip(before, await _counts(triton), strict=True))
            found[name].append((offered, rows / max(batches, 1)))
            await run.redis.flushdb()
    return {name: _summed(load, each) for name, each in found.items()}


async def _counts(triton: TritonClient) -> tuple[int, int]:
    """Rows and batches that Triton has run of the model."""
    versions = await triton.statistics(MLP)
    return (
        sum(version.inference_count for version in versions),
        sum(version.execution_count for version in versions),
    )


def _summed(load: int, found: list[tuple[Offered, float]]) -> Step:
    p99 = Spread.of([percentile(o.latency_ms, 99) for o, _ in found])
    kept_up = Spread.of([o.served_per_s / o.offered_per_s for o, _ in found])
    return Step(
        load,
        Spread.of([o.served_per_s for o, _ in found]),
        Spread.of([percentile(o.latency_ms, 50) for o, _ in found]),
        p99,
        Spread.of([rows for _, rows in found]),
        saturated=any(o.gave_up for o, _ in found)
        or kept_up.median < _KEEPS_UP
        or not p99.median < _TOO_SLOW_MS,
    )


def _report(run: Run, steps: dict[str, list[Step]]) -> Report:
    report = Report(NAME, TITLE)
    most = {
        name: max((s.served_per_s.median for s in each if not s.saturated), default=0.0)
        for name, each in steps.items()
    }
    if all(most.values()):
        ratio = Spread.of([most["ours"] / most["direct"]])
        report.findings.append(
            Finding("highest load served without saturation, ours : direct gRPC", ratio)
        )
    report.tables.append(
        Table(
            "One-row calls, Poisson arrivals, one worker process",
            ("offered/s", "way", "served/s", "p50 ms", "p99 ms", "rows in a batch", ""),
            tuple(
                (
                    f"{step.offered_per_s:,}",
                    TITLES[name],
                    step.served_per_s.shown(),
                    step.p50_ms.shown(),
                    step.p99_ms.shown(),
                    step.rows_in_a_batch.shown(),
                    "saturated" if step.saturated else "",
                )
                for name, step in sorted(
                    ((name, step) for name, each in steps.items() for step in each),
                    key=lambda item: item[1].offered_per_s,
                )
            ),
        )
    )
    report.data = {
        name: [
            {
                "offered_per_s": step.offered_per_s,
                "served_per_s": step.served_per_s.values,
                "p50_ms": step.p50_ms.values,
                "p99_ms": step.p99_ms.values,
                "rows_in_a_batch": step.rows_in_a_batch.values,
                "saturated": step.saturated,
            }
            for step in each
        ]
        for name, each in steps.items()
    }
    report.plots = plots.load(run.options.out, TITLES, report.data)
    return report
