"""The queries of the generated dashboards, read back from their JSON, for checks."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["PanelQuery", "concrete", "panel_queries", "panels_of_alerts", "variable_queries"]

_VARIABLES = {"$__rate_interval": "1m", "$__range": "1h", "$provider": ".*", "$destination": ".*"}
"""The values that Grafana would insert: without a filter, over an hour."""


@dataclass(frozen=True, slots=True)
class PanelQuery:
    """A query as it is in a file."""

    dashboard: str
    """The title."""
    panel: str
    """The title."""
    reference: str
    """A, B, C, ..."""
    expr: str
    legend: str
    instant: bool
    """Whether it asks for the present only."""
    description: str
    """The panel's description."""


def panel_queries(dashboard: Mapping[str, Any]) -> list[PanelQuery]:
    """Return all queries of the panels, from top to bottom."""
    return [
        PanelQuery(
            dashboard["title"],
            panel["title"],
            target["refId"],
            target["expr"],
            legend=target["legendFormat"],
            instant=target.get("instant", False),
            description=panel["description"],
        )
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]


def variable_queries(dashboard: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return label and metric of each filter at the top of a dashboard."""
    found = []
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            assert asked is not None
            assert asked[2] == variable["name"]
            found.append((asked[2], asked[1]))
    return found


def panels_of_alerts(dashboard: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the titles of the panels that name an alert, by the alert."""
    found: dict[str, list[str]] = {}
    for panel in dashboard["panels"]:
        if named := re.search(r"^Alerts: (.*)$", panel.get("description", ""), re.MULTILINE):
            for alert in named[1].split(", "):
                found.setdefault(alert, []).append(panel["title"])
    return found


def concrete(expr: str) -> str:
    """Return a query with Grafana's variables filled in.

    Raises:
        ValueError: it has a variable without a value here.
    """
    for name, value in _VARIABLES.items():
        expr = expr.replace(name, value)
    if "$" in expr:
        message = f"unknown variable in {expr}"
        raise ValueError(message)
    return expr
