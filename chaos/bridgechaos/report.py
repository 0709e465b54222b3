"""What a run found, for a person, for a program, and for the docs."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from bridgechaos.outcome import Hit, Outcome


def counts(outcome: Outcome) -> dict[str, int | float]:
    """The figures of a run, by their names for a person."""
    found = outcome.balance
    return {
        "faults that hit nobody": sum(hit.nobody for hit in outcome.hits),
        "tasks submitted and confirmed": found.submitted,
        "succeeded": found.succeeded,
        "failed as deserved": found.deserved,
        "dead-lettered": found.letters,
        "failed wrongly": len(found.failed_wrongly),
        "lost": len(found.lost),
        "no end yet, still queued": found.late,
        "wrong answers": len(found.wrong_answers),
        "in two places": len(found.two_places),
        "told one end, recorded another": len(found.two_outcomes),
        "results of nobody's tasks": len(found.strangers),
        "queues that still hold messages": len(found.stuck),
        "stuck until workers were restarted": len(found.freed),
        "not confirmed": found.unconfirmed,
        "of these, done all the same": found.unconfirmed_done,
        "second copies of dead letters": found.letters_again,
        "rows executed again": found.executed_again,
        **(_of_trainings(outcome) if outcome.options.trainings else {}),
        "submissions that hung": outcome.hung,
        "callers never told of a result": outcome.deaf,
        "parts and worker processes that ended by themselves": len(outcome.unexpected),
        "parts that did not come back by themselves": len(outcome.not_back),
        "zombies": len(outcome.zombies),
        "most growth of a worker, MB": round(outcome.growth_mb, 1),
        "longest stall with all parts up, s": round(outcome.stall_s, 1),
        "settled after, s": round(outcome.settled_s, 1),
        "took, s": round(outcome.took_s, 1),
    }


def _of_trainings(outcome: Outcome) -> dict[str, int]:
    found = outcome.balance
    return {
        "trainings, of these": found.trainings,
        "that succeeded": found.trained,
        "that were cancelled": found.cancelled,
        "that were cancelled when just published": found.cancelled_live,
        "without the version that was told": len(found.no_version),
        "published twice, or though they failed": len(found.published_twice),
        "left behind in Redis, as processes or unserved": len(found.left_over),
    }


def recoveries(outcome: Outcome) -> dict[str, dict[str, Any]]:
    """By kind: how often, and seconds until a probe succeeded; None: it never did.

    Where there was nobody to hit, nobody recovered: such faults are counted, and no more.
    """
    by_kind: dict[str, list[Hit]] = defaultdict(list)
    for hit in outcome.hits:
        by_kind[hit.fault.kind].append(hit)
    found: dict[str, dict[str, Any]] = {}
    for kind, all_of_them in sorted(by_kind.items()):
        hits = [hit for hit in all_of_them if not hit.nobody]
        slowest = max(hits, key=_recovery_s, default=None)
        found[kind] = {
            "count": len(all_of_them),
            "nobody": len(all_of_them) - len(hits),
            **_spread("", [hit.recovery_s for hit in hits]),
            "slowest": "" if slowest is None else slowest.fault.target,
            **_spread("ended_", [hit.ended_s for hit in hits]),
        }
    return found


def _recovery_s(hit: Hit) -> float:
    return math.inf if hit.recovery_s is None else hit.recovery_s


def _spread(name: str, found: list[float | None]) -> dict[str, float | None]:
    """Median of those that there are; the largest only if there are all."""
    there = [it for it in found if it is not None]
    return {
        f"{name}median_s": round(statistics.median(there), 2) if there else None,
        f"{name}max_s": round(max(there), 2) if there and len(there) == len(found) else None,
    }


def plain(outcome: Outcome) -> dict[str, Any]:
    """All of it, for `--json`."""
    found = outcome.balance
    return {
        "seed": outcome.options.seed,
        "good": outcome.good,
        "counts": counts(outcome),
        "faults": recoveries(outcome),
        "left_out": outcome.left_out,
        "wrong_errors": dict(errors_by_class(found.failed_wrongly)),
        "wrong": found.faults,
        "troubles": outcome.troubles,
        "schedule": [str(hit.fault) for hit in outcome.hits],
        "hit_nobody": [str(hit.fault) for hit in outcome.hits if hit.nobody],
    }


def errors_by_class(lines: Sequence[str]) -> Counter[str]:
    """Wrong failures by the error's class."""
    return Counter(line.split(": ")[1] for line in lines)


def show(outcome: Outcome, console: Console) -> None:
    """Tables, and the tasks that are wrong."""
    alone = ", one at a time" if outcome.options.rounds else ""
    table = Table(title=f"{len(outcome.hits)} faults{alone}, seed {outcome.options.seed}")
    for column in fault_columns(outcome):
        table.add_column(column, justify="left" if column in {"fault", "of"} else "right")
    for row in fault_rows(outcome):
        table.add_row(*row)
    console.print(table)
    ledger = Table(title="ledger", show_header=False)
    ledger.add_column()
    ledger.add_column(justify="right")
    for name, value in counts(outcome).items():
        ledger.add_row(name, f"{value:,}")
    console.print(ledger)
    console.print(outcome.balance.described(), markup=False, highlight=False)
    for trouble in outcome.troubles:
        console.print(trouble, markup=False, highlight=False)
    verdict = "balances" if outcome.good else "DOES NOT BALANCE"
    console.print(f"seed {outcome.options.seed}: the ledger {verdict}")


def fault_columns(outcome: Outcome) -> list[str]:
    """What `fault_rows` gives."""
    alone = ["of", "all ended, median s", "max s"] if outcome.options.rounds else []
    return ["fault", "count", "of these, hit nobody", "recovery, median s", "max s", *alone]


def fault_rows(outcome: Outcome) -> list[list[str]]:
    """A row for each kind, those that were left out last and loud."""
    columns = len(fault_columns(outcome))
    rows = []
    for kind, it in recoveries(outcome).items():
        never = "never" if it["count"] > it["nobody"] else "-"
        seconds = {
            key: never if it[key] is None else f"{it[key]:.2f}"
            for key in ("median_s", "max_s", "ended_median_s", "ended_max_s")
        }
        told = [seconds["median_s"], seconds["max_s"], it["slowest"]]
        late = [seconds["ended_median_s"], seconds["ended_max_s"]]
        rows.append([kind, str(it["count"]), str(it["nobody"]), *told, *late])
    for kind, why in outcome.left_out.items():
        rows.append([f"LEFT OUT: {kind} ({why})", "0", *[""] * 6])
    return [row[:columns] for row in rows]
