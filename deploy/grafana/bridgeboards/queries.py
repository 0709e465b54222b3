"""What a dashboard asks of Prometheus, read out of its JSON.

Enters: a dashboard's JSON, the values of its variables. Leaves: PromQL that Prometheus takes.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_LABEL_VALUES = re.compile(r"label_values\((.+), (\w+)\)")


@dataclass(frozen=True)
class Query:
    """One question: of a panel, a variable or a mark in the graphs."""

    dashboard: str
    title: str
    legend: str
    """Of a curve, with `{{label}}`; or the name of a column."""
    expr: str
    at_once: bool
    """For the present only, not over the time that is shown."""

    def filled(self, values: Mapping[str, str]) -> str:
        """The PromQL with `$name` replaced; raises ValueError if a variable is left."""
        text = self.expr
        for name in sorted(values, key=len, reverse=True):
            text = text.replace(f"${name}", values[name])
        if "$" in text:
            raise ValueError(f"{self.dashboard}, {self.title}: no value for a variable in {text}")
        return text


def panels_of(dashboard: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The panels that show something: no rows."""
    return (panel for panel in dashboard["panels"] if panel["type"] != "row")


def _column_names(panel: Mapping[str, Any]) -> dict[str, str]:
    """How a table calls the values of its queries; nothing for other panels."""
    for change in panel.get("transformations") or ():
        if change["id"] == "organize":
            return dict(change["options"]["renameByName"])
    return {}


def queries_of(dashboard: Mapping[str, Any]) -> Iterator[Query]:
    """All that the dashboard asks."""
    title = dashboard["title"]
    for variable in dashboard["templating"]["list"]:
        found = _LABEL_VALUES.fullmatch(str(variable.get("query", "")))
        if found:
            expr = f"count by ({found[2]}) ({found[1]})"
            yield Query(title, f"variable {variable['name']}", "", expr, at_once=True)
    for mark in dashboard["annotations"]["list"]:
        yield Query(title, f"marks: {mark['name']}", "", mark["expr"], at_once=False)
    for panel in panels_of(dashboard):
        names = _column_names(panel)
        for target in panel.get("targets", ()):
            column = names.get(f"Value #{target['refId']}", names.get("Value", ""))
            yield Query(
                title,
                panel["title"],
                column or target.get("legendFormat", ""),
                target["expr"],
                at_once=bool(target.get("instant")),
            )
