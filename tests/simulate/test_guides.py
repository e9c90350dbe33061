"""Each provider has its guide, and what the guide says to write into the settings are settings."""

import re
import tomllib
from pathlib import Path

import pytest

from streams.providers import PROVIDERS
from streams.settings import Account, Webhook

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


def test_the_page_on_sends_uses_settings_that_exist() -> None:
    text = (GUIDES.parent / "sends.md").read_text()

    (block,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert set(tomllib.loads(block)["accounts"]["billing"]) <= set(Account.model_fields)


@pytest.mark.parametrize("page", [*sorted(GUIDES.glob("*.md")), GUIDES.parent / "sends.md"], ids=lambda page: page.name)
def test_links_within_the_documentation_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
