"""Something is killed while it trains: how long until it makes progress again."""

import asyncio
import time
from typing import Any

import psutil

from bridge.client.handles import TaskHandle
from bridge.training.child import BUSY
from bridgebench.findings import Finding, Report, Spread, Table, number
from bridgebench.scenarios.run import Run
from bridgebench.training.ways import Pool, pools
from bridgebench.training.works import Sizes, digits

NAME = "recovery"
TITLE = "From a kill to progress again"
_AIM_S = 10.0
_CHECKPOINT_EVERY_S = "1"
_LOOK_EVERY_S = 0.02
_MOST_S = 900.0
_ENDLESS = 100_000

_AGE = (
    "The digits CNN, with a checkpoint each second, so that there is always one; how old it is "
    "does not change how long a new process takes, only how much is trained again."
)
_KILLS = (
    "A killed training process leaves its worker, which goes on at once. A killed worker takes its "
    "training process with it (the kernel sees to that); taskiq starts another, and RabbitMQ "
    "delivers the message to it. It is a process of the same machine, sees that the old one is no "
    "more, and takes the training over at once; on another machine it would wait until the old "
    "one's lease (`BRIDGE_TRAINING_LEASE_S`) is over, which is not measured here."
)

Progress = dict[str, Any]


async def measure(run: Run, sizes: Sizes) -> Report:
    """One training that does not end; its process and its worker are killed in turn."""
    lease_s = min(sizes.lease_s, 2.0) if run.options.quick else sizes.lease_s
    variables = {
        "BRIDGE_CHECKPOINT_EVERY_S": _CHECKPOINT_EVERY_S,
        "BRIDGE_TRAINING_LEASE_S": str(lease_s),
    }
    took: dict[str, list[float]] = {"process": [], "worker": []}
    async with pools(run, sizes, bench_recovery=variables) as made:
        pool, work = made["bench_recovery"], digits(_ENDLESS)
        handle = await pool.client.train(work.name, work.model_config, work.hyperparameters)
        for _ in range(run.options.repetitions):
            for victim, each in took.items():
                each.append(await _recovered(pool, handle, victim))
                run.say(f"  the {victim} was killed: progress after {each[-1]:.1f} s")
        await handle.cancel(now=True)
    return _report(took, lease_s)


async def _recovered(pool: Pool, handle: TaskHandle, victim: str) -> float:
    """Kill it; seconds to the first record of a later slice, beyond the last checkpoint."""
    before = await _reached(handle, lambda record: record.get("checkpoint") is not None)
    # Not in the moment of saving: another half a second, and then at once.
    await asyncio.sleep(0.5)
    before = await handle.progress() or before
    began = time.monotonic()
    _victim(pool, victim).kill()

    def beyond(record: Progress) -> bool:
        saved = record.get("checkpoint")
        return (
            record["slice"] > before["slice"]
            and saved is not None
            and record["step"] > saved["step"]
        )

    await _reached(handle, beyond)
    return time.monotonic() - began


def _victim(pool: Pool, victim: str) -> psutil.Process:
    """The training process, or the worker process that started it (not taskiq's supervisor)."""
    for process in psutil.Process(pool.worker.pid).children(recursive=True):
        if process.name() == BUSY:
            parent = process.parent()
            if victim == "process" or parent is None:
                return process
            return parent
    raise RuntimeError("nothing trains")


async def _reached(handle: TaskHandle, wanted: Any) -> Progress:
    deadline = time.monotonic() + _MOST_S
    while time.monotonic() < deadline:
        record = await handle.progress()
        if record is not None and "step" in record and wanted(record):
            return record
        await asyncio.sleep(_LOOK_EVERY_S)
    raise RuntimeError(f"no progress for {_MOST_S:g} s")


def _report(took: dict[str, list[float]], lease_s: float) -> Report:
    report = Report(NAME, TITLE)
    titles = {
        "process": "kill -9 of the training process",
        "worker": f"kill -9 of the worker, same machine, with a lease of {number(lease_s)} s",
    }
    report.findings = [
        Finding(f"{titles[victim]}, to progress", Spread.of(each), "s", at_most=_AIM_S)
        for victim, each in took.items()
    ]
    report.tables.append(
        Table(
            "Seconds from the kill to the first progress beyond the last checkpoint",
            ("", "median", "longest", "kills"),
            tuple(
                (titles[v], number(Spread.of(e).median), number(max(e)), str(len(e)))
                for v, e in took.items()
            ),
        )
    )
    report.notes = [_AGE, _KILLS]
    report.data = {"took_s": took, "lease_s": lease_s}
    return report
