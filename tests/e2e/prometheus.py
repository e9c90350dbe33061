"""Questions to a Prometheus that runs, by its HTTP interface."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any


class Prometheus:
    """A Prometheus at an address, ``http://host:port``. What it refuses to answer is an AssertionError."""

    def __init__(self, url: str) -> None:
        self.url = url

    def instant(self, query: str, at: float | None = None) -> list[dict[str, Any]]:
        """Return the answer to a query, now or at a Unix time; a list of series."""
        found: list[dict[str, Any]] = self._ask("query", query=query, time=at or time.time())["result"]
        return found

    def range(self, query: str, start: float, end: float, *, step_s: float) -> list[dict[str, Any]]:
        """Return the answers to a query between two Unix times; a list of series."""
        found: list[dict[str, Any]] = self._ask("query_range", query=query, start=start, end=end, step=step_s)["result"]
        return found

    def values(self, label: str, metric: str) -> list[str]:
        """Return the values that a label has in the series of a metric."""
        found: list[str] = self._ask(f"label/{label}/values", **{"match[]": metric})
        return found

    def rules(self) -> list[dict[str, Any]]:
        """Return all rules, with how they do."""
        return [rule for group in self._ask("rules")["groups"] for rule in group["rules"]]

    def _ask(self, path: str, **parameters: str | float) -> Any:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            message = f"{parameters}: {error.read().decode()}"
            raise AssertionError(message) from None
