"""Settings: where they come from, which wins, and what is said of a wrong one."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams import records, settings
from streams.domain import deferrals, status
from streams.domain.events import EventType
from streams.policies import policies_of
from streams.providers import PROVIDERS
from streams.settings import Account, Ingress, Kafka, Settings, SettingsError, Topics, Webhook, load, shown
from streams.settings._sections import section_of
from streams.topics import MAX_BODY_BYTES
from tests.domain.deliveries import event

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"


def problems(environment: dict[str, str] | None = None, path: Path | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(path, environment or {})
    assert all(line and "\n" not in line for line in caught.value.problems)
    return list(caught.value.problems)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no mailstreams.toml of the developer's


def test_without_a_file_and_variables_the_defaults_hold() -> None:
    assert load(None, {}) == Settings()


def test_every_default_is_valid() -> None:
    assert Settings.model_validate(Settings().model_dump()) == Settings()


def test_all_built_in_providers_are_read_by_default() -> None:
    assert Settings().topics.providers == tuple(PROVIDERS)


def test_the_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "some.toml"
    path.write_text('[topics]\npartitions = 3\nproviders = ["mailgun"]\n[accounts.billing]\nsupport_contact = "desk"\n')

    found = load(path, {})

    assert found.topics == Topics(partitions=3, providers=("mailgun",))
    assert found.accounts == {"billing": Account(support_contact="desk")}


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "some.toml"
    path.write_text("\ufeff[topics]\npartitions = 3\n", encoding="utf-8")

    assert load(path, {}).topics.partitions == 3


def test_the_environment_wins_over_the_file_setting_by_setting(tmp_path: Path) -> None:
    path = tmp_path / "some.toml"
    path.write_text("[topics]\npartitions = 3\nreplication_factor = 2\n")

    found = load(path, {"MAILSTREAMS_TOPICS__PARTITIONS": "5"})

    assert (found.topics.partitions, found.topics.replication_factor) == (5, 2)


def test_the_file_named_by_the_call_wins_over_the_variable_and_that_over_the_one_here(tmp_path: Path) -> None:
    for name, port in (("call.toml", 1), ("variable.toml", 2), ("mailstreams.toml", 3)):
        (tmp_path / name).write_text(f"[web]\nport = {port}\n")
    variable = {"MAILSTREAMS_CONFIG": str(tmp_path / "variable.toml")}

    assert load(tmp_path / "call.toml", variable).web.port == 1
    assert load(None, variable).web.port == 2
    assert load(None, {}).web.port == 3
    assert load(None, {"MAILSTREAMS_CONFIG": ""}).web.port == 3


def test_a_list_in_a_variable_is_separated_by_commas() -> None:
    found = load(None, {"MAILSTREAMS_DELIVERY__REFERENCE_KEYS": "order, invoice"})

    assert found.delivery.reference_keys == ("order", "invoice")


@pytest.mark.parametrize(
    "value", ['["invoice","order"]', "['invoice']", '[ "invoice" ]', "[invoice, order]", '"a", "b"']
)
@pytest.mark.parametrize("name", ["delivery.reference_keys", "history.public_hosts"])
def test_a_list_in_json_is_refused_where_names_are_separated_by_commas(name: str, value: str) -> None:
    variable = f"MAILSTREAMS_{name.replace('.', '__').upper()}"

    assert problems({variable: value}) == [
        f"{name}: input should be separated by commas, without brackets and quotation marks (from {variable})"
    ]


def test_a_name_may_have_brackets_of_its_own() -> None:
    found = load(
        None,
        {
            "MAILSTREAMS_HISTORY__PUBLIC_HOSTS": "[2001:db8::1], mail.example",
            "MAILSTREAMS_DELIVERY__REFERENCE_KEYS": "data[invoice]",
        },
    )

    assert found.history.public_hosts == ("[2001:db8::1]", "mail.example")
    assert found.delivery.reference_keys == ("data[invoice]",)


def test_an_account_can_be_set_by_variable() -> None:
    found = load(None, {"MAILSTREAMS_ACCOUNTS__BILLING__SUPPORT_CONTACT": "desk"})

    assert found.accounts["billing"].support_contact == "desk"


def test_a_variable_for_an_account_that_has_capital_letters_in_the_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.toml"
    path.write_text("[accounts.Billing]\nsupport_contact = 'x'\n[accounts.shop]\n")
    secret = {
        f"MAILSTREAMS_ACCOUNTS__{name}__WEBHOOKS__MAILGUN__SECRETS__2026": "hunter2" for name in ("BILLING", "SHOP")
    }

    (line,) = problems(secret, path)
    assert line.startswith("accounts.Billing: a variable means the account billing, in lower case; set it in the file")
    assert line.endswith("(from MAILSTREAMS_ACCOUNTS__BILLING__WEBHOOKS__MAILGUN__SECRETS__2026)")

    path.write_text("[accounts.Billing]\n[accounts.billing]\n")
    assert load(path, secret).accounts.keys() == {"Billing", "billing", "shop"}


def test_variables_that_kubernetes_sets_for_a_service_of_our_name_are_not_ours() -> None:
    of_services = {
        "MAILSTREAMS_SERVICE_HOST": "10.0.0.1",
        "MAILSTREAMS_PORT_80_TCP": "tcp",
        "MAILSTREAMS_WEB_SERVICE_HOST": "10.0.0.2",
        "MAILSTREAMS_WEB_PORT": "tcp://10.0.0.2:80",
        "MAILSTREAMS_WEB_PORT_80_TCP": "tcp://10.0.0.2:80",
        "MAILSTREAMS_ACCOUNTS_SERVICE_PORT": "80",
    }

    assert load(None, of_services) == Settings()


def test_a_variable_that_lacks_only_second_underscores_is_refused() -> None:
    account = "MAILSTREAMS_ACCOUNTS_BILLING_WEBHOOKS_MAILGUN_SECRETS_2026"

    assert problems(
        {
            "MAILSTREAMS_KAFKA_BOOTSTRAP_SERVERS": "k:9092",
            account: "hunter2",
            "MAILSTREAMS_WEB__PORT": "x",
        }
    ) == [
        f"{account}: unknown variable; two underscores stand between its parts",
        "MAILSTREAMS_KAFKA_BOOTSTRAP_SERVERS: unknown variable; did you mean MAILSTREAMS_KAFKA__BOOTSTRAP_SERVERS?",
        "web.port: input should be a valid integer, unable to parse string as an integer (from MAILSTREAMS_WEB__PORT)",
    ]


@pytest.mark.parametrize(
    ("toml", "line"),
    [
        (
            "[kafka]\nbootstrap_servrs = 'a:1'",
            "kafka.bootstrap_servrs: unknown setting; did you mean bootstrap_servers?",
        ),
        ("[kafak]\nx = 1", "kafak: unknown section; did you mean kafka?"),
        ("[worker]\npartitions = 4", "worker.partitions: unknown setting; did you mean topics.partitions?"),
        ("[web]\nzzz = 4", "web.zzz: unknown setting; known in web: host, port"),
        (
            "[accounts.a]\nsuport_contact = 'x'",
            "accounts.a.suport_contact: unknown setting; did you mean support_contact?",
        ),
    ],
)
def test_an_unknown_name_is_refused_with_what_was_probably_meant(tmp_path: Path, toml: str, line: str) -> None:
    path = tmp_path / "some.toml"
    path.write_text(toml)

    assert problems(path=path) == [f"{line} (in {path})"]


def test_an_unknown_variable_is_refused_too() -> None:
    assert problems({"MAILSTREAMS_KAFKA__BOOTSTRAP": "a:1", "MAILSTREAMS_NOSUCH__X": "1"}) == [
        "kafka.bootstrap: unknown setting; did you mean bootstrap_servers? (from MAILSTREAMS_KAFKA__BOOTSTRAP)",
        "nosuch: unknown section; known: kafka, topics, worker, web, ingress, history, delivery, deferrals, accounts (from MAILSTREAMS_NOSUCH__X)",
    ]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("KAFKA__BOOTSTRAP_SERVERS", "localhost", "kafka.bootstrap_servers: 'localhost' is not host:port"),
        ("KAFKA__BOOTSTRAP_SERVERS", "a:1,b:99999", "kafka.bootstrap_servers: 'b:99999' is not host:port"),
        ("KAFKA__SESSION_TIMEOUT_S", "soon", "kafka.session_timeout_s: input should be a valid number"),
        ("KAFKA__SESSION_TIMEOUT_S", "inf", "kafka.session_timeout_s: input should be a finite number"),
        ("KAFKA__HEARTBEAT_INTERVAL_S", "11", "at most a third of kafka.session_timeout_s (30 s)"),
        (
            "KAFKA__REQUEST_TIMEOUT_S",
            "30",
            "kafka.request_timeout_s: 30 s must be above kafka.session_timeout_s (30 s)",
        ),
        ("KAFKA__REBALANCE_TIMEOUT_S", "29", "must be at least kafka.session_timeout_s (30 s)"),
        ("KAFKA__TRANSACTION_TIMEOUT_S", "20", "must be below kafka.transaction_timeout_s (20 s)"),
        (
            "KAFKA__COMMIT_DEADLINE_S",
            "60",
            "kafka.commit_deadline_s: 60 s must be below kafka.request_timeout_s (60 s)",
        ),
        (
            "KAFKA__SECURITY_PROTOCOL",
            "SASL_SSL",
            "kafka.sasl_mechanism: required with kafka.security_protocol SASL_SSL",
        ),
        ("KAFKA__SASL_PASSWORD", "hunter2", "has no effect with kafka.security_protocol PLAINTEXT"),
        ("KAFKA__SSL_CAFILE", "/no/such.pem", "kafka.ssl_cafile: path does not point to a file"),
        ("TOPICS__MIN_INSYNC_REPLICAS", "2", "must be at most topics.replication_factor (1)"),
        (
            "TOPICS__RAW_RETENTION_DAYS",
            "14",
            "topics.events_retention_days: 8 days must be at least 15, a day longer than topics.raw_retention_days (14 days)",
        ),
        (
            "TOPICS__EVENTS_RETENTION_DAYS",
            "7.5",
            "topics.events_retention_days: 7.5 days must be at least 8, a day longer than topics.raw_retention_days (7 days)",
        ),
        (
            "TOPICS__STATUS_CHANGED_RETENTION_DAYS",
            "7",
            "topics.status_changed_retention_days: 7 days must be at least 8",
        ),
        ("TOPICS__DEAD_LETTER_RETENTION_DAYS", "1", "topics.dead_letter_retention_days: 1 days must be at least 8"),
        ("TOPICS__PROVIDERS", "sendgird", "unknown provider 'sendgird'; did you mean sendgrid?"),
        ("WORKER__POISON_SHARE", "1.5", "worker.poison_share: input should be less than or equal to 0.9"),
        ("WORKER__POISON_MINIMUM", "1001", "must be at most worker.poison_window (1000)"),
        ("WORKER__WATCHDOG_S", "20", "worker.watchdog_s: 20 s must be above kafka.commit_deadline_s (20 s)"),
        ("WORKER__LOG_LEVEL", "loud", "worker.log_level: input should be 'debug', 'info', 'warning' or 'error'"),
        ("WEB__PORT", "32768", "web.port: input should be less than or equal to 32767"),
        ("DELIVERY__REFERENCE_KEYS", " , ", "delivery.reference_keys: tuple should have at least 1 item"),
        ("WORKER__X__Y", "1", "worker.x: unknown setting"),
        (
            "INGRESS__TRUSTED_PROXIES",
            "10.0.0.0/8, proxy",
            "ingress.trusted_proxies: 'proxy' is no address and no network",
        ),
        ("INGRESS__PUBLIC_URL", "hooks.example.net", "ingress.public_url: string should match pattern"),
        ("INGRESS__TLS_KEYFILE", __file__, "ingress.tls_keyfile: needs ingress.tls_certfile"),
        ("INGRESS__MAX_BODY_BYTES", "8388608", "ingress.max_body_bytes: input should be less than or equal to 8323072"),
        ("INGRESS__API_KEYS", "x", "ingress.api_keys: unknown setting"),
        ("ACCOUNTS__A__API_KEYS", "hunter2", "accounts.a.api_keys.0: string should match pattern"),
        (
            "ACCOUNTS__A__WEBHOOKS__MAILGIN__INSECURE",
            "1",
            "accounts.a.webhooks.mailgin: unknown provider 'mailgin'; did you mean mailgun? (from MAILSTREAMS_ACCOUNTS__A__",
        ),
        (
            "ACCOUNTS__A__WEBHOOKS__SENDGRID__SECRETS__2026",
            "hunter2",
            "accounts.a.webhooks.sendgrid.secrets.2026: not a public key",
        ),
        (
            "ACCOUNTS__A__WEBHOOKS__MAILGUN__SECRET",
            "hunter2",
            "accounts.a.webhooks.mailgun.secret: unknown setting; did you mean secrets?",
        ),
        ("ACCOUNTS__a b__SUPPORT_CONTACT", "x", "accounts.a b: string should match pattern"),
    ],
)
def test_a_wrong_value_gets_one_line_that_names_it(name: str, value: str, said: str) -> None:
    lines = problems({f"MAILSTREAMS_{name}": value})

    assert any(said in line for line in lines), lines
    assert "hunter2" not in "".join(lines)


DAYS = [
    "topics.raw_retention_days",
    "topics.events_retention_days",
    "topics.status_changed_retention_days",
    "topics.dead_letter_retention_days",
    "history.retention_days",
    "delivery.expire_after_days",
]
POLICY = ["warn_after_s", "escalate_after_s", "retry_window_s", "overdue_slack_s"]
SECONDS = [
    *(f"deferrals.{name}" for name in (*POLICY, "objective_s")),
    *(f"accounts.a.deferrals.sendgrid.{name}" for name in POLICY),
]
TEN_YEARS_S = 3653 * 86_400


def test_a_retention_that_is_a_day_longer_is_taken_also_where_the_sum_of_the_days_is_inexact() -> None:
    chosen = load(
        environment={
            "MAILSTREAMS_TOPICS__RAW_RETENTION_DAYS": "1.07",
            "MAILSTREAMS_TOPICS__EVENTS_RETENTION_DAYS": "2.07",
        }
    )

    assert chosen.topics.events_retention_days == 2.07


@pytest.mark.parametrize("name", [*DAYS, *SECONDS])
def test_what_is_added_to_times_is_ten_years_at_most(name: str) -> None:
    most = 3653 if name in DAYS else TEN_YEARS_S
    others = {}
    if name == "topics.raw_retention_days":
        most -= 1  # what is made of a webhook is kept a day longer
        made = ("EVENTS", "STATUS_CHANGED", "DEAD_LETTER")
        others = {f"MAILSTREAMS_TOPICS__{each}_RETENTION_DAYS": str(most + 1) for each in made}
    variable = f"MAILSTREAMS_{name.replace('.', '__').upper()}"
    beyond = f"{name}: input should be less than or equal to {most} (from {variable})"

    assert problems({variable: str(most + 1)}) == [beyond]
    assert problems({variable: "1e12"}) == [beyond]
    assert load(environment={variable: str(most)} | others)


@pytest.mark.parametrize("section", ["topics", "history", "delivery", "deferrals"])
def test_no_duration_that_is_added_to_times_was_forgotten(section: str) -> None:
    fields = type(getattr(Settings(), section)).model_fields
    durations = {f"{section}.{name}" for name in fields if name.endswith("_days")}
    if section == "deferrals":
        durations |= {f"{section}.{name}" for name in fields}

    assert durations <= {*DAYS, *SECONDS}


@pytest.mark.parametrize("name", POLICY)
def test_the_longest_times_of_a_policy_can_be_reckoned_with(name: str) -> None:
    policy = policies_of(Settings.model_validate({"deferrals": {name: TEN_YEARS_S}}))("a", "sendgrid")
    delivery = status.fold(None, event(EventType.DEFERRED, 0)).delivery
    assert delivery is not None

    assert records.encode_status(delivery, support_contact=None, warn_after_us=policy.warn_after)
    deferral = records.decode_deferral(records.encode_deferral(delivery, attempt=True))
    episode, _ = deferrals.observe(None, deferral, policy)
    assert episode is not None
    due = deferrals.next_due(episode, policy)
    assert due is not None
    assert 0 < due < 1 << 63
    for alert in deferrals.elapse(episode, due, policy).alerts:
        assert records.encode_alert(alert, support_contact=None)


def test_a_wrong_value_names_the_variable_that_set_it() -> None:
    (line,) = problems({"MAILSTREAMS_WEB__PORT": "x"})

    assert line.endswith("(from MAILSTREAMS_WEB__PORT)")


def test_a_wrong_value_of_the_file_is_blamed_on_no_variable(tmp_path: Path) -> None:
    path = tmp_path / "some.toml"
    path.write_text(
        "[worker]\nwatchdog_s = 15\n[accounts.billing.webhooks.postmark.secrets]\nold = 'hunter2'\nolder = 'hunter3'\n"
    )
    innocent = {
        "MAILSTREAMS_WORKER__DATADIR": "data",
        "MAILSTREAMS_ACCOUNTS__BILLING__WEBHOOKS__MAILGUN__SECRETS__2026": "hunter2",
    }

    assert problems(innocent, path) == [
        "worker.watchdog_s: 15 s must be above kafka.commit_deadline_s (20 s)",
        *(
            f"accounts.billing.webhooks.postmark.secrets.{name}: neither basic:USER:PASSWORD nor header:NAME:VALUE"
            for name in ("old", "older")
        ),
    ]


def test_every_wrong_setting_is_said_at_once() -> None:
    assert len(problems({"MAILSTREAMS_WEB__PORT": "x", "MAILSTREAMS_TOPICS__PARTITIONS": "0"})) == 2


def test_a_section_that_is_no_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.toml"
    path.write_text("worker = 1")

    assert problems(path=path) == ["worker: must be a table"]


def test_a_file_that_cannot_be_read_is_said_in_one_line(tmp_path: Path) -> None:
    bad, binary = tmp_path / "bad.toml", tmp_path / "binary.toml"
    bad.write_text("[kafka\n")
    binary.write_bytes(b"\xff\xfe")

    assert problems(path=tmp_path / "none.toml") == [f"{tmp_path / 'none.toml'}: No such file or directory"]
    assert problems(path=bad)[0].startswith(f"{bad}: not TOML: ")
    assert problems(path=binary) == [f"{binary}: not UTF-8"]


@pytest.mark.parametrize(
    ("make", "what"), [(Path.mkdir, "Is a directory"), (lambda path: path.symlink_to("nowhere"), "a link to no file")]
)
def test_a_file_here_that_cannot_be_read_is_not_passed_over(
    tmp_path: Path, make: Callable[[Path], None], what: str
) -> None:
    make(tmp_path / "mailstreams.toml")

    assert problems() == [f"mailstreams.toml in the working directory: {what}"]


UNASKABLE = "x" * 5000
"""The system says "File name too long", to root as well, as it says "Permission denied" to others."""


def test_a_file_that_may_not_be_looked_for_here_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.settings._loading.DEFAULT_CONFIG", Path(UNASKABLE))

    assert problems() == [f"{UNASKABLE} in the working directory: File name too long"]


@pytest.mark.parametrize("name", ["SSL_CAFILE", "SSL_CERTFILE"])
def test_a_certificate_that_may_not_be_looked_for_is_said_in_one_line(name: str) -> None:
    environment = {"MAILSTREAMS_KAFKA__SECURITY_PROTOCOL": "SSL", f"MAILSTREAMS_KAFKA__{name}": UNASKABLE}

    assert problems(environment) == [f"kafka.{name.lower()}: File name too long (from MAILSTREAMS_KAFKA__{name})"]


def test_files_of_the_ingress_are_missed_by_the_ingress_alone(tmp_path: Path) -> None:
    names = ["tls_certfile", "tls_keyfile", "certificates_dir"]
    some = tmp_path / "some"

    found = load(None, {f"MAILSTREAMS_INGRESS__{name.upper()}": str(some) for name in names})

    with pytest.raises(SettingsError) as caught:
        found.ingress.check_files()
    assert caught.value.problems == (
        "ingress.tls_certfile: path does not point to a file",
        "ingress.tls_keyfile: path does not point to a file",
        "ingress.certificates_dir: path does not point to a folder",
    )
    Ingress(tls_certfile=Path(__file__), certificates_dir=tmp_path).check_files()
    with pytest.raises(SettingsError, match="File name too long"):
        Ingress(tls_certfile=Path(UNASKABLE)).check_files()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().web.port = 1


SASL = {
    "MAILSTREAMS_KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT",
    "MAILSTREAMS_KAFKA__SASL_MECHANISM": "SCRAM-SHA-512",
    "MAILSTREAMS_KAFKA__SASL_USERNAME": "worker",
    "MAILSTREAMS_KAFKA__SASL_PASSWORD": "hunter2",
}


def test_a_secret_is_masked_wherever_settings_are_shown() -> None:
    found = load(None, SASL)

    assert "hunter2" not in f"{found!r} {found} {shown(found)} {found.model_dump_json()}"
    assert shown(found)["kafka"]["sasl_password"] == "**********"


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_line_break_of_the_file_that_held_a_secret_is_no_part_of_it(end: str) -> None:
    found = load(
        None,
        {
            **SASL,
            "MAILSTREAMS_KAFKA__SASL_PASSWORD": f"hunter2{end}",
            "MAILSTREAMS_HISTORY__DATABASE_URL": f"postgresql://h:pw@db/history{end}",
            "MAILSTREAMS_ACCOUNTS__BILLING__WEBHOOKS__POSTMARK__SECRETS__2026": f"basic:postmark:pass word {end}",
        },
    )

    assert found.kafka.client_options()["sasl_plain_password"] == "hunter2"
    assert found.history.database_url.get_secret_value() == "postgresql://h:pw@db/history"
    secret = found.accounts["billing"].webhooks["postmark"].secrets["2026"]
    assert secret.get_secret_value() == "basic:postmark:pass word "


def test_a_webhook_and_its_secrets_can_be_set_by_variable_and_are_masked() -> None:
    found = load(
        None,
        {
            "MAILSTREAMS_ACCOUNTS__BILLING__WEBHOOKS__MAILGUN__SECRETS__2026": "hunter2",
            "MAILSTREAMS_ACCOUNTS__BILLING__WEBHOOKS__MAILGUN__SECRETS__2027": "hunter3",
            "MAILSTREAMS_ACCOUNTS__BILLING__WEBHOOKS__POSTMARK__INSECURE": "true",
        },
    )

    mailgun = found.accounts["billing"].webhooks["mailgun"]
    assert {name: secret.get_secret_value() for name, secret in mailgun.secrets.items()} == {
        "2026": "hunter2",
        "2027": "hunter3",
    }
    assert found.accounts["billing"].webhooks["postmark"].insecure
    assert "hunter" not in f"{found!r} {found} {shown(found)} {found.model_dump_json()}"


def test_insecure_and_a_secret_exclude_each_other() -> None:
    lines = problems(
        {
            "MAILSTREAMS_ACCOUNTS__A__WEBHOOKS__MAILGUN__SECRETS__K": "hunter2",
            "MAILSTREAMS_ACCOUNTS__A__WEBHOOKS__MAILGUN__INSECURE": "true",
        }
    )

    assert len(lines) == 1
    assert "accounts.a.webhooks.mailgun.insecure: has no effect beside secrets" in lines[0]


OVERRIDES = "MAILSTREAMS_ACCOUNTS__A__DEFERRALS__MAILGUN__"


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        (
            {f"{OVERRIDES}ESCALATE_AFTER_S": "10"},
            "accounts.a.deferrals.mailgun.escalate_after_s: 10 s must be above deferrals.warn_after_s (3600 s)",
        ),
        (
            {f"{OVERRIDES}WARN_AFTER_S": "72000", "MAILSTREAMS_DEFERRALS__ESCALATE_AFTER_S": "43200"},
            "accounts.a.deferrals.mailgun.warn_after_s: 72000 s must be below deferrals.escalate_after_s (43200 s)",
        ),
        (
            {f"{OVERRIDES}WARN_AFTER_S": "20", f"{OVERRIDES}ESCALATE_AFTER_S": "20"},
            "accounts.a.deferrals.mailgun.escalate_after_s: 20 s must be above warn_after_s (20 s)",
        ),
    ],
)
def test_an_account_too_is_escalated_after_it_is_raised_whatever_it_inherits(
    environment: dict[str, str], line: str
) -> None:
    (found,) = problems(environment)

    assert found.startswith(f"{line} (from {OVERRIDES}")


def test_every_account_whose_deferrals_are_wrong_is_said() -> None:
    lines = problems({f"MAILSTREAMS_ACCOUNTS__{name}__DEFERRALS__SENDGRID__ESCALATE_AFTER_S": "1" for name in "AB"})

    assert [line.partition(":")[0] for line in lines] == [
        f"accounts.{name}.deferrals.sendgrid.escalate_after_s" for name in "ab"
    ]


def test_an_account_may_be_escalated_where_it_is_raised_sooner() -> None:
    sooner = {f"{OVERRIDES}WARN_AFTER_S": "5", f"{OVERRIDES}ESCALATE_AFTER_S": "10"}

    policy = policies_of(load(None, sooner))("a", "mailgun")

    assert (policy.warn_after, policy.escalate_after) == (5_000_000, 10_000_000)


def test_the_largest_body_of_the_ingress_is_what_fits_into_a_record() -> None:
    assert Settings().ingress.max_body_bytes == MAX_BODY_BYTES


def test_the_ingress_speaks_tls_only_with_a_usable_certificate(tmp_path: Path) -> None:
    path = tmp_path / "some.pem"
    path.write_text("no certificate")

    assert Settings().ingress.tls_context() is None
    with pytest.raises(SettingsError, match=r"ingress\.tls_certfile"):
        load(None, {"MAILSTREAMS_INGRESS__TLS_CERTFILE": str(path)}).ingress.tls_context()


def test_clients_get_the_user_name_and_the_password() -> None:
    options = load(None, SASL).kafka.client_options()

    assert options == {
        "bootstrap_servers": "127.0.0.1:19092",
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "worker",
        "sasl_plain_password": "hunter2",
    }


def test_clients_in_plain_text_get_neither_secrets_nor_certificates() -> None:
    assert Kafka().client_options() == {"bootstrap_servers": "127.0.0.1:19092", "security_protocol": "PLAINTEXT"}


def test_with_tls_the_brokers_certificate_and_name_are_checked() -> None:
    context = load(None, {"MAILSTREAMS_KAFKA__SECURITY_PROTOCOL": "SSL"}).kafka.client_options()["ssl_context"]

    assert context.check_hostname
    assert context.verify_mode.name == "CERT_REQUIRED"


@pytest.mark.parametrize("name", ["SSL_CAFILE", "SSL_CERTFILE"])
def test_a_certificate_that_is_none_is_said_in_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "some.pem"
    path.write_text("no certificate")
    environment = {"MAILSTREAMS_KAFKA__SECURITY_PROTOCOL": "SSL", f"MAILSTREAMS_KAFKA__{name}": str(path)}

    with pytest.raises(SettingsError, match=f"kafka.{name.lower()}"):
        load(None, environment).kafka.client_options()


@given(st.text(max_size=40), st.text(max_size=40))
def test_whatever_a_variable_is_called_and_holds_loading_ends_in_settings_or_in_lines(name: str, value: str) -> None:
    found: Settings | SettingsError
    try:
        found = load(Path("/dev/null"), {f"MAILSTREAMS_{name}__{name}": value, f"MAILSTREAMS_KAFKA__{name}": value})
    except SettingsError as error:
        found = error
    assert isinstance(found, Settings) or found.problems


def test_the_page_of_the_configuration_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == settings.reference(), (
        "write it anew: mailstreams config reference > docs/configuration.md"
    )


def test_every_setting_has_a_unit_and_a_reason() -> None:
    page = settings.reference()
    sections = {name: section_of(name) for name in Settings.model_fields} | {"webhooks": Webhook}
    for section, model in sections.items():
        for name, field in model.model_fields.items():
            assert len(field.description or "") > 10, f"{section}.{name}"
            assert f"{name}`" in page
