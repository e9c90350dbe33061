"""A broker that lets in whom it knows, by TLS only, and lets each do what ``streams.acls`` says; made as the docs say.

What the page tells an administrator to type is what runs here: its commands and its broker settings are read from it.
"""

import argparse
import asyncio
import os
import secrets
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest, DescribeAclsRequest

from deploy.local import jars, ports
from deploy.local.broker import Broker
from streams import acls
from streams.settings import Settings, load
from tests.docs import pages
from tests.docs.pages import Page
from tests.web import edge

PAGE = pages.read("docs/kafka-security.md")
PARTITIONS = edge.PARTITIONS
HOST = "localhost"
"""The name in the broker's certificate."""
ROLES = {role.name: role for role in acls.roles(Settings())}

_Admin: Any = AIOKafkaAdminClient  # annotated in part only
_ANY, _ALLOW = 1, 3
_RESOURCES = {"topic": 2, "group": 3, "transactional-id": 5}
_PATTERNS = {"literal": 3, "prefixed": 4}
_OPERATIONS = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8, "DescribeConfigs": 10}
"""The protocol's numbers (KIP-140, KIP-290)."""


@dataclass
class Secured:
    """The broker, and what its users need."""

    folder: Path
    broker: Broker = field(init=False)
    passwords: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.passwords = {name: secrets.token_urlsafe(18) for name in ROLES}
        plain, controller, self._port = ports.find(3)
        listeners = f"PLAINTEXT://127.0.0.1:{plain},SASL_SSL://127.0.0.1:{self._port}"
        self.broker = Broker(
            self.folder / "kafka",
            port=plain,
            controller_port=controller,
            properties=_documented_properties()
            | {
                "listeners": f"{listeners},CONTROLLER://127.0.0.1:{controller}",
                "advertised.listeners": listeners.replace("SASL_SSL://127.0.0.1", f"SASL_SSL://{HOST}"),
                "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
                "ssl.keystore.location": str(self.folder / "broker-keystore.pem"),
                # The harness's own way in, on loopback: there whoever calls is the administrator.
                "super.users": "User:ANONYMOUS",
            },
        )

    def start(self) -> None:
        """Make the certificates, start the broker, make the users and give them their rights."""
        shell(block("Certificates", "sh"), self.folder, BROKER=HOST)
        self.broker.start()
        (self.folder / "admin.properties").write_text("security.protocol=PLAINTEXT\n")
        tools = self._tools()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda role: self._make_user(role, tools), ROLES))
        asyncio.run(self._give_rights())

    @property
    def server(self) -> str:
        """Where users are let in."""
        return f"{HOST}:{self._port}"

    def environment(self, role: str, **more: str) -> dict[str, str]:
        """Return the settings of a part: those of the page, and where it keeps its files."""
        own = {
            "BOOTSTRAP_SERVERS": self.server,
            "SECURITY_PROTOCOL": "SASL_SSL",
            "SASL_MECHANISM": "SCRAM-SHA-512",
            "SASL_USERNAME": ROLES[role].user,
            "SASL_PASSWORD": self.passwords[role],
            "SSL_CAFILE": str(self.folder / "ca.pem"),
        }
        return {
            **edge.environment(self.broker, self.folder),
            "MAILSTREAMS_WORKER__DATADIR": str(self.folder / "data"),
            "MAILSTREAMS_WORKER__LOG_LEVEL": "debug",
            "MAILSTREAMS_WEB__PORT": "0",
            "MAILSTREAMS_HISTORY__DATABASE_URL": f"sqlite:///{self.folder / 'history.sqlite'}",
            **{f"MAILSTREAMS_KAFKA__{name}": value for name, value in own.items()},
            **more,
        }

    def options(self, role: str) -> dict[str, Any]:
        """Return what an aiokafka client of this user takes."""
        return load(environment=self.environment(role)).kafka.client_options()

    def run(self, role: str, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of ours as a user to its end."""
        return subprocess.run(
            (sys.executable, "-m", "streams", *arguments),
            env={**os.environ, **self.environment(role, **more)},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def _make_user(self, role: str, tools: Path) -> None:
        shell(
            block("Users", "sh"),
            self.folder,
            path=tools,
            SERVER=self.broker.bootstrap,
            NAME=ROLES[role].user,
            PASSWORD=self.passwords[role],
        )

    def _tools(self) -> Path:
        """Return a folder with Kafka's own ``kafka-configs.sh``; it is no more than a call of this class."""
        folder = self.folder / "bin"
        folder.mkdir(exist_ok=True)
        script = folder / "kafka-configs.sh"
        lib = jars.resolve(self.broker.version)
        script.write_text(f'#!/bin/sh\nexec {jars.java()} -cp "{lib}/*" kafka.admin.ConfigCommand "$@"\n')
        script.chmod(0o755)
        return folder

    async def _give_rights(self) -> None:
        """Do what ``mailstreams acls`` prints."""
        printed = self.run("operator", "acls")
        assert printed.returncode == 0, printed.stderr
        wanted = {one for line in printed.stdout.splitlines() if line[:1] != "#" for one in parsed(line)}
        admin = _Admin(bootstrap_servers=self.broker.bootstrap)
        await admin.start()
        try:
            for resource, name, pattern, user, operation in sorted(wanted):
                request = CreateAclsRequest(resource, name, pattern, user, "*", operation, _ALLOW)
                answer = await admin._send_to_controller(request)
                assert [code for code, _ in answer.creation_responses] == [0], answer
            while await _rights(admin) != wanted:  # the broker learns them from the controller
                await asyncio.sleep(0.05)
        finally:
            await admin.close()


Right = tuple[int, str, int, str, int]
"""Resource, its name, pattern, principal, operation: in the protocol's numbers."""


def parsed(command: str) -> list[Right]:
    """Return what a ``kafka-acls.sh --add`` gives, read as that tool reads it: every operation on every resource."""
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    for option in ("bootstrap-server", "command-config", "allow-principal"):
        parser.add_argument(f"--{option}", required=True)
    parser.add_argument("--add", action="store_true", required=True)
    parser.add_argument("--operation", action="append", required=True)
    parser.add_argument("--resource-pattern-type", default="literal", choices=_PATTERNS)
    for resource in _RESOURCES:
        parser.add_argument(f"--{resource}", action="append", default=[])
    tool, *words = shlex.split(command)
    assert tool == "kafka-acls.sh"
    options = vars(parser.parse_args(words))
    return [
        (
            number,
            name,
            _PATTERNS[options["resource_pattern_type"]],
            options["allow_principal"],
            _OPERATIONS[operation],
        )
        for resource, number in _RESOURCES.items()
        for name in options[resource.replace("-", "_")]
        for operation in options["operation"]
    ]


async def _rights(admin: Any) -> set[Right]:
    answer = await admin._send_request(DescribeAclsRequest(_ANY, None, _ANY, None, None, _ANY, _ANY))  # type: ignore[arg-type]  # None: any
    assert answer.error_code == 0, answer
    return {
        (resource, name, pattern, user, operation)
        for resource, name, pattern, found in answer.resources
        for user, _, operation, _ in found
    }


def shell(text: str, folder: Path, *, path: Path | None = None, **variables: str) -> None:
    """Run commands of the page."""
    found = os.environ["PATH"] if path is None else f"{path}:{os.environ['PATH']}"
    ran = subprocess.run(
        ("bash", "-euc", text),
        cwd=folder,
        env={**os.environ, **variables, "PATH": found},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, f"{text}\n{ran.stdout}{ran.stderr}"


def block(heading: str, language: str) -> str:
    """Return the page's first block of code in a language after a heading."""
    after = PAGE.text.split(f"\n## {heading}\n", 1)[1]
    return Page(PAGE.path, after).blocks(language)[0]


def _documented_properties() -> dict[str, str]:
    lines = block("The broker", "properties").splitlines()
    return dict(line.partition("=")[::2] for line in lines if line)


def grants(role: str, resource: str, operation: str) -> Sequence[str]:
    """Return the names and prefixes on which a role may do something."""
    return [
        name
        for grant in ROLES[role].grants
        if grant.resource == resource and operation in grant.operations
        for name in grant.names
    ]
