"""The documentation is true: its links lead somewhere, and what it names is there, with the values that it says."""

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from deploy.local import ROOT
from streams import cli, codecs, process, records, topics
from streams.cli.watch import change_line
from streams.collectors import BulkHistogram, OpenDeferrals
from streams.domain.events import DeliveryEvent
from streams.domain.status import Delivery, Status, fold, to_micros
from streams.metrics import HistoryMetrics, IngressMetrics, Metrics
from streams.providers import PROVIDERS, WebhookRequest
from streams.settings import Settings
from tests.docs import pages
from tests.docs.pages import Page

ALL = pages.all_pages()
README = pages.read("README.md")
OPERATIONS = pages.read("docs/operations.md")
HISTORY = pages.read("docs/history.md")
SECURITY = pages.read("SECURITY.md")
MAKEFILE = (ROOT / "Makefile").read_text()
SETTINGS = {f"{section}.{name}" for section, field in Settings() for name in getattr(type(field), "model_fields", {})}


def page(text: str) -> Page:
    """Return a page that is nowhere."""
    return Page(ROOT / "planted.md", text)


def code(cell: str) -> str:
    """Return what stands between the backticks of a cell."""
    assert cell.startswith("`"), cell
    return cell.split("`")[1]


# -- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("found", ALL, ids=lambda each: str(each.path.relative_to(ROOT)))
def test_every_link_into_the_repository_leads_somewhere(found: Page) -> None:
    assert pages.broken_links(found) == []


def test_a_link_to_a_missing_file_or_heading_is_seen() -> None:
    wrong = page("[a](docs/missing.md) [b](README.md#no-such) [c](README.md#start) [d](#gone) [e](https://e.example/x)")
    assert pages.broken_links(wrong) == ["docs/missing.md", "README.md#no-such", "#gone"]


def test_the_index_names_every_page() -> None:
    index = pages.read("docs/README.md").text
    for path in (ROOT / "docs").glob("*.md"):
        assert path.name == "README.md" or f"]({path.name})" in index, path.name


def test_every_decision_can_be_reached() -> None:
    assert "](decisions/README.md)" in pages.read("docs/README.md").text
    assert len(list((ROOT / "docs" / "decisions").glob("0*.md"))) >= 4


def test_the_tree_in_the_readme_is_the_tree() -> None:
    named = {code(row[0]).rstrip("/") for row in README.table("Where things are")}
    there = {
        path.name
        for path in ROOT.iterdir()
        if path.is_dir() and not path.name.startswith(".") and path.name not in {"var", "dist", "node_modules"}
    }
    assert named == {name for name in there if not name.endswith((".egg-info", "__pycache__"))}


# -- commands ---------------------------------------------------------------------------------------------------------


def test_every_documented_command_and_option_exists() -> None:
    found = pages.commands(ALL)
    assert len(found) > 25
    assert [wrong for command in found if (wrong := pages.wrong_use(command))] == []


@pytest.mark.parametrize(
    "wrong",
    ["stop", "topics remove", "feed sendgrid x.json --as-of-now", "dead-letters replay --everything", "feed 'x"],
)
def test_a_documented_command_that_does_not_exist_is_seen(wrong: str) -> None:
    assert pages.commands([page(f"Try `mailstreams {wrong}`.")]) == [wrong]
    assert pages.wrong_use(wrong) is not None


def test_every_command_is_documented() -> None:
    written = pages.commands(ALL)
    for name in cli.cli.list_commands(None):  # type: ignore[arg-type]  # the names do not depend on the context
        assert any(command.split()[0] == name for command in written), name


def test_every_documented_make_target_and_variable_exists() -> None:
    targets = re.findall(r"^([a-z0-9-]+):", MAKEFILE, re.MULTILINE)
    variables = [f"{name}=" for name in re.findall(r"^([A-Z_]+) \??=", MAKEFILE, re.MULTILINE)]
    written = pages.make_words(ALL)
    assert {"run", "smoke", "test", "check"} <= set(written)
    assert pages.unknown(written, [*targets, *variables]) == []
    assert pages.make_words([page("`make rum` and `make run PORT=1`")]) == ["rum", "run", "PORT="]


def test_the_documented_exit_codes_are_the_programs() -> None:
    rows = [(int(code), of) for code, of, *_ in OPERATIONS.table("Exit codes")]
    assert [code for code, of in rows if of == "worker"] == [
        process.EXIT_OK,
        process.EXIT_CRASHED,
        process.EXIT_CANNOT_START,
        process.EXIT_STALLED,
    ]
    assert [code for code, of in rows if of == "ingress"] == [
        process.EXIT_OK,
        process.EXIT_CRASHED,
        process.EXIT_CANNOT_START,
    ]
    assert process.EXIT_CANNOT_START == cli.WRONG_USE
    assert [code for code, of in rows if of == "other commands"] == [
        cli.OK,
        cli.NOTHING_FOUND,
        cli.WRONG_USE,
        cli.BROKER_UNAVAILABLE,
        cli.INTERRUPTED,
    ]


# -- what the program has ---------------------------------------------------------------------------------------------


def written_metrics(found: Page, heading: str = "Metrics") -> dict[str, str]:
    return {code(name): kind for name, kind, *_ in found.table(heading)}


def real_metrics(kind_of_process: type[Metrics | IngressMetrics | HistoryMetrics] = Metrics) -> dict[str, str]:
    metrics = kind_of_process.create(CollectorRegistry(), version="1")
    real: dict[str, str] = {}
    for name in kind_of_process.__slots__:
        metric = getattr(metrics, name)
        if isinstance(metric, MetricWrapperBase):
            kind = str(metric._type)
            total = "_total" if kind == "counter" else ""
            labels = ",".join(metric._labelnames)
            real[f"{metric._name}{total}" + (f"{{{labels}}}" if labels else "")] = kind
        elif isinstance(metric, BulkHistogram | OpenDeferrals):
            for family in metric.describe():
                kind = family.type.replace("gaugehist", "gauge hist")
                real[f"{family.name}{{{','.join(family._labelnames)}}}"] = kind  # type: ignore[attr-defined] # every family of ours has labels
    return real


def test_the_documented_metrics_are_those_of_the_worker() -> None:
    assert written_metrics(OPERATIONS) == real_metrics()


def test_the_documented_metrics_are_those_of_the_ingress() -> None:
    assert len(real_metrics(IngressMetrics)) > 10
    assert written_metrics(OPERATIONS, "Metrics of the ingress") == real_metrics(IngressMetrics)


def test_the_documented_metrics_are_those_of_the_history() -> None:
    assert len(real_metrics(HistoryMetrics)) > 10
    assert written_metrics(HISTORY) == real_metrics(HistoryMetrics)


def test_the_documented_metrics_of_a_process_are_those_that_it_tells() -> None:
    registry = CollectorRegistry()
    IngressMetrics.create(registry, version="1")
    told = {sample.name for family in registry.collect() for sample in family.samples}
    named = set(re.findall(r"`(process_\w+)`", OPERATIONS.text))
    assert named == {name for name in told if name.startswith("process_")}


def test_every_metric_named_elsewhere_exists() -> None:
    kinds = (Metrics, IngressMetrics, HistoryMetrics)
    real = {name.partition("{")[0] for kind in kinds for name in real_metrics(kind)}
    for found in ALL:
        named = re.findall(r"\bmailstreams_[a-z_]+", found.text)
        assert pages.unknown(named, {*real, "mailstreams_"}) == [], found.path


def test_the_check_of_metrics_sees_one_that_is_missing_and_one_that_is_too_much() -> None:
    planted = page(
        "## Metrics\n\n| a | b |\n|---|---|\n| `mailstreams_ready` | gauge | x |\n| `mailstreams_x` | gauge | x |\n"
    )
    assert written_metrics(planted) == {"mailstreams_ready": "gauge", "mailstreams_x": "gauge"} != real_metrics()


def named_settings(found: Page) -> list[str]:
    """Return every setting that is named in code, by its name or its variable."""
    spans = [span for span in found.code() if not span.endswith(".py")]
    plain = [
        match[0]
        for span in spans
        if (match := re.fullmatch(r"(kafka|topics|worker|web|ingress|history|delivery|deferrals)\.[a-z_]+", span))
    ]
    variables = [
        name.lower().replace("__", ".")
        for span in spans
        for name in re.findall(r"\bMAILSTREAMS_([A-Z_]*__[A-Z_]+)", span)
    ]
    return plain + [name for name in variables if not name.startswith("accounts.")]


def test_every_setting_that_is_named_exists() -> None:
    assert len(SETTINGS) > 30
    for found in ALL:
        assert pages.unknown(named_settings(found), SETTINGS) == [], found.path
    wrong = page("`kafka.patience_s`, `MAILSTREAMS_WEB__PRT=1`, `web.port`")
    assert pages.unknown(named_settings(wrong), SETTINGS) == ["kafka.patience_s", "web.prt"]


def test_the_documented_timeouts_are_the_defaults() -> None:
    settings = Settings()
    rows = OPERATIONS.table("Timeouts that belong together")
    assert len(rows) == 11
    for name, default, *_ in rows:
        section, setting = code(name).split(".")
        assert float(default) == getattr(getattr(settings, section), setting), name


def test_the_documented_retentions_are_the_defaults() -> None:
    settings = Settings()
    for _, default, by in SECURITY.table("What holds addresses, and for how long"):
        section, setting = code(by).split(".")
        days = getattr(getattr(settings, section), setting)
        assert default.startswith((f"{days:g} days", "as the changelog")), default


def test_every_topic_with_addresses_is_in_the_security_page() -> None:
    named = " ".join(row[0] for row in SECURITY.table("What holds addresses, and for how long"))
    for spec in topics.all_topics(Settings()):
        name = "mail.raw.<provider>" if spec.name.startswith(topics.RAW_PREFIX) else spec.name
        assert (f"`{name}`" in named) == spec.holds_addresses, spec.name


def test_every_topic_that_is_named_exists() -> None:
    real = {spec.name for spec in topics.all_topics(Settings())} | {"mail.raw.<provider>", "mail.raw.*"}
    for found in ALL:
        named = [span for span in found.code() if re.fullmatch(r"mail\.[a-z.<>*-]+", span)]
        assert pages.unknown(named, real) == [], found.path


# -- runbooks ---------------------------------------------------------------------------------------------------------


def test_the_webhook_that_a_runbook_feeds_by_hand_ends_the_deferral_of_its_message() -> None:
    """It has less than Postmark sends."""
    (body,) = re.findall(
        r'^ +({"RecordType": .*})$', pages.read("docs/runbooks/MailDeferralsOverdue.md").text, re.MULTILINE
    )
    message = codecs.decode(body)
    assert isinstance(message, dict)
    deferred = {
        "RecordType": "Bounce",
        "Type": "Transient",
        "Email": message["Recipient"],
        "MessageID": message["MessageID"],
    }
    fed_at = datetime(2026, 11, 30, tzinfo=UTC)
    bodies = (codecs.encode(deferred | {"BouncedAt": "2026-11-25T10:00:00Z"}), body.encode())

    events = [
        event
        for each in bodies
        for event in PROVIDERS["postmark"].normalise(
            WebhookRequest(body=each, headers={}, url="", account="billing", received_at=fed_at)
        )
    ]

    assert len({event.delivery_id for event in events}) == 1
    assert [delivery.status for delivery in states(events)] == [Status.DEFERRED, Status.DELIVERED]
    assert states(events)[-1].change.occurred_at == to_micros(datetime(2026, 11, 28, 10, 21, 5, tzinfo=UTC))


def states(events: Iterable[DeliveryEvent]) -> list[Delivery]:
    """Return how a delivery stands after each of its events."""
    found: list[Delivery] = []
    for event in events:
        delivery = fold(found[-1] if found else None, event).delivery
        assert delivery is not None
        found.append(delivery)
    return found


# -- the README -------------------------------------------------------------------------------------------------------


def test_the_readme_has_the_six_statuses() -> None:
    assert [code(row[0]) for row in README.table("The six statuses")] == [status.value for status in Status]


def headers_of(found: Page) -> dict[str, str]:
    return {code(name): need for name, need, _ in found.table("An endpoint of your own")}


def test_the_page_of_the_ingress_names_the_headers_of_a_raw_record() -> None:
    now = datetime(2026, 11, 23, tzinfo=UTC)
    written = records.encode_raw_headers(
        provider="mailgun",
        account="billing",
        received_at=now,
        content_type="application/json",
        url="https://hooks.example.net/",
        key_id="k",
        http_headers={"<name>": "x"},
    )
    needs = headers_of(pages.read("docs/ingress.md"))
    assert set(needs) == {name for name, _ in written}
    required = {name for name, need in needs.items() if need == "required"}

    def understood(names: set[str]) -> bool:
        try:
            records.decode_raw(b"{}", [pair for pair in written if pair[0] in names], reference_keys=())
        except records.RecordError:
            return False
        return True

    assert understood(required)
    for name in required:
        assert not understood(set(needs) - {name}), f"{name} is not required"


def test_a_proxy_set_up_as_the_page_of_the_ingress_shows_closes_idle_connections_before_the_ingress_does() -> None:
    (shown,) = re.findall(r"^```caddy\n(.*?)^```", pages.read("docs/ingress.md").text, re.DOTALL | re.MULTILINE)
    (kept_s,) = re.findall(
        r"transport http \{\s+keepalive (\d+)s\s", shown
    )  # without it Caddy's default of two minutes

    assert int(kept_s) < Settings().ingress.keepalive_timeout_s


def test_the_readme_names_every_provider_and_reference_key() -> None:
    for name in (*PROVIDERS, *Settings().delivery.reference_keys):
        assert f"`{name}`" in README.text


def shown_changes(found: Page) -> list[str]:
    (block,) = [block for block in found.blocks("") if block.startswith("$ make run\n")]
    return [line for line in block.splitlines() if re.match(r"\d{4}-\d\d-\d\d ", line)]


def wrong_changes(lines: list[str]) -> list[str]:
    """Return the lines that ``watch`` would not print, or that do not follow from those before them."""
    now: dict[str, str] = {}
    wrong = []
    for line in lines:
        found = re.fullmatch(
            r"(\S+ \S+)  (\w+) +(?:new|was (\w+)) +(\S+) +(\S+@\S+)(?:  (?:(hard|soft) )?(.+?))?  (\w+)", line
        )
        if found is None:
            wrong.append(line)
            continue
        at, status, previous, reference, recipient, bounce_kind, reason, provider = found.groups()
        change = {
            "occurred_at": at.replace(" ", "T") + "Z",
            "status": status,
            "previous": previous,
            "reference": reference,
            "recipient": recipient,
            "bounce_kind": bounce_kind,
            "reason": reason,
            "provider": provider,
        }
        told = change_line(change).plain == line and status in set(Status) and provider in PROVIDERS
        if not told or now.get(reference) != previous:
            wrong.append(line)
        now[reference] = status
    return wrong


def test_the_readmes_output_is_in_the_form_of_watch_and_each_line_follows_from_those_before() -> None:
    lines = shown_changes(README)
    assert len(lines) >= 8
    assert wrong_changes(lines) == []
    assert {f"was {status}" for status in ("sent", "deferred")} <= set(re.findall(r"was \w+", "\n".join(lines)))


def test_an_output_that_watch_would_not_print_is_seen() -> None:
    first, *_ = shown_changes(README)
    for wrong in (first.replace("  new  ", "  was sent  "), first.replace(" new ", " was opened "), first + " more"):
        assert wrong_changes([wrong]) == [wrong]


def test_the_readme_names_every_package_that_ci_installs() -> None:
    install = " ".join(re.findall(r"^apt-get install (.*)$", README.text, re.MULTILINE))
    wanted = set(" ".join(re.findall(r"missing\+=\(([^)]+)\)", (ROOT / ".ci" / "run").read_text())).split())
    assert wanted
    assert wanted <= set(install.split())


# -- form -------------------------------------------------------------------------------------------------------------

OURS = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]


@pytest.mark.parametrize("name", OURS)
def test_a_page_has_one_title_and_no_trailing_spaces(name: str) -> None:
    text = pages.read(name).prose
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1
    assert not re.search(r"[ \t]$", text, re.MULTILINE)


def test_the_changelog_begins_with_what_is_not_released() -> None:
    headings = re.findall(r"^## (.*)$", pages.read("CHANGELOG.md").text, re.MULTILINE)
    assert headings[0] == "[Unreleased]"


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (pages.commands, "`mailstreams watch`"),
        (pages.commands, "```\n$ mailstreams watch\n```\n"),
        (pages.commands, "```\n.venv/bin/mailstreams watch\n```\n"),
        (pages.make_words, "```\n$ make smoke\n```\n"),
    ],
)
def test_code_is_found_in_spans_and_blocks(check: Callable[[list[Page]], list[str]], text: str) -> None:
    assert len(check([page(text)])) == 1
