"""The few kinds of panels that our dashboards are made of, all looking alike.

Enters: titles, PromQL, units. Leaves: builders of the SDK, 24 columns to a row. Times are
seconds, sizes bytes; Grafana chooses the prefix.
"""

from collections.abc import Mapping, Sequence

from grafana_foundation_sdk.builders import common, stat, table, text, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus as query
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_foundation_sdk.models.text import TextMode

SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
OUTCOME_COLOURS = {
    "succeeded": "green",
    "failed": "red",
    "dead-lettered": "dark-red",
    "expired": "orange",
    "cancelled": "blue",
}
Steps = Sequence[tuple[float | None, str]]
"""From which value on, which colour; the first begins at None."""
GOOD_AT_ONE: Steps = ((None, "red"), (1, "green"))
BAD_ABOVE_ZERO: Steps = ((None, "green"), (1, "red"))
_GRAPH_HEIGHT = 8


def ask(expr: str, legend: str = "", *, letter: str = "A") -> query.Dataquery:
    """A query over the time that the dashboard shows."""
    return query.Dataquery().expr(expr).legend_format(legend or "__auto").range().ref_id(letter)


def ask_now(expr: str, *, letter: str = "A") -> query.Dataquery:
    """A query for the present, as rows of a table."""
    asked = query.Dataquery().expr(expr).instant().ref_id(letter)
    return asked.format(PromQueryFormat.TABLE)


def number(
    title: str,
    expr: str,
    about: str,
    *,
    unit: str = "short",
    steps: Steps = ((None, "text"),),
    width: int = 4,
    height: int = 4,
    legend: str = "",
    words: Mapping[str, str] | None = None,
    by_name: bool = False,
) -> stat.Panel:
    """The last value, large; `words` names values: {"0": "down"}; `by_name` shows the legend."""
    panel = (
        stat.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .with_target(ask(expr, legend))
        .unit(unit)
        .thresholds(_thresholds(steps))
        .color_mode(BigValueColorMode.BACKGROUND if len(steps) > 1 else BigValueColorMode.VALUE)
        .graph_mode(BigValueGraphMode.AREA if words is None else BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .no_value("no data")
        .text_mode(BigValueTextMode.NAME if by_name else BigValueTextMode.VALUE)
        .height(height)
        .span(width)
    )
    if words:
        named = {value: model.ValueMappingResult(text=word) for value, word in words.items()}
        panel.mappings([model.ValueMap(options=named)])
    return panel


def lines(
    title: str,
    queries: Mapping[str, str],
    about: str,
    *,
    unit: str = "short",
    steps: Steps | None = None,
    width: int = 8,
    colours: Mapping[str, str] | None = None,
    runbook: str = "",
) -> timeseries.Panel:
    """Curves: `queries` are legends and PromQL. `steps` draws lines where alerts begin."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(about)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .fill_opacity(10)
        .show_points(VisibilityMode.AUTO)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.TABLE)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(show_legend=True)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        .height(_GRAPH_HEIGHT)
        .span(width)
    )
    for letter, (legend, expr) in zip("ABCDEFGH", queries.items(), strict=False):
        panel.with_target(ask(expr, legend, letter=letter))
    if steps is not None:
        panel.thresholds(_thresholds(steps))
        style = common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
        panel.thresholds_style(style)
    for series, colour in (colours or {}).items():
        fixed = {"mode": "fixed", "fixedColor": colour}
        panel.override_by_name(series, [model.DynamicConfigValue(id_val="color", value=fixed)])
    if runbook:
        panel.links([runbook_link(runbook)])
    return panel


def rows(
    title: str,
    queries: Mapping[str, str],
    about: str,
    *,
    by: Sequence[str],
    units: Mapping[str, str] | None = None,
    width: int = 24,
    links: Mapping[str, str] | None = None,
) -> table.Panel:
    """A table: `queries` are columns and PromQL, joined by the labels `by`.

    `links` are addresses within Grafana by column; `${__data.fields.NAME}` stands for a cell.
    """
    panel = table.Panel().title(title).description(about).datasource(SOURCE)
    panel.height(_GRAPH_HEIGHT).span(width)
    names = {}
    for letter, (column, expr) in zip("ABCDEFGH", queries.items(), strict=False):
        panel.with_target(ask_now(expr, letter=letter))
        names[f"Value #{letter}" if len(queries) > 1 else "Value"] = column
    panel.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    order = {name: place for place, name in enumerate([*by, *names])}
    panel.with_transformation(
        model.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": {"Time": True},
                "indexByName": order,
                "renameByName": names,
            },
        )
    )
    for column, unit in (units or {}).items():
        panel.override_by_name(column, [model.DynamicConfigValue(id_val="unit", value=unit)])
    for column, address in (links or {}).items():
        shown = [{"title": f"Open {column}", "url": address}]
        panel.override_by_name(column, [model.DynamicConfigValue(id_val="links", value=shown)])
    return panel


def words(title: str, markdown: str, *, width: int = 24, height: int = 6) -> text.Panel:
    """Text, as Markdown."""
    return (
        text.Panel()
        .title(title)
        .mode(TextMode.MARKDOWN)
        .content(markdown)
        .height(height)
        .span(width)
    )


def runbook_link(title: str) -> build.DashboardLink:
    """To the run book's dashboard."""
    return (
        build.DashboardLink(f"Run book: {title}")
        .type(model.DashboardLinkType.LINK)
        .url("/d/bridge-runbook/run-book")
    )


def quantile(share: float, metric: str, *, by: str = "", where: str = "") -> str:
    """PromQL for a quantile of the histogram `metric`, within Grafana's rate interval."""
    grouped = f"le, {by}" if by else "le"
    rate = f"rate({metric}_bucket{{{where}}}[$__rate_interval])"
    return f"histogram_quantile({share}, sum by ({grouped}) ({rate}))"


def per_second(counter: str, *, by: str = "", where: str = "") -> str:
    """PromQL for the rate of `counter`, summed by the labels `by`."""
    selected = f"{counter}{{{where}}}" if where else counter
    return f"sum by ({by}) (rate({selected}[$__rate_interval]))"


def seconds_in_queue() -> timeseries.Panel:
    """How long tasks wait for a worker, by task."""
    return lines(
        "Seconds in the queue",
        {
            "{{task}} p50": quantile(0.5, "bridge_queue_seconds", by="task"),
            "{{task}} p99": quantile(0.99, "bridge_queue_seconds", by="task"),
        },
        "From published to taken by a worker.",
        unit="s",
    )


def _thresholds(steps: Steps) -> build.ThresholdsConfig:
    made = [model.Threshold(value=value, color=colour) for value, colour in steps]
    return build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(made)
