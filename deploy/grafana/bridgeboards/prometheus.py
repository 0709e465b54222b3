"""A Prometheus server, asked as Grafana asks it.

Enters: filled PromQL, Unix times. Leaves: series of numbers; what is no number (NaN, infinite) is
left out, as graphs leave it out.
"""

import math
from dataclasses import dataclass
from typing import Any

import httpx

from bridgeboards.queries import Query

_TIMEOUT_S = 30.0
_MOST_POINTS = 300


@dataclass(frozen=True)
class Series:
    """One curve: its labels, Unix times in seconds, and values."""

    labels: dict[str, str]
    times: list[float]
    values: list[float]

    def named(self, legend: str) -> str:
        """The legend with `{{label}}` filled in, as Grafana does it."""
        if legend in {"", "__auto"}:
            legend = " ".join(value for name, value in self.labels.items() if name != "__name__")
        for name, value in self.labels.items():
            legend = legend.replace(f"{{{{{name}}}}}", value)
        return legend


class Prometheus:
    """`url` without a path; times from `start` to `end`, in Unix seconds.

    Raises:
        httpx.HTTPError: it does not answer, or refuses the query; its text says why.
    """

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=_TIMEOUT_S)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def series(
        self, query: Query, values: dict[str, str], *, start: float, end: float
    ) -> list[Series]:
        """The series that have at least one number."""
        expr = query.filled(values)
        if query.at_once:
            return self.now(expr, at=end)
        step = max(1.0, (end - start) / _MOST_POINTS)
        asked = {"query": expr, "start": str(start), "end": str(end), "step": str(step)}
        return [
            series
            for found in self._ask("query_range", asked)
            if (series := _series(found["metric"], found["values"])).values
        ]

    def now(self, expr: str, *, at: float | None = None) -> list[Series]:
        """One point for each series."""
        asked = {"query": expr} if at is None else {"query": expr, "time": str(at)}
        return [
            series
            for found in self._ask("query", asked)
            if (series := _series(found["metric"], [found["value"]])).values
        ]

    def get(self, path: str) -> Any:
        """The data of another part of its API: `label/__name__/values`, `alerts`, `targets`."""
        return self._http.get(f"/api/v1/{path}").raise_for_status().json()["data"]

    def _ask(self, path: str, asked: dict[str, str]) -> Any:
        answer = self._http.post(f"/api/v1/{path}", data=asked)
        if answer.is_error:
            reason = f"Prometheus refuses {asked['query']}: {answer.text}"
            raise httpx.HTTPStatusError(reason, request=answer.request, response=answer)
        return answer.json()["data"]["result"]


def _series(labels: dict[str, str], points: list[tuple[float, str]]) -> Series:
    numbers = [(time, float(text)) for time, text in points]
    finite = [(time, value) for time, value in numbers if math.isfinite(value)]
    return Series(labels, [time for time, _ in finite], [value for _, value in finite])
