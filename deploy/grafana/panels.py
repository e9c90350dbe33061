"""The kinds of panel, one function each, and the frame that all dashboards share.

The rules: a panel says in one sentence what it shows and what to do with it; it names the alerts on the
same series, so that a person on call finds it by the alert's name; the colours mean good, look, act. A query has the
full names of its metrics, so that a search for a metric finds its panels.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

from grafana_foundation_sdk.builders import bargauge, common, heatmap, stat, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import table as tables
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as looks
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

__all__ = [
    "ACT",
    "DESTINATION",
    "GOOD",
    "LOOK",
    "PROVIDER",
    "Dimension",
    "Panel",
    "Query",
    "Section",
    "bars",
    "board",
    "heat_map",
    "known",
    "lines",
    "number",
    "pick",
    "quantile",
    "share",
    "shares",
    "table",
]

Panel = Builder[model.Panel]
Steps = Sequence[tuple[float | None, str]]
"""Lower bound and colour of each step; the first bound is None, that is minus infinity."""

GOOD, LOOK, ACT = "green", "orange", "red"

PROVIDER = 'provider=~"$provider"'
DESTINATION = 'destination=~"$destination"'

_SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
_HEIGHT = 8
_HEIGHT_OF_NUMBERS = 4


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel."""

    expr: str
    """PromQL, with Grafana's variables."""
    legend: str = ""
    """The name of a series, from its labels, as in ``{{provider}}``."""
    limit: bool = False
    """Whether it is a limit for the other lines; limits are drawn dashed and red."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """A label to filter by, at the top of a dashboard."""

    name: str
    metric: str
    """The metric from whose series its values are taken."""

    def variable(self) -> build.QueryVariable:
        """Return Grafana's variable: several values may be chosen, all by default."""
        return (
            build.QueryVariable(self.name)
            .label(self.name.capitalize())
            .datasource(_SOURCE)
            .query({"query": f"label_values({self.metric}, {self.name})", "refId": self.name})
            .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(model.VariableSort.ALPHABETICAL_ASC)
            .multi(multi=True)
            .include_all(include_all=True)
            .all_value(".*")
            .current(model.VariableOption(selected=True, text="All", value="$__all"))
        )


@dataclass(frozen=True, slots=True)
class Section:
    """A row of a dashboard: a heading and the panels below it, from left to right, 24 columns per line."""

    title: str
    panels: Sequence[Panel]


# -- PromQL ------------------------------------------------------------------------------------------------------------


def pick(metric: str, *matchers: str) -> str:
    """Return the selector of a metric's series."""
    return f"{metric}{{{', '.join(matchers)}}}" if matchers else metric


def share(part: str, whole: str) -> str:
    """Return a quotient that has no value, rather than NaN, where the whole is 0."""
    return f"{part} / ({whole} > 0)"


def known(expr: str) -> str:
    """Return a query that is 0 where it finds nothing, and has no value while no worker knows how far its partitions are.

    So that "0" is what the workers say, and not what is shown while they are all cut off from the brokers, or a topic fails.
    A worker reports the lag of each of its partitions, also if that is 0, for as long as it knows it.
    """
    return f"{expr} or on () 0 * count(mailstreams_consumer_lag_records)"


def quantile(q: float, histogram: str, *matchers: str, by: str = "") -> str:
    """Return a quantile of a histogram over the time between two points of the panel.

    Args:
        q: Which, from 0 to 1.
        histogram: The metric's name without ``_bucket``.
        matchers: Of its series.
        by: The label whose values get separate quantiles.
    """
    kept = f"le, {by}" if by else "le"
    return (
        f"histogram_quantile({q}, sum by ({kept}) (rate({pick(f'{histogram}_bucket', *matchers)}[$__rate_interval])))"
    )


# -- panels ------------------------------------------------------------------------------------------------------------


def number(
    title: str,
    says: str,
    *queries: Query | str,
    unit: str = "short",
    steps: Steps = ((None, "text"),),
    alerts: Sequence[str] = (),
    absent: str = "none",
    width: int = 4,
    decimals: int | None = None,
) -> Panel:
    """Return a panel that shows a value, as it is now, in large digits.

    Args:
        title: Its heading.
        says: What it shows and what to do with it.
        queries: One series each.
        unit: In Grafana's words.
        steps: Lower bound and colour of each step.
        alerts: The names of the alerts on the same series.
        absent: What it shows where there is no series.
        width: In columns.
        decimals: How many; None: as many as there is room for. 0 for counts in a time range, which Prometheus
            extrapolates to the ends of the range.
    """
    panel = _common(stat.Panel(), title, says, alerts=alerts, width=width, unit=unit, steps=steps).height(
        _HEIGHT_OF_NUMBERS
    )
    panel = panel.graph_mode(looks.BigValueGraphMode.NONE).no_value(absent).reduce_options(_last())
    if decimals is not None:
        panel = panel.decimals(decimals)
    return panel.targets([_asked(query, at).instant() for at, query in _numbered(queries)])


def lines(
    title: str,
    says: str,
    *queries: Query | str,
    unit: str = "short",
    alerts: Sequence[str] = (),
    width: int = 12,
    stacked: bool = False,
    step: str | None = None,
) -> Panel:
    """Return a panel of series over time; see ``number``.

    Args:
        title: Its heading.
        says: What it shows and what to do with it.
        queries: Any number of series each.
        unit: In Grafana's words.
        alerts: The names of the alerts that look at the same.
        width: In columns.
        stacked: Whether the series are parts of a whole, shown as stacked areas.
        step: The least time between two points, as ``5m``: long enough for a rate over it to have samples.
    """
    panel = (
        _common(timeseries.Panel(), title, says, alerts=alerts, width=width, unit=unit)
        .height(_HEIGHT)
        .min(0)
        .no_value("none")
    )
    panel = panel.legend(
        common.VizLegendOptions()
        .show_legend(show_legend=True)
        .display_mode(looks.LegendDisplayMode.TABLE)
        .placement(looks.LegendPlacement.RIGHT)
        .calcs(["lastNotNull", "max"])
    )
    panel = panel.tooltip(
        common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI).sort(looks.SortOrder.DESCENDING)
    )
    if stacked:
        panel = panel.fill_opacity(60).stacking(common.StackingConfig().mode(looks.StackingMode.NORMAL))
    if step:
        panel = panel.interval(step)
    for at, query in _numbered(queries):
        panel = panel.with_target(_asked(query, at).range())
        if query.limit:
            panel = panel.override_by_query(
                _reference(at),
                [
                    _set("color", {"mode": "fixed", "fixedColor": ACT}),
                    _set("custom.lineStyle", {"fill": "dash", "dash": [10, 10]}),
                    _set("custom.fillOpacity", 0),
                    _set("custom.stacking", {"mode": "none"}),
                ],
            )
    return panel


def bars(
    title: str,
    says: str,
    query: Query,
    *,
    unit: str = "percentunit",
    steps: Steps,
    alerts: Sequence[str] = (),
    most: float = 1,
    width: int = 12,
) -> Panel:
    """Return a panel of one horizontal bar for each series, as it is now; see ``number``. A value of ``most`` fills the panel."""
    panel = (
        _common(bargauge.Panel(), title, says, alerts=alerts, width=width, unit=unit, steps=steps)
        .height(_HEIGHT)
        .min(0)
        .max(most)
    )
    panel = panel.orientation(looks.VizOrientation.HORIZONTAL).display_mode(looks.BarGaugeDisplayMode.BASIC)
    panel = panel.reduce_options(_last())
    return panel.with_target(_asked(query, 0).instant())


def heat_map(
    title: str, says: str, buckets: str, *, alerts: Sequence[str] = (), width: int = 12, step: str | None = None
) -> Panel:
    """Return a panel of how values are spread, over time; see ``lines``.

    Args:
        title: Its heading.
        says: What it shows and what to do with it.
        buckets: A query for cumulative buckets of seconds by ``le``; Grafana subtracts each from the next.
        alerts: The names of the alerts that look at the same.
        width: In columns.
        step: The least time between two points.
    """
    panel = _common(heatmap.Panel(), title, says, alerts=alerts, width=width, unit="short").height(_HEIGHT)
    panel = panel.color(
        heatmap.HeatmapColorOptions()
        .mode(HeatmapColorMode.SCHEME)
        .scheme("Oranges")
        .fill("dark-orange")
        .exponent(0.5)
        .steps(64)
    )
    panel = panel.show_tooltip().y_axis(heatmap.YAxisConfig().unit("s")).cell_values(heatmap.CellValues().unit("short"))
    if step:
        panel = panel.interval(step)
    return panel.with_target(_asked(Query(buckets, "{{le}}"), 0).range().format(PromQueryFormat.HEATMAP))


def table(
    title: str,
    says: str,
    columns: Mapping[str, str],
    *,
    unit: str = "short",
    steps: Steps = (),
    alerts: Sequence[str] = (),
    hidden: Sequence[str] = (),
    width: int = 24,
) -> Panel:
    """Return a table of the current values: one row for each set of labels, one column for each query.

    Args:
        title: Its heading.
        says: What it shows and what to do with it.
        columns: Heading to query. All of them have the same labels, which become the first columns.
        unit: Of the values, in Grafana's words.
        steps: Lower bound and colour for the cells of values; none: they are not coloured.
        alerts: The names of the alerts that look at the same.
        hidden: Columns without information, which are not shown.
        width: In columns of the dashboard.
    """
    panel = _common(tables.Panel(), title, says, alerts=alerts, width=width, unit=unit, steps=steps).height(_HEIGHT)
    headings: dict[str, str] = {}
    for at, (heading, expr) in enumerate(columns.items()):
        panel = panel.with_target(_asked(Query(expr), at).instant().format(PromQueryFormat.TABLE))
        headings["Value" if len(columns) == 1 else f"Value #{_reference(at)}"] = heading
    for heading in headings.values() if steps else ():
        panel = panel.override_by_name(
            heading, [_set("custom.cellOptions", {"type": "color-background", "mode": "basic"})]
        )
    panel = panel.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    return panel.with_transformation(
        model.DataTransformerConfig(
            id_val="organize",
            options={"excludeByName": dict.fromkeys(("Time", *hidden), True), "renameByName": headings},
        )
    )


def shares(title: str, says: str, *queries: Query | str, alerts: Sequence[str] = (), width: int = 12) -> Panel:
    """Return ``lines`` of rates of parts of a whole, 0 to 100 %, over ten minutes at least, because few events make no share."""
    return lines(title, says, *queries, unit="percentunit", alerts=alerts, width=width, step="10m")


# -- the frame ---------------------------------------------------------------------------------------------------------


def board(
    title: str,
    uid: str,
    says: str,
    sections: Iterable[Section],
    *,
    dimensions: Sequence[Dimension] = (),
    since: str = "now-6h",
) -> build.Dashboard:
    """Return a dashboard of sections, with the filters at its top and links to the others.

    Args:
        title: Its name.
        uid: Its id in Grafana's URLs; links depend on it.
        says: The question that it answers.
        sections: Its rows.
        dimensions: The filters.
        since: The beginning of its time range by default.
    """
    made = (
        build.Dashboard(title)
        .uid(uid)
        .description(says)
        .tags(["mailstreams"])
        .time(since, "now")
        .refresh("30s")
        .timezone("browser")
        .readonly()
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .link(
            build.DashboardLink("mailstreams")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags(["mailstreams"])
            .include_vars(include_vars=True)
            .keep_time(keep_time=True)
        )
        .with_variable(build.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for dimension in dimensions:
        made = made.with_variable(dimension.variable())
    count = 0
    for section in sections:
        count += 1
        made = made.with_row(build.Row(section.title).id(count))
        for panel in section.panels:
            count += 1
            made = made.with_panel(_Numbered(panel, count))
    return made


class _Numbered(Builder[model.Panel]):
    """A panel with the id that links to it need; the SDK gives none."""

    def __init__(self, panel: Panel, number: int) -> None:
        self._panel = panel
        self._number = number

    def build(self) -> model.Panel:
        built = self._panel.build()
        built.id_val = self._number
        return built


class _Common(Protocol):
    """The methods of every kind of panel; the SDK's builders have no common base class with them."""

    def title(self, title: str) -> Self: ...
    def description(self, description: str) -> Self: ...
    def datasource(self, datasource: model.DataSourceRef) -> Self: ...
    def span(self, w: int) -> Self: ...
    def unit(self, unit: str) -> Self: ...
    def thresholds(self, thresholds: Builder[model.ThresholdsConfig]) -> Self: ...
    def color_scheme(self, color: Builder[model.FieldColor]) -> Self: ...


_P = TypeVar("_P", bound=_Common)


def _common(panel: _P, title: str, says: str, *, alerts: Sequence[str], width: int, unit: str, steps: Steps = ()) -> _P:
    """Return the panel with the options that all kinds have."""
    told = f"{says}\n\nAlerts: {', '.join(alerts)}" if alerts else says
    panel = panel.title(title).description(told).datasource(_SOURCE).span(width).unit(unit)
    if not steps:
        return panel
    limits = [model.Threshold(value=value, color=color) for value, color in steps]
    return panel.thresholds(build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(limits)).color_scheme(
        build.FieldColor().mode(model.FieldColorModeId.THRESHOLDS)
    )


def _numbered(queries: Iterable[Query | str]) -> list[tuple[int, Query]]:
    return [(at, Query(query) if isinstance(query, str) else query) for at, query in enumerate(queries)]


def _asked(query: Query, at: int) -> Dataquery:
    return (
        Dataquery().expr(query.expr).legend_format(query.legend or "__auto").ref_id(_reference(at)).datasource(_SOURCE)
    )


def _last() -> common.ReduceDataOptions:
    """Return the option that reduces a series to its last value."""
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(values=False)


def _reference(at: int) -> str:
    """Return the name of a panel's query: A, B, C, ..."""
    return chr(ord("A") + at)


def _set(name: str, value: object) -> model.DynamicConfigValue:
    return model.DynamicConfigValue(id_val=name, value=value)
