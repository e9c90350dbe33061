"""The Grafana dashboards, as code: ``python -m deploy.grafana`` (``make dashboards``) writes ``dashboards/*.json``.

``panels`` has the kinds of panel, one function each; ``late``, ``deferrals``, ``flow`` and ``pipeline`` are the
dashboards, which read as lists of panels; ``provisioning`` has the files that Grafana reads at its start.

No Grafana runs in the tests. They check every query against the declared metrics, PromQL's grammar and a Prometheus
that scraped a real run; panels are checked only against the schema of the SDK, and nobody has looked at them.
"""

import json
from pathlib import Path

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana import deferrals, flow, late, pipeline

__all__ = ["DASHBOARDS", "FOLDER", "render"]

FOLDER = Path(__file__).parent / "dashboards"
"""Where the generated files are, committed."""

DASHBOARDS = {
    "is-mail-late.json": late.dashboard,
    "deferrals.json": deferrals.dashboard,
    "flow.json": flow.dashboard,
    "pipeline.json": pipeline.dashboard,
}
"""File name to the function that builds it."""


def render(built: Dashboard) -> str:
    """Return the text of a dashboard's file: the same for the same dashboard, and easy to compare line by line."""
    return json.dumps(built.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
