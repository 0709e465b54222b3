"""What `make gpu-check` found, for people and for machines. Pure.

Enters: rates and what was seen of the GPU. Leaves: a `Report`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bridgebench.findings import Finding, Report, Spread, Table
from bridgebench.gpu.measuring import WAYS, Plan, Rates
from bridgebench.gpu.nets import Net

AIM = 0.9
_BASELINE = "process"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must be so if the GPU was really used."""

    title: str
    seen: str
    passed: bool


def check_instances(instances: Sequence[dict[str, str]], wanted: str) -> Check:
    """Whether each instance runs where it shall.

    Args:
        instances: as `TritonServer.instances` gives them.
        wanted: the beginning of the device: `cuda:`, `cpu:`.
    """
    seen = sorted({f"{each['model']}: {each['device']} ({each['provider']})" for each in instances})
    right = bool(instances) and all(
        each["device"].startswith(wanted)
        and each["provider"].startswith("CPU" if wanted == "cpu:" else ("CUDA", "Tensorrt"))
        for each in instances
    )
    return Check("Triton's sessions", "; ".join(seen) or "none", right)


def check_usage(what: str, grown_mb: float, utilisation: float, least_mb: float) -> list[Check]:
    """Whether a GPU held something, and computed.

    Args:
        what: happened meanwhile.
        grown_mb: the memory that it took, in MiB.
        utilisation: the highest, in percent.
        least_mb: what it must have taken at least.
    """
    return [
        Check(f"GPU memory during {what}", f"{grown_mb:,.0f} MiB more", grown_mb >= least_mb),
        Check(f"GPU utilisation during {what}", f"up to {utilisation:.0f} %", utilisation > 0),
    ]


def compare(plan: Plan, rates: Rates) -> Report:
    """The ratios: best of all batches, repetition by repetition, and each batch."""
    report = Report("throughput", "Throughput beside ONNX Runtime in-process")
    for net in plan.nets:
        best = _best(plan, rates[net.name])
        report.findings += [
            Finding(
                f"{_named(net)}, at saturation, {WAYS[way]} : {WAYS[_BASELINE]}",
                Spread.ratio(best[way], best[_BASELINE]),
                at_least=AIM if plan.gpu else None,
            )
            for way in WAYS
            if way != _BASELINE
        ]
        report.tables.append(_table(plan, net, rates[net.name]))
    report.notes = [
        "Saturation is the best of all batches, for each way; a batch is the rows of one request.",
        (
            f"{plan.instances} instances of each model in Triton; both ways through it gather rows "
            f"of several requests, ONNX Runtime alone does not."
        ),
    ]
    report.data = {
        net.name: {
            "title": net.title,
            "parameters": net.parameters,
            "rows_per_s": {str(batch): dict(ways) for batch, ways in rates[net.name].items()},
        }
        for net in plan.nets
    }
    return report


def used(checks: Sequence[Check]) -> Report:
    """Whether the GPU was used."""
    report = Report("used", "What was used")
    rows = tuple((check.title, check.seen, "yes" if check.passed else "NO") for check in checks)
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


def _best(plan: Plan, by_batch: dict[int, dict[str, list[float]]]) -> dict[str, list[float]]:
    return {
        way: [max(found[way][i] for found in by_batch.values()) for i in range(plan.repetitions)]
        for way in WAYS
    }


def _table(plan: Plan, net: Net, by_batch: dict[int, dict[str, list[float]]]) -> Table:
    others = [way for way in WAYS if way != _BASELINE]
    columns = (
        "rows in a request",
        *(f"{WAYS[way]} : {WAYS[_BASELINE]}" for way in others),
        *(f"{title}, rows/s" for title in WAYS.values()),
    )
    rows = tuple(
        (
            str(batch),
            *(Spread.ratio(found[way], found[_BASELINE]).shown("×") for way in others),
            *(Spread.of(found[way]).shown() for way in WAYS),
        )
        for batch, found in by_batch.items()
    )
    where = "GPU" if plan.gpu else "processors"
    return Table(f"{_named(net)}, FP16, on {where}", columns, rows)


def _named(net: Net) -> str:
    return f"{net.title}, {net.parameters / 1e6:.3g} million parameters"
