"""The container files fit together: what is mounted is there, and what is named is a service. No engine runs them."""

import re
from pathlib import Path
from typing import Any

import yaml

from deploy.local import ROOT

FOLDER = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
PROVISIONING = FOLDER / "grafana" / "provisioning"


def missing_mounts(compose: dict[str, Any]) -> list[str]:
    """Return what is mounted and is neither a file beside compose.yaml nor a named volume."""
    return [
        source
        for service in compose["services"].values()
        for source in (volume.split(":")[0] for volume in service.get("volumes", ()))
        if not (FOLDER / source).exists() and source not in compose.get("volumes", {})
    ]


def hosts(folder: Path) -> dict[str, list[str]]:
    """Return the targets of each file of a folder."""
    return {
        path.name: [target for group in yaml.safe_load(path.read_text()) for target in group["targets"]]
        for path in folder.glob("*.yml")
    }


def test_everything_that_is_mounted_is_there() -> None:
    assert missing_mounts(COMPOSE) == []
    assert missing_mounts({"services": {"x": {"volumes": ["./gone:/x:ro", "nobody:/y"]}}}) == ["./gone", "nobody"]


def test_prometheus_finds_in_containers_what_it_finds_on_one_machine() -> None:
    here, there = hosts(FOLDER / "prometheus" / "targets"), hosts(FOLDER / "compose" / "targets")
    assert here.keys() == there.keys()
    for name, targets in there.items():
        for target in targets:
            host, _, port = target.partition(":")
            assert host in {*SERVICES, "localhost"}
            assert [each.partition(":")[2] for each in here[name]] == [port]


def test_what_prometheus_reads_is_mounted_where_it_looks() -> None:
    wanted = re.findall(r"\b(rules|targets)/", (FOLDER / "prometheus" / "prometheus.yml").read_text())
    mounted = {volume.split(":")[1] for volume in SERVICES["prometheus"]["volumes"]}
    assert {f"/etc/prometheus/{name}" for name in wanted} <= mounted


def test_grafana_is_given_the_dashboards_and_the_addresses_that_its_files_ask_for() -> None:
    mounts = {volume.split(":")[1]: volume.split(":")[0] for volume in SERVICES["grafana"]["volumes"]}
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "mailstreams.yaml").read_text())["providers"]
    assert mounts[provider["options"]["path"]] == "./grafana/dashboards"
    assert mounts["/etc/grafana/provisioning"] == "./grafana/provisioning"

    sources = (PROVISIONING / "datasources" / "prometheus.yaml").read_text()
    asked = re.findall(r"\$([A-Z_]+)", sources)
    assert asked
    for name in asked:
        address = re.fullmatch(r"http://(\w+):(\d+)", SERVICES["grafana"]["environment"][name])
        assert address is not None
        assert address[1] in SERVICES
        assert SERVICES[address[1]]["ports"][0].endswith(f":{address[2]}")


def test_every_log_has_a_limit() -> None:
    for name, service in SERVICES.items():
        assert {"max-size", "max-file"} <= service["logging"]["options"].keys(), name


def test_a_container_of_ours_hears_sigterm_from_its_first_moment() -> None:
    assert {name for name, service in SERVICES.items() if service.get("init")} == {
        name for name, service in SERVICES.items() if service["image"] == "mailstreams"
    }


def test_nothing_is_published_beyond_this_machine() -> None:
    for service in SERVICES.values():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), port
