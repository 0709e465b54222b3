"""One caller, nothing else to do: how long from the call to the answer."""

import time
from collections import defaultdict

import tritonclient.grpc.aio
from tritonclient.grpc import InferInput

from bridge.client import BridgeClient
from bridge.tensors import Array
from bridge.triton_client import TritonClient
from bridgebench import plots
from bridgebench.callers import (
    Call,
    Loop,
    direct,
    one_after_another,
    pooled,
    stock_call,
)
from bridgebench.competitors import Celery, Dramatiq, StockQuorum
from bridgebench.findings import Finding, Report, Spread, Table, number, percentile
from bridgebench.models import MLP
from bridgebench.scenarios.run import Run
from bridgebench.workers.stock_app import make_broker

NAME = "idle"
TITLE = "Idle round trip, one caller"
_CALLS, _QUICK_CALLS = 100, 3
_SLOW_CALLS = 12  # of a caller that polls every 200 ms
_TIMEOUT_S = 60
TITLES = {
    "direct": "direct gRPC, our TritonClient",
    "tritonclient": "direct gRPC, tritonclient.grpc.aio",
    "ours": "ours, BridgeClient",
    "dramatiq": "Dramatiq, get_result",
    "celery": "Celery, get",
    "stock_polled": "stock taskiq, polled every 5 ms",
    "stock": "stock taskiq, wait_result",
}


async def measure(run: Run) -> Report:
    """All workers run; the callers take turns, some calls each."""
    ground = run.ground
    stock, celery, dramatiq = StockQuorum(ground), Celery(ground), Dramatiq(ground)
    for competitor in (stock, celery, dramatiq):
        await competitor.declare()
        await run.post.purge(competitor.queue)
    workers = [ground.bridge_workers(1), *(c.worker() for c in (stock, celery, dramatiq))]
    broker = make_broker(ground.servers, stock.queue_type)
    foreign = tritonclient.grpc.aio.InferenceServerClient(ground.servers.triton)
    row = ground.models.row(0)
    loops: dict[str, list[Loop]] = defaultdict(list)
    submitted_ms: list[float] = []
    async with (
        run.working(*workers),
        BridgeClient(ground.settings) as client,
        TritonClient.from_settings(ground.settings) as triton,
    ):
        await broker.startup()
        callers = {
            "direct": direct(triton, MLP, row),
            "tritonclient": _with_tritonclient(foreign, row),
            "ours": _with_bridge(client, row, submitted_ms),
            "dramatiq": _with_dramatiq(dramatiq, row),
            "celery": _with_celery(celery, row),
            "stock_polled": stock_call(broker, MLP, row, 0.005),
            "stock": stock_call(broker, MLP, row, 0.2),
        }
        for call in callers.values():  # the first call waits until the worker is up
            await one_after_another(call, 1 if run.options.quick else 5)
        for _ in range(run.options.repetitions):
            for name, call in callers.items():
                count = _SLOW_CALLS if name == "stock" else _CALLS
                loops[name].append(
                    await one_after_another(call, _QUICK_CALLS if run.options.quick else count)
                )
        await broker.shutdown()
        await foreign.close()
    return _report(run, loops, submitted_ms)


def _with_bridge(client: BridgeClient, row: Array, submitted_ms: list[float]) -> Call:
    """As `infer` does, with a look at the clock in between."""

    async def call() -> object:
        started = time.perf_counter()
        handle = await client.submit(MLP, {"x": row})
        submitted_ms.append((time.perf_counter() - started) * 1e3)
        return await handle.result(_TIMEOUT_S)

    return call


def _with_tritonclient(client: tritonclient.grpc.aio.InferenceServerClient, row: Array) -> Call:
    async def call() -> object:
        x = InferInput("x", [1, 256], "FP32")
        x.set_data_from_numpy(row)
        return (await client.infer(MLP, [x])).as_numpy("y")

    return call


# Both clients block; the caller has nothing else to do.
def _with_dramatiq(dramatiq: Dramatiq, row: Array) -> Call:
    async def call() -> object:
        message = dramatiq.actor.send(MLP, {"x": row.tolist()})
        return message.get_result(backend=dramatiq.results, block=True, timeout=_TIMEOUT_S * 1000)

    return call


def _with_celery(celery: Celery, row: Array) -> Call:
    task = celery.app.tasks["ml_inference"]

    async def call() -> object:
        arguments = (MLP, {"x": row.tolist()})
        return task.apply_async(arguments).get(timeout=_TIMEOUT_S)

    return call


def _report(run: Run, loops: dict[str, list[Loop]], submitted_ms: list[float]) -> Report:
    p50 = {name: [percentile(loop.took_ms, 50) for loop in each] for name, each in loops.items()}
    report = Report(NAME, TITLE)
    report.findings = [
        Finding(
            "idle p50, ours : direct gRPC", Spread.ratio(p50["ours"], p50["direct"]), at_most=3
        ),
        Finding(
            "idle p50, Dramatiq : ours", Spread.ratio(p50["dramatiq"], p50["ours"]), at_least=1
        ),
        Finding(
            "idle p50, stock wait_result : ours",
            Spread.ratio(p50["stock"], p50["ours"]),
            at_least=40,
        ),
    ]
    report.tables.append(
        Table(
            "Round trip of one row, ms; p50: median of the repetitions (smallest to largest)",
            ("", "p50, of direct gRPC", "p50 ms", "p99 ms, all calls", "calls"),
            tuple(
                (
                    TITLES[name],
                    Spread.ratio(p50[name], p50["direct"]).shown("×"),
                    Spread.of(p50[name]).shown(),
                    number(percentile(pooled(each), 99)),
                    str(len(pooled(each))),
                )
                for name, each in loops.items()
            ),
        )
    )
    report.notes.append(
        f"Of ours, {number(percentile(submitted_ms, 50))} ms (p50) pass until RabbitMQ has "
        "confirmed that the message is safe in its quorum queue."
    )
    report.data = {
        name: {"p50_ms": p50[name], "p99_ms": percentile(pooled(each), 99), "took_ms": pooled(each)}
        for name, each in loops.items()
    }
    report.plots = plots.idle(
        run.options.out, TITLES, {name: pooled(each) for name, each in loops.items()}
    )
    return report
