"""What all our dashboards have: the data source, links to one another, marks of new versions."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.models import dashboard as model

from bridgeboards.panels import SOURCE

# Another version served a minute before: that of a pool that begins again is not new.
_NEW_VERSION = (
    "max by (model, version) (bridge_model_info == 1)"
    " unless max by (model, version) (bridge_model_info offset 1m == 1)"
    " and on (model) max by (model) (bridge_model_info offset 1m == 1)"
)
Rows = Mapping[str, Sequence[Any]]
"""Panels by the question that they answer."""


def board(
    uid: str,
    title: str,
    about: str,
    rows: Rows,
    *,
    variables: Iterable[build.QueryVariable] = (),
) -> model.Dashboard:
    """A dashboard whose rows are questions, refreshed every 10 seconds."""
    made = (
        build.Dashboard(title)
        .uid(uid)
        .description(about)
        .tags(["bridge"])
        .time("now-1h", "now")
        .refresh("10s")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .link(
            build.DashboardLink("Bridge")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags(["bridge"])
            .keep_time(keep_time=True)
            .include_vars(include_vars=True)
        )
        .with_variable(build.DatasourceVariable("datasource").type("prometheus").label("Source"))
        .annotation(
            build.AnnotationQuery()
            .name("New versions")
            .datasource(SOURCE)
            .enable(enable=True)
            .icon_color("purple")
            .expr(_NEW_VERSION)
        )
    )
    for variable in variables:
        made.with_variable(variable)
    for question, panels in rows.items():
        made.with_row(build.Row(question))
        for panel in panels:
            made.with_panel(panel)
    return made.build()


def choice(name: str, label: str, metric: str) -> build.QueryVariable:
    """A list to choose from, of the values that the label `name` of `metric` has."""
    return (
        build.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(f"label_values({metric}, {name})")
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
    )
