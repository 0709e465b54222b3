"""A tensor of 1 × 3 × 224 × 224 FP32 in a message: raw bytes beside lists in JSON."""

from bridge.client import BridgeClient
from bridge.triton_client import TritonClient
from bridgebench.callers import JsonCaller, direct, ones, side_by_side, through_queue
from bridgebench.findings import Finding, Report, Spread, Table, number, percentile
from bridgebench.models import IMAGE
from bridgebench.scenarios.run import Run

NAME = "images"
TITLE = "Tensors of 1 × 3 × 224 × 224 FP32"
_IN_FLIGHT = 4
_TITLES = {
    "direct": "direct gRPC",
    "binary": "ours, binary (BridgeClient)",
    "json": "ours, JSON lists (stock taskiq client, polled every 5 ms)",
}


async def measure(run: Run) -> Report:
    """Input only is counted: the model answers three numbers."""
    array = ones(1, 3, 224, 224)
    megabytes = array.nbytes / 1e6
    rates: dict[str, list[float]] = {name: [] for name in _TITLES}
    p50: dict[str, list[float]] = {name: [] for name in _TITLES}
    async with (
        run.working(run.ground.bridge_workers(1)),
        BridgeClient(run.ground.settings) as client,
        TritonClient.from_settings(run.ground.settings) as triton,
        JsonCaller(run.ground.settings) as json_caller,
    ):
        calls = {
            "direct": direct(triton, IMAGE, array),
            "binary": through_queue(client, IMAGE, array),
            "json": json_caller.call(IMAGE, array),
        }
        for _ in range(run.options.repetitions):
            for name, call in calls.items():
                loop = await side_by_side(call, _IN_FLIGHT, run.pick(3.0, 0.5))
                rates[name].append(loop.per_s * megabytes)
                p50[name].append(percentile(loop.took_ms, 50))
    report = Report(NAME, TITLE)
    report.findings.append(
        Finding(
            "MB/s of image tensors, ours binary : ours JSON lists",
            Spread.ratio(rates["binary"], rates["json"]),
            at_least=10,
        )
    )
    report.tables.append(
        Table(
            f"{megabytes * 1e3:,.0f} kB tensors, {_IN_FLIGHT} in flight, end to end",
            ("", "of JSON lists", "MB/s", "p50 ms"),
            tuple(
                (
                    title,
                    Spread.ratio(rates[name], rates["json"]).shown("×"),
                    Spread.of(rates[name]).shown(),
                    number(Spread.of(p50[name]).median),
                )
                for name, title in _TITLES.items()
            ),
        )
    )
    report.data = {"mb_per_s": rates, "p50_ms": p50, "in_flight": _IN_FLIGHT}
    return report
