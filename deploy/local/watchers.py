"""Prometheus and Alertmanager for a stack.

The rule: they use the files of ``deploy/prometheus`` and ``deploy/alertmanager``. Only addresses are filled in, and, for
a run that cannot wait for hours, a ``Pace``: how often to scrape, how long a condition has to hold, other thresholds. No
rule and no route is written here.
"""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local import ROOT, LocalError, ports

__all__ = ["ALERTMANAGER_PORT", "DEMO", "PACKAGES", "PROMETHEUS_PORT", "Pace", "Watchers", "missing"]

PROMETHEUS_PORT = 19105
ALERTMANAGER_PORT = 19106
PACKAGES = "prometheus prometheus-alertmanager"
"""The packages of the programs on Debian and Ubuntu."""
PROMETHEUS = ROOT / "deploy" / "prometheus"
ALERTMANAGER = ROOT / "deploy" / "alertmanager" / "alertmanager.yml"

_UNITS = {"s": 1, "m": 60, "h": 3600}
_PROGRAMS = {  # Debian's name for it, then its own
    "prometheus": ("prometheus",),
    "alertmanager": ("prometheus-alertmanager", "alertmanager"),
}
_THRESHOLDS = "name: mailstreams-thresholds"
_KEPT = "2d"  # retention: a run on this machine is not an archive


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How quickly alerts are sent. Times are whole seconds."""

    every_s: int
    """Between two scrapes, and between two evaluations."""
    holds_s: int
    """The longest time for which a condition has to hold (``for``)."""
    lingers_s: int
    """The longest time for which an alert fires after its condition ended (``keep_firing_for``)."""
    gathers_s: int
    """The longest time for which Alertmanager waits for alerts of the same group."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Replacements for those in the file, such as ``deferrals_stuck`` -> 0."""


DEMO = Pace(
    every_s=5,
    holds_s=5,
    lingers_s=15,
    gathers_s=5,
    thresholds={"deferrals_stuck": 0, "deferral_oldest_seconds": 60},
)
"""With it, one delivery that is deferred for a minute is enough to see an alert."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watchers:
    """Prometheus and Alertmanager of a stack."""

    prometheus_port: int = PROMETHEUS_PORT
    alertmanager_port: int = ALERTMANAGER_PORT
    pace: Pace | None = None
    """None: as in the files."""
    receiver: str | None = None
    """The URL for every receiver of Alertmanager; None: nobody is notified."""

    @property
    def prometheus(self) -> str:
        """Where Prometheus answers."""
        return f"http://{ports.HOST}:{self.prometheus_port}"

    @property
    def alertmanager(self) -> str:
        """Where Alertmanager answers."""
        return f"http://{ports.HOST}:{self.alertmanager_port}"

    def configure(self, folder: Path, *, targets: Mapping[str, Sequence[str]]) -> None:
        """Write the configuration of both.

        Args:
            folder: Where; configuration of an earlier run is replaced, its data are kept.
            targets: The name of a file of targets, without ``.yml`` -> addresses to scrape.
        """
        own = {
            "alertmanager": [f"{ports.HOST}:{self.alertmanager_port}"],
            "prometheus": [f"{ports.HOST}:{self.prometheus_port}"],
        }
        for name in ("rules", "targets"):
            shutil.rmtree(folder / name, ignore_errors=True)
            (folder / name).mkdir(parents=True)
        for name, addresses in {**targets, **own}.items():
            text = json.dumps([{"targets": list(addresses)}])  # which is YAML, too
            (folder / "targets" / f"{name}.yml").write_text(text + "\n")
        for path in PROMETHEUS.glob("rules/*.yml"):
            (folder / "rules" / path.name).write_text(_paced(path.read_text(), self.pace))
        (folder / "prometheus.yml").write_text(_paced((PROMETHEUS / "prometheus.yml").read_text(), self.pace))
        (folder / "alertmanager.yml").write_text(_told(_paced(ALERTMANAGER.read_text(), self.pace), self.receiver))

    def commands(self, folder: Path) -> dict[str, list[str]]:
        """Return what starts each, by its name.

        Raises:
            LocalError: one of them is not installed.
        """
        if lacking := missing():
            message = f"{' and '.join(lacking)} cannot be found: apt-get install {PACKAGES}"
            raise LocalError(message)
        return {
            "alertmanager": [
                _program("alertmanager") or "",
                f"--config.file={folder / 'alertmanager.yml'}",
                f"--storage.path={folder / 'alertmanager'}",
                f"--web.listen-address={ports.HOST}:{self.alertmanager_port}",
                "--cluster.listen-address=",  # it is alone
            ],
            "prometheus": [
                _program("prometheus") or "",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'prometheus'}",
                f"--storage.tsdb.retention.time={_KEPT}",
                f"--web.listen-address={ports.HOST}:{self.prometheus_port}",
                # Alerts that fire before Alertmanager is found are sent again after this; by default after a minute.
                *([f"--rules.alert.resend-delay={self.pace.gathers_s}s"] if self.pace else []),
            ],
        }


def missing() -> list[str]:
    """Return which of the two are not installed."""
    return [name for name in _PROGRAMS if _program(name) is None]


def _program(name: str) -> str | None:
    return next((found for each in _PROGRAMS[name] if (found := shutil.which(each))), None)


def _paced(text: str, pace: Pace | None) -> str:
    """Return the file with the pace's thresholds, and with times no longer than the pace's.

    Raises:
        LookupError: there is no such threshold.
    """
    if pace is None:
        return text
    most = {
        "scrape_interval": pace.every_s,
        "scrape_timeout": pace.every_s,
        "evaluation_interval": pace.every_s,
        "for": pace.holds_s,
        "keep_firing_for": pace.lingers_s,
        "group_wait": pace.gathers_s,
        "group_interval": pace.gathers_s,
    }

    def shortened(found: re.Match[str]) -> str:
        name, number, unit = found.groups()
        return f"{name}: {min(int(number) * _UNITS[unit], most[name])}s"

    text = re.sub(rf"\b({'|'.join(most)}): (\d+)([smh])$", shortened, text, flags=re.MULTILINE)
    if _THRESHOLDS not in text:
        return text
    for name, figure in pace.thresholds.items():
        rule = rf"( - record: mailstreams:{name}:threshold\n +expr:) \S+$"
        text, found = re.subn(rule, rf"\g<1> {figure:g}", text, flags=re.MULTILINE)
        if not found:
            message = f"thresholds.yml has no {name}"
            raise LookupError(message)
    return text


def _told(text: str, receiver: str | None) -> str:
    """Return Alertmanager's file with one address for all receivers, or with none at all."""
    if receiver is not None:
        return re.sub(r"^( *- url:) \S+$", rf"\g<1> {receiver}", text, flags=re.MULTILINE)
    return re.sub(r"^    webhook_configs:\n(?:      .*\n)+", "", text, flags=re.MULTILINE)
