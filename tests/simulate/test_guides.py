"""Each provider has its guide, and what the guide says to write into the settings are settings."""

import json
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest

from streams.providers import PROVIDERS
from streams.settings import Account, Webhook
from tests.installed import need

GUIDES = Path(__file__).parents[2] / "docs" / "providers"


@pytest.mark.parametrize("provider", sorted(PROVIDERS))
def test_the_guide_names_the_url_the_secret_and_the_trial(provider: str) -> None:
    text = (GUIDES / f"{provider}.md").read_text()

    assert f"https://HOST/webhooks/{provider}/ACCOUNT" in text
    assert f"mailstreams webhook test {provider} --account ACCOUNT" in text
    assert "(README.md#if-topicsproviders-is-set)" in text.split("\n1. ")[0]  # before the first step
    (block,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    written = tomllib.loads("\n".join(line.strip() for line in block.splitlines()))
    webhooks = written["accounts"]["ACCOUNT"]["webhooks"]
    assert set(webhooks) == {provider}
    assert set(webhooks[provider]) <= set(Webhook.model_fields)
    assert provider == "sendgrid" or not any(
        PROVIDERS[provider].secret_fault(secret) for secret in webhooks[provider]["secrets"].values()
    )


def test_what_brevo_never_repeats_is_ready_before_its_webhook_is_created() -> None:
    section = (GUIDES / "brevo.md").read_text().split("## Set it up")[1].split("\n## ")[0]
    steps = re.split(r"^\d\. ", section, flags=re.MULTILINE)

    (created,) = [number for number, step in enumerate(steps) if "api.brevo.com/v3/webhooks" in step]
    for needed in ("webhooks.brevo.secrets", "(../ingress.md#in-front-of-it)", "(#try-it)"):
        assert needed in "".join(steps[:created]), needed


class _Report(BaseHTTPRequestHandler):
    """Brevo's report: a page of each offset, a refusal where the page is a number, and an empty page behind the last."""

    pages: dict[int, object]

    def do_GET(self) -> None:
        page = self.pages.get(int(parse_qs(urlsplit(self.path).query)["offset"][0]), {"events": []})
        self.send_response(page if isinstance(page, int) else 200)
        self.end_headers()
        self.wfile.write(
            b"" if isinstance(page, int) else page if isinstance(page, bytes) else json.dumps(page).encode()
        )

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _report(pages: dict[int, object]) -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), type("_", (_Report,), {"pages": pages}))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _feed_the_report(pages: dict[int, object], tmp_path: Path) -> tuple[int, str]:
    """Run what the guide says, with a mailstreams that shows what it is given; return how it ended and what was fed."""
    need("curl", "curl")
    need("jq", "jq")
    (block,) = re.findall(r"```\n(pages=.*?)```", (GUIDES / "brevo.md").read_text(), re.DOTALL)
    (tmp_path / "bin").mkdir()
    fed = tmp_path / "bin" / "mailstreams"
    fed.write_text('#!/bin/sh\necho "$1 $2 $3 $4"; shift 4; cat "$@"\n')
    fed.chmod(0o700)
    (tmp_path / "events-0.json").write_text('["of another day"]')
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    with _report(pages) as url:
        ended = subprocess.run(
            ["bash", "-c", block.replace("https://api.brevo.com", url)],
            check=False,
            cwd=tmp_path,
            env={"PATH": path, "TMPDIR": str(tmp_path), "BREVO_API_KEY": "key", "no_proxy": "*"},
            stdout=subprocess.PIPE,
            text=True,
        )
    return ended.returncode, ended.stdout


@pytest.mark.parametrize("end", [{"events": []}, {}])
def test_brevos_report_is_fed_page_by_page_until_one_is_empty(tmp_path: Path, end: object) -> None:
    pages: dict[int, object] = {0: {"events": [{"a": 1}]}, 2500: {"events": [{"b": 2}, {"c": 3}]}, 5000: end}

    code, fed = _feed_the_report(pages, tmp_path)

    assert (code, fed.splitlines()) == (0, ["feed brevo --account ACCOUNT", '[{"a":1}]', '[{"b":2},{"c":3}]'])
    assert not list(tmp_path.glob("tmp.*"))  # addresses are in it


@pytest.mark.parametrize("fails", [401, b"", b'{"events": [{"b"', b"<html>"])
def test_nothing_of_brevos_report_is_fed_if_a_page_of_it_fails(tmp_path: Path, fails: object) -> None:
    code, fed = _feed_the_report({0: {"events": [{"a": 1}]}, 2500: fails}, tmp_path)

    assert code != 0
    assert fed == ""
    assert [page.name for page in tmp_path.glob("tmp.*/events-*")] == ["events-0.json"]


def test_the_page_on_sends_uses_settings_that_exist() -> None:
    text = (GUIDES.parent / "sends.md").read_text()

    (block,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert set(tomllib.loads(block)["accounts"]["billing"]) <= set(Account.model_fields)


@pytest.mark.parametrize("page", [*sorted(GUIDES.glob("*.md")), GUIDES.parent / "sends.md"], ids=lambda page: page.name)
def test_links_within_the_documentation_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
