"""How fast preloaded one-row tasks are served, by one worker, ours and its peers in turns."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from bridgebench import plots
from bridgebench.competitors import ALL, Competitor
from bridgebench.draining import Drain, Watch, settle
from bridgebench.findings import Finding, Report, Spread, Table, number
from bridgebench.scenarios.run import Run

NAME = "drain"
TITLE = "Draining preloaded one-row tasks"
_TARGET_S = 3.0
_LEAST, _MOST = 1_000, 40_000
_PROBE, _QUICK = 600, 200
_CHECKED = 20
_PARTS = ("worker", "Triton", "RabbitMQ", "Redis")


async def measure(run: Run) -> Report:
    """Each repetition runs every competitor once, in the same order."""
    wanted = run.options.only
    competitors = [kind(run.ground) for kind in ALL if not wanted or kind.key in wanted]
    drains = await drain_in_turns(run, competitors, run.options.repetitions)
    return _report(run, {c.key: c.title for c in competitors}, drains)


async def drain_in_turns(
    run: Run, competitors: Sequence[Competitor], repetitions: int
) -> dict[str, list[Drain]]:
    """A B C, A B C, and so on; returns the drains by key.

    Args:
        run: on whose servers.
        competitors: in order, each with a key of its own.
        repetitions: of each.
    """
    counts: dict[str, int] = {}
    for competitor in competitors:
        await competitor.declare()
        counts[competitor.key] = _QUICK if run.options.quick else await _fitting(run, competitor)
    drains: dict[str, list[Drain]] = defaultdict(list)
    for repetition in range(repetitions):
        for competitor in competitors:
            drain = await drain_once(run, competitor, counts[competitor.key])
            drains[competitor.key].append(drain)
            run.say(
                f"  {repetition + 1}/{repetitions} {competitor.title}: "
                f"{drain.per_s:,.0f} tasks/s, worker {drain.cpu_us['worker']:,.0f} µs/task"
            )
    return drains


async def drain_once(run: Run, competitor: Competitor, count: int) -> Drain:
    """Preload, start the worker, wait for all results, check a sample of them.

    Raises:
        ValueError: an output is wrong.
    """
    await run.redis.flushdb()
    await run.post.purge(competitor.queue)
    mails = [competitor.mail(index) for index in range(count)]
    await run.post.send(competitor.queue, mails)
    worker = competitor.worker()
    try:
        per_s, cpu_us = await Watch(run.ground, run.redis, mails).run(worker)
        await settle()
    finally:
        await worker.kill()
    for mail in mails[:: max(1, count // _CHECKED)]:
        output = await competitor.output(run.redis, mail)
        if not competitor.is_right(mail, output):
            raise ValueError(f"{competitor.title} answered wrongly: {output}")
    await settle()
    return Drain(count, per_s, cpu_us, await run.post.waiting(competitor.queue))


async def _fitting(run: Run, competitor: Competitor) -> int:
    """As many messages as take a few seconds; this first drain is not counted."""
    probe = await drain_once(run, competitor, _PROBE)
    return int(min(max(probe.per_s * _TARGET_S, _LEAST), _MOST))


def _report(run: Run, titles: dict[str, str], drains: dict[str, list[Drain]]) -> Report:
    rates = {key: [drain.per_s for drain in each] for key, each in drains.items()}
    cpu = _cpu(drains)
    reference = next((key for key in ("stock_quorum", *rates) if key in rates), "")
    report = Report(NAME, TITLE, _findings(rates, cpu))
    report.tables.append(
        table("Drain rate and CPU time, median (smallest to largest)", titles, drains, reference)
    )
    report.data = plain(titles, drains)
    report.plots = plots.drain(run.options.out, titles, rates, cpu)
    return report


def table(
    title: str, titles: Mapping[str, str], drains: Mapping[str, list[Drain]], reference: str
) -> Table:
    """A row for each competitor.

    Args:
        title: of the table.
        titles: of competitors by key, in order.
        drains: by key.
        reference: the key of the one that rates are compared with.
    """
    rates = {key: [drain.per_s for drain in each] for key, each in drains.items()}
    cpu = _cpu(drains)
    rows = [
        (
            title,
            Spread.ratio(rates[key], rates[reference]).shown("×"),
            Spread.of(rates[key]).shown(),
            *(number(cpu[key][part].median) for part in _PARTS),
            str(drains[key][0].tasks),
            str(sum(drain.left for drain in drains[key])),
        )
        for key, title in titles.items()
    ]
    columns = (
        "",
        f"of {titles[reference]}",
        "tasks/s",
        *(f"{part} CPU µs/task" for part in _PARTS),
        "tasks in a drain",
        "not acknowledged",
    )
    return Table(title, columns, tuple(rows))


def plain(titles: Mapping[str, str], drains: Mapping[str, list[Drain]]) -> dict[str, Any]:
    """All drains by key, for JSON."""
    return {
        key: {"title": titles[key], "drains": [_plain(drain) for drain in each]}
        for key, each in drains.items()
    }


def _cpu(drains: Mapping[str, list[Drain]]) -> dict[str, dict[str, Spread]]:
    return {
        key: {part: Spread.of([d.cpu_us[part] for d in each]) for part in _PARTS}
        for key, each in drains.items()
    }


def _findings(rates: dict[str, list[float]], cpu: dict[str, dict[str, Spread]]) -> list[Finding]:
    aims = (
        ("ours, JSON : stock taskiq", "ours_json", "stock_quorum", 4.0),
        ("ours, binary : stock taskiq", "ours_binary", "stock_quorum", 6.0),
        ("ours, JSON : Dramatiq", "ours_json", "dramatiq", 2.5),
        ("ours, JSON : Celery", "ours_json", "celery", 8.0),
        ("ours, JSON : hand-written loop, JSON", "ours_json", "ceiling_json", 0.85),
        ("ours, binary : hand-written loop, binary", "ours_binary", "ceiling_binary", 0.85),
    )
    findings = [
        Finding(f"tasks/s, {title}", Spread.ratio(rates[mine], rates[other]), at_least=aim)
        for title, mine, other, aim in aims
        if mine in rates and other in rates
    ]
    findings += [
        Finding(
            f"worker CPU for a task, {title.split(' : ')[1]} : {title.split(' : ')[0]}",
            Spread.ratio(cpu[other]["worker"].values, cpu[mine]["worker"].values),
        )
        for title, mine, other, _ in aims
        if mine in rates and other in rates
    ]
    return findings


def _plain(drain: Drain) -> dict[str, Any]:
    return {
        "tasks": drain.tasks,
        "per_s": drain.per_s,
        "cpu_us": dict(drain.cpu_us),
        "not_acknowledged": drain.left,
    }
