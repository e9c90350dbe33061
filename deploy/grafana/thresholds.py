"""The thresholds of the alerts, read from Prometheus' rules, so that colours and alerts agree.

Lines in a panel are queries for ``mailstreams:<name>:threshold`` and follow a change at once. The colour of a number is
part of the dashboard: it follows when the dashboards are generated again.
"""

from pathlib import Path

import yaml

__all__ = ["RULES", "figure", "threshold"]

RULES = Path(__file__).parents[1] / "prometheus" / "rules"


def threshold(name: str) -> float:
    """Return the value of ``mailstreams:<name>:threshold``.

    Raises:
        LookupError: there is none.
    """
    return figure(f"mailstreams:{name}:threshold")


def figure(record: str) -> float:
    """Return the number that is recorded as a series.

    Raises:
        LookupError: there is none.
    """
    for group in yaml.safe_load((RULES / "thresholds.yml").read_text())["groups"]:
        for rule in group["rules"]:
            if rule["record"] == record:
                return float(rule["expr"])
    message = f"thresholds.yml has no {record}"
    raise LookupError(message)
