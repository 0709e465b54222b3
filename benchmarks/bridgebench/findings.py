"""What was measured, and how it is summed up: medians with spread, ratios, aims. Pure.

Enters: one figure for each repetition. Leaves: what reports, pages and plots show.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, smallest and largest of the repetitions."""

    median: float
    low: float
    high: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values), tuple(values))

    @classmethod
    def ratio(cls, numerators: Sequence[float], denominators: Sequence[float]) -> "Spread":
        """Repetition by repetition: what ran side by side is compared, then summed up.

        NaN where the denominator is too small to be measured.
        """
        pairs = zip(numerators, denominators, strict=True)
        return cls.of([a / b if b else math.nan for a, b in pairs])

    def shown(self, unit: str = "") -> str:
        """`median unit (low to high)`."""
        tail = f" {unit}" if unit and unit != "×" else unit
        if math.isnan(self.median):
            return "-"
        if self.low == self.high:
            return f"{number(self.median)}{tail}"
        return f"{number(self.median)}{tail} ({number(self.low)} to {number(self.high)})"


@dataclass(frozen=True, slots=True)
class Finding:
    """One figure that matters, with its aim where there is one."""

    title: str
    value: Spread
    unit: str = "×"
    at_least: float | None = None
    at_most: float | None = None

    @property
    def aim(self) -> str:
        """As a person reads it; empty if there is none."""
        if self.at_least is not None:
            return f"at least {number(self.at_least)} {self.unit}".rstrip()
        if self.at_most is not None:
            return f"at most {number(self.at_most)} {self.unit}".rstrip()
        return ""

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the aim; None if there is none."""
        if self.at_least is not None:
            return self.value.median >= self.at_least
        if self.at_most is not None:
            return self.value.median <= self.at_most
        return None

    @property
    def verdict(self) -> str:
        """`met` or `missed by ...`; empty if there is no aim."""
        if self.met is None:
            return ""
        bound = self.at_least if self.at_least is not None else self.at_most
        if self.met or not bound:
            return "met" if self.met else "missed"
        return f"missed by {abs(self.value.median / bound - 1):.0%}"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows for people; the raw figures are in the report's `data`."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(slots=True)
class Report:
    """What one scenario found."""

    name: str
    title: str
    findings: list[Finding] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    plots: list[str] = field(default_factory=list)
    """File names beside the report."""
    data: dict[str, Any] = field(default_factory=dict)
    took_s: float = 0.0

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "title": self.title,
            "took_s": round(self.took_s, 1),
            "findings": [
                asdict(finding)
                | {"aim": finding.aim, "met": finding.met, "verdict": finding.verdict}
                for finding in self.findings
            ],
            "tables": [asdict(table) for table in self.tables],
            "notes": self.notes,
            "plots": self.plots,
            "data": self.data,
        }


def number(value: float) -> str:
    """Three significant digits, thousands apart."""
    if math.isnan(value):
        return "-"
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3  # noqa: PLR2004
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` % of the values do not exceed; NaN of none."""
    ordered = sorted(values)
    if not ordered:
        return float("nan")
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
