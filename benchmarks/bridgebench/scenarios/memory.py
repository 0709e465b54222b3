"""Memory of one inference worker: idle, under load, and after many tasks."""

import asyncio
from dataclasses import asdict

import psutil

from bridge.embedded.server import Server
from bridgebench import plots
from bridgebench.competitors import OursBinary
from bridgebench.draining import settle
from bridgebench.findings import Finding, Report, Spread, Table, number
from bridgebench.processes import Memory, memory, tree_memory
from bridgebench.scenarios.run import Run

NAME = "memory"
TITLE = "Memory of one inference worker"
_TASKS, _QUICK_TASKS = 100_000, 1_000
_CHUNKS = 20
_SETTLED = 0.2  # of the tasks: pools and arenas have their size by then
_MOST_MB, _MOST_GROWTH_PERCENT = 150.0, 5.0
_IDLE_S = 2.0


async def measure(run: Run) -> Report:
    """A chunk of tasks waits in the queue while the worker serves the one before."""
    ours = OursBinary(run.ground)
    tasks = int(run.pick(_TASKS, _QUICK_TASKS))
    worker = ours.worker()
    async with run.working(worker):
        await asyncio.sleep(run.pick(_IDLE_S, 0.2))
        idle, whole_idle = _look(worker)
        series = await _feed(run, ours, worker, tasks)
        await settle()
        await asyncio.sleep(run.pick(_IDLE_S, 0.2))
        after, whole_after = _look(worker)
    return _report(run, tasks, series, [(idle, whole_idle), (after, whole_after)])


async def _feed(
    run: Run, ours: OursBinary, worker: Server, tasks: int
) -> list[tuple[int, Memory, Memory]]:
    """Memory after each chunk, while the next one is being served: of the process, of the tree."""
    series = []
    chunk = tasks // _CHUNKS
    await run.redis.flushdb()
    sent = 0
    for number_ in range(1, _CHUNKS + 1):
        if sent < tasks:
            await run.post.send(ours.queue, [ours.mail(i) for i in range(chunk)])
            sent += chunk
        while int(await run.redis.dbsize()) < chunk * (number_ - 1) + chunk // 2:
            await asyncio.sleep(0.02)
        series.append((chunk * number_, *_look(worker)))
    while int(await run.redis.dbsize()) < sent:
        await asyncio.sleep(0.02)
    return series


def _look(worker: Server) -> tuple[Memory, Memory]:
    """Of the process that serves, and of all that the command started."""
    command = psutil.Process(worker.pid)
    serving = max(command.children(), key=lambda child: child.memory_info().rss)
    return memory(serving), tree_memory(command)


def _report(
    run: Run,
    tasks: int,
    series: list[tuple[int, Memory, Memory]],
    ends: list[tuple[Memory, Memory]],
) -> Report:
    (idle, whole_idle), (after, whole_after) = ends
    settled = next(m for done, m, _ in series if done >= tasks * _SETTLED)
    peak = max((m for _, m, _ in series), key=lambda m: m.pss_mb)
    whole_peak = max((m for _, _, m in series), key=lambda m: m.pss_mb)
    last = series[-1][1]
    growth = (last.rss_mb / settled.rss_mb - 1) * 100
    report = Report(NAME, TITLE)
    report.findings = [
        Finding(
            "memory under load, worker process and its supervisor (PSS)",
            Spread.of([whole_peak.pss_mb]),
            unit="MB",
            at_most=_MOST_MB,
        ),
        Finding(
            f"memory growth from {tasks * _SETTLED:,.0f} to {tasks:,} tasks (RSS)",
            Spread.of([growth]),
            unit="%",
            at_most=_MOST_GROWTH_PERCENT,
        ),
    ]
    rows = (
        ("idle, after start", idle, whole_idle),
        ("most under load", peak, whole_peak),
        (f"idle, after {tasks:,} tasks", after, whole_after),
    )
    report.tables.append(
        Table(
            "MB; PSS counts a page shared by n processes as 1/n",
            ("", "process PSS", "process RSS", "with taskiq's supervisor, PSS", "RSS"),
            tuple(
                (
                    title,
                    *(number(mb) for mb in (one.pss_mb, one.rss_mb, all_.pss_mb, all_.rss_mb)),
                )
                for title, one, all_ in rows
            ),
        )
    )
    report.data = {
        "tasks": tasks,
        "rows": {title: [asdict(one), asdict(all_)] for title, one, all_ in rows},
        "series": [(done, asdict(one), asdict(all_)) for done, one, all_ in series],
    }
    report.plots = plots.memory(
        run.options.out, [(done, m.rss_mb, m.pss_mb) for done, m, _ in series]
    )
    return report
