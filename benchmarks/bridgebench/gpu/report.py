"""What `make gpu-check` found, for people and for machines. Pure.

Enters: rates and what was seen of the GPU. Leaves: a `Report`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bridgebench.findings import Finding, Report, Spread, Table
from bridgebench.gpu.measuring import WAYS, Measured, Plan
from bridgebench.gpu.nets import Net

AIM = 0.9
_BASELINE = "process"
_OTHERS = tuple(way for way in WAYS if way != _BASELINE)
_UNKNOWN = "nvidia-smi does not tell"
_LONGEST = 500  # of what went wrong; the whole of it was printed
WORDS = {True: "yes", False: "NO", None: "not known"}
"""Of what is as it must be."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must be so if the GPU was really used."""

    title: str
    seen: str
    passed: bool | None
    """None: nobody can say."""


def check_instances(what: str, instances: Sequence[dict[str, str]], wanted: str) -> Check:
    """Whether each instance runs where it shall, with most of the model's nodes.

    Args:
        what: happened with them.
        instances: as `TritonServer.instances` gives them.
        wanted: the beginning of the device: `cuda:`, `cpu:`.
    """
    kinds = ("CPU",) if wanted == "cpu:" else ("CUDA", "Tensorrt")
    seen, right = set(), bool(instances)
    for each in instances:
        there, nodes = _nodes(each["nodes"], kinds)
        seen.add(
            f"{each['model']}: {each['device']} ({each['provider']}, {there} of {nodes} nodes)"
        )
        placed = each["device"].startswith(wanted) and each["provider"].startswith(kinds)
        right = right and placed and 2 * there > nodes
    return Check(f"Triton's sessions, {what}", "; ".join(sorted(seen)) or "none", right)


def _nodes(told: str, kinds: tuple[str, ...]) -> tuple[int, int]:
    """How many nodes providers of these kinds compute, and how many there are."""
    pairs = [part.rpartition(":") for part in told.split(",") if part]
    counts = [(name, int(count)) for name, _, count in pairs]
    return sum(n for name, n in counts if name.startswith(kinds)), sum(n for _, n in counts)


def check_usage(
    what: str, *, grown_mb: float | None, utilisation: float | None, least_mb: float
) -> list[Check]:
    """Whether a GPU held something, and computed.

    Args:
        what: happened meanwhile.
        grown_mb: the memory that it took, in MiB; None: nvidia-smi does not tell.
        utilisation: the highest, in percent; None likewise.
        least_mb: what it must have taken at least.
    """
    return [
        Check(
            f"GPU memory during {what}",
            _UNKNOWN if grown_mb is None else f"{grown_mb:,.0f} MiB more",
            None if grown_mb is None else grown_mb >= least_mb,
        ),
        Check(
            f"GPU utilisation during {what}",
            _UNKNOWN if utilisation is None else f"up to {utilisation:.0f} %",
            None if utilisation is None else utilisation > 0,
        ),
    ]


def check_measured(plan: Plan, measured: Measured) -> list[Check]:
    """Which networks could not be measured, and why."""
    titles = {net.name: net.title for net in plan.nets}
    return [check_failed(titles[name], why) for name, why in measured.failed.items()]


def check_failed(what: str, why: str) -> Check:
    """What could not be done at all."""
    seen = " ".join(why.split())
    return Check(what, seen if len(seen) <= _LONGEST else f"{seen[:_LONGEST]}…", passed=False)


def compare(plan: Plan, measured: Measured) -> Report:
    """The ratios: best of all batches, repetition by repetition, and each batch."""
    rates = measured.rates
    report = Report("throughput", "Throughput beside ONNX Runtime in-process")
    nets = [net for net in plan.nets if net.name not in measured.failed]
    for net in nets:
        best = _best(rates[net.name])
        report.findings += [
            Finding(
                f"{_named(net)}, at saturation, {WAYS[way]} : {WAYS[_BASELINE]}",
                Spread.ratio(best[way], best[_BASELINE]),
                at_least=AIM if plan.gpu else None,
            )
            for way in _OTHERS
        ]
        report.tables.append(_table(plan, net, measured))
    report.notes = [
        "Saturation is the best of all batches, for each way; a batch is the rows of one request.",
        (
            f"{plan.instances} instances of each model in Triton; both ways through it gather rows "
            f"of several requests, ONNX Runtime alone does not."
        ),
        *(_callers(net, measured) for net in nets),
    ]
    report.data = {
        net.name: {
            "title": net.title,
            "parameters": net.parameters,
            "rows_per_s": _plain(rates[net.name]),
            "callers_busy": _plain(measured.busy[net.name]),
        }
        for net in nets
    }
    return report


def used(checks: Sequence[Check]) -> Report:
    """Whether the GPU was used."""
    report = Report("used", "What was used")
    rows = tuple((check.title, check.seen, WORDS[check.passed]) for check in checks)
    report.tables.append(Table("Seen while it ran", ("", "seen", "as it must be"), rows))
    report.data = {check.title: {"seen": check.seen, "passed": check.passed} for check in checks}
    return report


def demonstrated(demo: dict[str, Any]) -> Report:
    """The demo's own report."""
    report = Report("demo", "`mlbridge demo`")
    rows = tuple(
        (name, f"{way['accuracy']:.2%}", f"{way['images_per_s']:,.0f}", f"{way['p50_ms']:g}")
        for name, way in demo["ways"].items()
    )
    title = f"Trained in {demo['training_s']:.1f} s, then {demo['images']} unseen digits"
    report.tables.append(Table(title, ("", "accuracy", "images/s", "p50 ms"), rows))
    report.data = demo
    return report


def _best(by_batch: dict[int, dict[str, list[float]]]) -> dict[str, list[float]]:
    return {
        way: [max(each) for each in zip(*(found[way] for found in by_batch.values()), strict=True)]
        for way in WAYS
    }


def _callers(net: Net, measured: Measured) -> str:
    """How busy the callers were where each way was at its best."""
    told = []
    for way in _OTHERS:
        rates = measured.rates[net.name]
        best = max(rates, key=lambda batch: Spread.of(rates[batch][way]).median)
        told.append(f"{Spread.of(measured.busy[net.name][best][way]).median:.0%} ({WAYS[way]})")
    return (
        f"{net.title}: at saturation the callers' one process took {' and '.join(told)} of a "
        "processor. From about 100 % on it is what holds a way back, and with more of them its "
        "ratio would be higher."
    )


def _plain(figures: dict[int, dict[str, list[float]]]) -> dict[str, dict[str, list[float]]]:
    return {str(batch): dict(ways) for batch, ways in figures.items()}


def _table(plan: Plan, net: Net, measured: Measured) -> Table:
    columns = (
        "rows in a request",
        *(f"{WAYS[way]} : {WAYS[_BASELINE]}" for way in _OTHERS),
        *(f"{title}, rows/s" for title in WAYS.values()),
        *(f"callers busy, {WAYS[way]}" for way in _OTHERS),
    )
    busy = measured.busy[net.name]
    rows = tuple(
        (
            str(batch),
            *(Spread.ratio(found[way], found[_BASELINE]).shown("×") for way in _OTHERS),
            *(Spread.of(found[way]).shown() for way in WAYS),
            *(f"{Spread.of(busy[batch][way]).median:.0%}" for way in _OTHERS),
        )
        for batch, found in measured.rates[net.name].items()
    )
    where = "GPU" if plan.gpu else "processors"
    return Table(f"{_named(net)}, FP16, on {where}", columns, rows)


def _named(net: Net) -> str:
    return f"{net.title}, {net.parameters / 1e6:.3g} million parameters"
