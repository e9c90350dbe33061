"""The simulator against a real ingress on a real broker, and straight to Kafka; and the test of one webhook."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from deploy.local import ports
from streams import records, topics
from streams.cli._webhook_test import _ADVICE
from streams.domain.events import DeliveryEvent
from streams.domain.status import Delivery, fold
from streams.providers import PROVIDERS, Refusal
from streams.settings import Settings, load
from streams.simulate.story import PROFILES, Plot
from streams.web.ingress import Reason
from tests.cli.conftest import Cluster, Invoke, environment, spawn

FAST = ("--profile", "load", "--rate", "40", "--json")


@dataclass(frozen=True, slots=True)
class Running:
    """An ingress that knows the simulator's secrets."""

    url: str
    secrets: Path
    config: Path
    metrics: str


@pytest.fixture(scope="module")
def ingress(_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("simulate")
    port, admin_port = ports.find(2)
    secrets, config = folder / "secrets", folder / "mailstreams.toml"
    shown = subprocess.run(
        [sys.executable, "-m", "streams", "simulate", "--secrets", secrets, "--show-settings"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    own = f"port = {port}\nadmin_port = {admin_port}\n"
    config.write_text(shown.replace("[ingress]\n", f"[ingress]\n{own}"))
    env = os.environ | environment(_cluster.settings.kafka.bootstrap_servers) | {"MAILSTREAMS_CONFIG": str(config)}
    log = (folder / "ingress.log").open("wb")
    process = subprocess.Popen([sys.executable, "-m", "streams", "ingress"], env=env, stdout=log, stderr=log)
    try:
        _wait_ready(f"http://127.0.0.1:{admin_port}/readyz", process, folder / "ingress.log")
        yield Running(f"http://127.0.0.1:{port}", secrets, config, f"http://127.0.0.1:{admin_port}/metrics")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        log.close()
        text = (folder / "ingress.log").read_text()
        assert "@" not in text
        assert not any(secret in text for secret in _secret_texts(secrets))


def _wait_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 40
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)


def _secret_texts(folder: Path) -> list[str]:
    known = json.loads((folder / "secrets.json").read_text())
    names = (
        "mailgun_signing_key",
        "postmark_password",
        "azure_header_value",
        "brevo_token",
        "mailjet_password",
        "resend_signing_secret",
        "send_key",
    )
    return [known[name] for name in names]


def raw(cluster: Cluster, account: str) -> list[Any]:
    """Return the raw records of an account, of all providers."""
    found = [record for name in PROVIDERS for record in cluster.consume(topics.raw_topic(name))]
    return [one for one in found if dict(one.headers).get("account") == account.encode()]


def events_of(found: list[Any]) -> list[DeliveryEvent]:
    return [
        event
        for one in found
        for event in PROVIDERS[dict(one.headers)["provider"].decode()].normalise(
            records.decode_raw(one.value, one.headers, reference_keys=("invoice",))
        )
    ]


def statuses(events: list[DeliveryEvent]) -> Counter[str]:
    deliveries: dict[str, Delivery | None] = {}
    for event in events:
        deliveries[event.delivery_id] = fold(deliveries.get(event.delivery_id), event).delivery
    return Counter(one.status for one in deliveries.values() if one is not None)


def test_every_provider_is_verified_by_a_real_ingress_and_all_that_the_ledger_holds_is_in_kafka(
    invoke: Invoke, cluster: Cluster, ingress: Running, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger.jsonl"
    sends_before = len(cluster.consume(topics.SENDS))

    result = invoke(
        "simulate", *FAST, "--url", ingress.url, "--secrets", ingress.secrets, "--messages", 80, "--ledger", ledger
    )

    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["refused"], told["abandoned"], told["accepted"]) == ({}, 0, told["requests"])
    assert told["latency_s"]["p50"] < 2
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert len(lines) == told["accepted"]
    found = raw(cluster, "demo")
    assert all(dict(one.headers)["verified"] == b"true" for one in found)
    assert {dict(one.headers)["key-id"] for one in found} == {b"simulated"}
    kept = Counter(sha256(one.value).hexdigest() for one in found)
    kept += Counter(sha256(one.value).hexdigest() for one in cluster.consume(topics.SENDS))
    assert not Counter(line["sha256"] for line in lines) - kept
    assert {line["target"] for line in lines} == {*PROVIDERS, "sends"}
    assert len(cluster.consume(topics.SENDS)) > sends_before
    assert {"delivered", "opened"} < set(statuses(events_of(found)))


def test_a_full_disk_under_the_ledger_is_said_and_is_no_success(invoke: Invoke, ingress: Running) -> None:
    result = invoke(
        "simulate", *FAST, "--url", ingress.url, "--secrets", ingress.secrets, "--messages", 4, "--ledger", "/dev/full"
    )

    assert result.exit_code == 1
    assert "mailstreams: /dev/full: No space left on device; the ledger lacks" in result.stderr


def test_an_ingress_with_other_secrets_refuses_and_the_way_out_is_said(
    invoke: Invoke, ingress: Running, tmp_path: Path
) -> None:
    result = invoke(
        "simulate",
        *FAST,
        "--url",
        ingress.url,
        "--secrets",
        tmp_path / "others",
        "--messages",
        4,
        "--provider",
        "mailgun",
    )

    assert result.exit_code == 1
    assert set(json.loads(result.stdout)["refused"]) == {"403"}
    assert "--show-settings" in result.stderr


def test_straight_to_kafka_it_is_as_from_the_ingress_but_not_verified(
    invoke: Invoke, cluster: Cluster, tmp_path: Path
) -> None:
    arguments = ("--kafka", "--account", "straight", "--secrets", tmp_path / "secrets", "--messages", 60)

    result = invoke("simulate", *FAST, *arguments)

    assert result.exit_code == 0, result.output
    found = raw(cluster, "straight")
    told = json.loads(result.stdout)
    sends = [one for one in cluster.consume(topics.SENDS) if records.decode_send(one.value).account == "straight"]
    assert (len(found) + len(sends), told["refused"]) == (told["requests"], {})
    assert {dict(one.headers)["verified"] for one in found} == {b"false"}
    assert not any(name == "http-authorization" for one in found for name, _ in one.headers)
    assert sum(statuses(events_of(found)).values()) <= 60


def test_only_providers_that_are_served_are_simulated_unless_others_are_named(
    invoke: Invoke, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILSTREAMS_TOPICS__PROVIDERS", "postmark, mailgun")
    where = ("--kafka", "--account", "served", "--secrets", tmp_path / "secrets")

    assert invoke("simulate", *FAST, *where, "--messages", 30).exit_code == 0

    told = {dict(one.headers)["provider"] for one in raw(cluster, "served")}
    assert told == {b"postmark", b"mailgun"}


def test_the_same_seed_at_another_time_is_about_new_messages(invoke: Invoke, cluster: Cluster, tmp_path: Path) -> None:
    where = ("--kafka", "--account", "twice", "--secrets", tmp_path / "secrets")

    for _ in range(2):
        assert invoke("simulate", *FAST, *where, "--messages", 5, "--provider", "mailgun").exit_code == 0

    assert len({event.message_id for event in events_of(raw(cluster, "twice"))}) == 10


def test_ctrl_c_prints_what_became_of_it(cluster: Cluster, tmp_path: Path) -> None:
    child = spawn("simulate", "--kafka", "--account", "stopped", "--secrets", tmp_path / "s", "--rate", "20")
    assert child.stderr is not None
    assert "Ctrl-C ends it" in child.stderr.readline()
    time.sleep(2)

    child.send_signal(signal.SIGINT)
    out, errors = child.communicate(timeout=30)

    assert child.returncode == 130, errors
    assert "requests/s" in out
    assert "from due to accepted: p50" in out
    assert "Traceback" not in errors
    assert raw(cluster, "stopped")


def test_the_duration_ends_it(invoke: Invoke, cluster: Cluster, tmp_path: Path) -> None:
    begun = time.monotonic()
    arguments = ("--kafka", "--account", "short", "--secrets", tmp_path / "s", "--duration", 1.5, "--rate", 20)

    assert invoke("simulate", *arguments, "--quiet").exit_code == 0

    assert 1 < time.monotonic() - begun < 12
    assert cluster.settings


def test_without_an_ingress_it_says_so_at_once(invoke: Invoke, tmp_path: Path) -> None:
    (port,) = ports.find(1)

    result = invoke("simulate", "--url", f"http://127.0.0.1:{port}", "--secrets", tmp_path / "s")

    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert "mailstreams ingress" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--kafka", "--url", "http://x"),
        ("--account", "a/b"),
        ("--rate", "0"),
        ("--profile", "slow"),
        ("--url", "nonsense"),
    ],
)
def test_wrong_use_is_said_in_a_line(invoke: Invoke, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = invoke("simulate", "--secrets", tmp_path / "s", *arguments)

    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_a_folder_that_holds_something_else_is_wrong_use(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text("{}")

    result = invoke("simulate", "--secrets", tmp_path)

    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)


def test_the_settings_that_it_shows_are_settings(invoke: Invoke, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text(invoke("simulate", "--secrets", tmp_path / "s", "--account", "try.it", "--show-settings").stdout)

    settings: Settings = load(config, {})

    account = settings.accounts["try.it"]
    assert set(account.webhooks) == set(PROVIDERS)
    assert len(account.api_keys) == 1


def test_every_profile_has_every_plot() -> None:
    assert all(set(profile.weights) == set(Plot) for profile in PROFILES.values())


# --- mailstreams webhook test ---


def try_webhook(invoke: Invoke, config: Path, *arguments: object) -> Any:
    return invoke("--config", config, "webhook", "test", *arguments)


@pytest.mark.parametrize("provider", sorted(PROVIDERS))
def test_a_webhook_that_is_set_up_right_is_said_to_be(
    invoke: Invoke, cluster: Cluster, ingress: Running, provider: str
) -> None:
    result = try_webhook(invoke, ingress.config, provider, "--account", "demo", "--secrets", ingress.secrets)

    assert result.exit_code == 0, result.output
    assert "Good: it was verified" in result.stdout
    name, known_by = result.stdout.split("mailstreams lookup --")[1].split()[:2]
    (event,) = [one for one in events_of(raw(cluster, "demo")) if getattr(one, name.replace("-", "_")) == known_by]
    assert event.recipient == "webhook-test@mailstreams.example"


def test_a_test_is_no_sign_that_the_provider_calls_so_it_ends_no_alert(invoke: Invoke, ingress: Running) -> None:
    def counted(name: str) -> float:
        with urllib.request.urlopen(ingress.metrics, timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        wanted = f'mailstreams_webhook_{name}_total{{account="demo",provider="mailgun"}} '
        (line,) = [line for line in lines if line.startswith(wanted)]
        return float(line.removeprefix(wanted))

    before = counted("accepted"), counted("tests")
    result = try_webhook(invoke, ingress.config, "mailgun", "--account", "demo", "--secrets", ingress.secrets)

    assert result.exit_code == 0, result.output
    assert (counted("accepted"), counted("tests")) == (before[0], before[1] + 1)


def test_the_address_that_the_provider_calls_can_be_tried_as_it_is(invoke: Invoke, ingress: Running) -> None:
    where = ("mailgun", "--account", "demo", "--secrets", ingress.secrets)

    result = try_webhook(invoke, ingress.config, *where, "--url", f"{ingress.url}/webhooks/mailgun/demo/")

    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"POST {ingress.url}/webhooks/mailgun/demo, ")


@pytest.mark.parametrize(
    "url", ["hooks.example.net", "localhost:19101", "ftp://x", "http://", "https://me:secret@x", "http://x?2"]
)
@pytest.mark.parametrize("command", [("simulate",), ("webhook", "test", "postmark")])
def test_what_is_no_url_is_not_taken_for_one_at_which_nothing_answers(
    invoke: Invoke, tmp_path: Path, command: tuple[str, ...], url: str
) -> None:
    result = invoke(*command, "--secrets", tmp_path, "--url", url)

    assert result.exit_code == 2
    assert "Invalid value for '--url': no URL such as https://hooks.example.net" in result.stderr
    assert "secret@" not in result.output


@pytest.mark.parametrize("provider", ["sendgrid", "amazon_ses"])
def test_what_only_the_provider_can_sign_is_forged_and_must_be_refused(
    invoke: Invoke, ingress: Running, tmp_path: Path, provider: str
) -> None:
    result = try_webhook(invoke, ingress.config, provider, "--account", "demo", "--secrets", tmp_path / "none")

    assert result.exit_code == 0, result.output
    assert "refuses what the provider did not sign" in result.stdout
    assert not (tmp_path / "none").exists()


def test_other_secrets_than_those_of_the_ingress_are_said(invoke: Invoke, ingress: Running, tmp_path: Path) -> None:
    config = tmp_path / "other.toml"
    config.write_text('[accounts.demo.webhooks.mailgun.secrets]\nkey = "another-key"\n')

    result = try_webhook(invoke, config, "mailgun", "--account", "demo", "--url", ingress.url)

    assert result.exit_code == 1
    assert "other secrets than accounts.demo.webhooks.mailgun" in result.stdout
    assert "another-key" not in result.output


@pytest.mark.parametrize(("provider", "code"), [("azure_communication", 503), ("brevo", 429)])
def test_other_secrets_are_said_too_of_a_provider_that_is_refused_by_another_code_for_them(
    invoke: Invoke, ingress: Running, tmp_path: Path, provider: str, code: int
) -> None:
    config = tmp_path / "other.toml"
    config.write_text(f'[accounts.demo.webhooks.{provider}.secrets]\nkey = "header:X-Hook:another"\n')

    result = try_webhook(invoke, config, provider, "--account", "demo", "--url", ingress.url)

    assert result.exit_code == 1
    assert f"{code} missing" in result.stdout
    assert f"other secrets than accounts.demo.webhooks.{provider}" in result.stdout


@pytest.mark.parametrize("settings", ["", "[accounts.demo]\n", "[accounts.demo.webhooks.postmark]\n"])
def test_settings_without_a_secret_are_said_before_anything_is_sent_and_nothing_is_said_of_the_ingress(
    invoke: Invoke, tmp_path: Path, settings: str
) -> None:
    (tmp_path / "c.toml").write_text(settings)

    result = try_webhook(invoke, tmp_path / "c.toml", "postmark", "--account", "demo", "--url", "http://127.0.0.1:1")

    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert "these settings have no secret for accounts.demo.webhooks.postmark" in result.stderr
    assert "with the settings of the ingress" in result.stderr
    assert "refuses" not in result.stderr  # the shell may lack the service's variables: then all is well there
    assert "docs/providers/postmark.md" in result.stderr


class _Answers(BaseHTTPRequestHandler):
    status = 200
    said = "\x1b[31mred"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.end_headers()
        self.wfile.write(f"{self.said}\n".encode())

    def log_message(self, *_: object) -> None:
        pass


def test_there_is_advice_for_every_word_that_the_ingress_answers() -> None:
    assert sorted(_ADVICE) == sorted({*Refusal, *Reason})


@pytest.mark.parametrize(
    ("provider", "answer", "said"),
    [
        ("mailgun", (301, "moved"), "redirect"),
        ("mailgun", (404, "\x1b[31mred"), "does not know this account"),
        ("mailgun", (404, "not_found"), "its topics.providers leaves mailgun out"),
        ("mailgun", (413, "<html>"), "small bodies"),
        ("mailgun", (413, "too_large"), "ingress.max_body_bytes"),
        ("mailgun", (503, ""), "no broker"),
        ("mailgun", (503, "broker"), "no broker"),
        ("mailgun", (503, "certificate"), "ingress.certificates_dir"),
        ("mailgun", (500, "internal"), "fault of the ingress"),
        ("mailgun", (503, "stale"), "clocks"),
        ("mailgun", (403, "<html>Access denied"), "not by the ingress"),
        ("mailgun", (418, "teapot"), "no answer of an ingress"),
        ("sendgrid", (200, ""), "does not verify"),
        ("sendgrid", (403, "<html>Access denied"), "not by the ingress"),
        ("sendgrid", (401, "<html>401 Authorization Required"), "not by the ingress"),
        ("sendgrid", (403, "unconfigured"), "without a secret for accounts.demo.webhooks.sendgrid"),
        ("sendgrid", (401, "missing"), "must leave headers and body"),
        ("sendgrid", (401, "malformed"), "must leave headers and body"),
        ("amazon_ses", (503, "certificate"), "ingress.certificates_dir"),
    ],
)
def test_each_answer_has_its_advice(
    invoke: Invoke, ingress: Running, provider: str, answer: tuple[int, str], said: str
) -> None:
    server = HTTPServer(("127.0.0.1", 0), type("_", (_Answers,), {"status": answer[0], "said": answer[1]}))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        result = try_webhook(
            invoke, ingress.config, provider, "--account", "demo", "--url", url, "--secrets", "/none/such"
        )
    finally:
        server.shutdown()
        server.server_close()

    assert result.exit_code == 1
    assert said in result.stdout
    assert "\x1b" not in result.stdout


def test_nobody_there_is_said(invoke: Invoke, ingress: Running) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"

        result = try_webhook(invoke, ingress.config, "postmark", "--account", "demo", "--url", url)

    assert result.exit_code == 1
    assert "Is the ingress running" in result.stdout
