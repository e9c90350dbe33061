"""The settings themselves: a class for each section, and for each setting its unit, its default and the reason for it.

A wrong value is found here, by pydantic, when a section is made.
"""

import ipaddress
import re
import ssl
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, LiteralString

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from streams.providers import PROVIDERS

APP_ID: Final = "mailstreams"
"""Names the consumer group, the changelog topics and the transactions: a part of what is stored, so it never changes."""

UNKNOWN_PROVIDER: Final = "unknown_provider"
"""The kind of the error about a provider's name where a table is called by it."""
_MEBIBYTE: Final = 1024 * 1024
_TEN_YEARS_DAYS: Final = 3653  # with their leap days
"""The longest span added to a time: no calendar reaches the year 30000, and a table holds microseconds in 64 bits."""
_TEN_YEARS_S: Final = _TEN_YEARS_DAYS * 86_400
RETENTION_MARGIN_DAYS: Final = 1
"""So much longer than the webhooks must be kept what is made of them, because it carries their time.

A webhook may outlive its retention by a day (Kafka deletes whole segments), and what was made of it just before the end
waits for its own reader: while a backlog is worked off, for hours.
"""


class SettingsError(Exception):
    """Some settings are wrong; ``problems`` holds one line for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class SecurityProtocol(StrEnum):
    """The protocol to the brokers, in Kafka's own words."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"

    @property
    def encrypted(self) -> bool:
        """Whether TLS is used."""
        return self in {SecurityProtocol.SSL, SecurityProtocol.SASL_SSL}

    @property
    def authenticated(self) -> bool:
        """Whether a user name and password are sent (SASL)."""
        return self in {SecurityProtocol.SASL_PLAINTEXT, SecurityProtocol.SASL_SSL}


class SaslMechanism(StrEnum):
    """The SASL mechanisms that need no more than a user name and a password."""

    PLAIN = "PLAIN"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    SCRAM_SHA_512 = "SCRAM-SHA-512"


class Compression(StrEnum):
    """How batches of records are compressed: in Kafka's own words, or chosen by each batch's size."""

    AUTO = "auto"
    NONE = "none"
    LZ4 = "lz4"
    SNAPPY = "snappy"
    ZSTD = "zstd"
    GZIP = "gzip"


class LogLevel(StrEnum):
    """The lowest severity of lines that are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How a log line is written."""

    CONSOLE = "console"
    JSON = "json"


def _setting(default: Any, unit: str, text: str, **constraints: Any) -> Any:
    """Return a field with its unit and a text that says what it is and why the default is what it is."""
    return Field(default, description=text, json_schema_extra={"unit": unit}, **constraints)


_QUOTED: Final = re.compile(r"""\[?\s*["']""")


def _split(value: Any) -> Any:
    """Turn ``a, b`` into a list, so that a list fits into an environment variable.

    A list in JSON or TOML is refused: its brackets and quotation marks would count as parts of the names.
    """
    if not isinstance(value, str):
        return value
    parts = [part.strip() for part in value.split(",") if part.strip()]
    if any(_QUOTED.match(part) or part.count("[") != part.count("]") for part in parts):
        message = "input should be separated by commas, without brackets and quotation marks"
        raise ValueError(message)
    return parts


_Names = Annotated[tuple[Annotated[str, StringConstraints(min_length=1)], ...], BeforeValidator(_split)]
_Digests = Annotated[
    tuple[Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$")], ...], BeforeValidator(_split)
]


def _there(path: Path, *, folder: bool = False) -> Path:
    """Check that it is a file, or a folder.

    Not by pydantic's ``FilePath``: through that comes the system's own error, such as "Permission denied".
    """
    try:
        found = path.is_dir() if folder else path.is_file()
    except OSError as error:
        raise ValueError(error.strerror) from None
    if not found:
        message = f"path does not point to a {'folder' if folder else 'file'}"
        raise ValueError(message)
    return path


_File = Annotated[Path, AfterValidator(_there)]


def _without_line_break(value: Any) -> Any:
    """Leave out the line break at the end: it is that of a file from which the secret was taken, as in Kubernetes.

    None of these secrets can hold one, but a password with it fits nobody's, and looks right wherever it is shown.
    """
    return value.rstrip("\r\n") if isinstance(value, str) else value


_Secret = Annotated[SecretStr, BeforeValidator(_without_line_break)]


def _fault(text: str, *place: str, kind: LiteralString = "value_error") -> InitErrorDetails:
    """Return what is wrong at a place below the checked field: a ValueError has no place of its own."""
    return InitErrorDetails(type=PydanticCustomError(kind, "{text}", {"text": text}), loc=place, input=None)


def _raise_all(section: type[BaseModel], faults: list[InitErrorDetails]) -> None:
    """Raise all faults as one error, with a line for each; nothing if there are none."""
    if faults:
        raise ValidationError.from_exception_data(section.__name__, faults)


class _Section(BaseModel):
    # validate_default: a rule between two settings holds even if only one of them was set
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def _below(value: float, info: ValidationInfo, *others: str, section: str = "kafka") -> float:
    """Check that a time is shorter than others of its section; those are declared, and so checked, before it."""
    for other in others:
        limit = info.data.get(other)
        if limit is not None and value >= limit:
            message = f"{value:g} s must be below {section}.{other} ({limit:g} s)"
            raise ValueError(message)
    return value


def _checked_networks(value: tuple[str, ...]) -> tuple[str, ...]:
    for network in value:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            message = f"{network!r} is no address and no network such as 10.0.0.0/8"
            raise ValueError(message) from None
    return value


class Kafka(_Section):
    """How to reach the brokers, and how long to wait for them."""

    bootstrap_servers: str = _setting(
        "127.0.0.1:19092",
        "host:port, comma-separated",
        "Brokers to ask first; any live one names the others. The default is the broker that `make run` starts.",
    )
    security_protocol: SecurityProtocol = _setting(
        SecurityProtocol.PLAINTEXT,
        "PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL",
        "Plain text suits a broker on the same machine only: use SSL or SASL_SSL over a network, as records hold addresses.",
    )
    sasl_mechanism: SaslMechanism | None = _setting(
        None, "PLAIN, SCRAM-SHA-256, SCRAM-SHA-512", "Required with SASL_*; prefer SCRAM, which sends no password."
    )
    sasl_username: str | None = _setting(None, "text", "Required with SASL_*.")
    sasl_password: _Secret | None = _setting(
        None, "text", "Required with SASL_*. Give it by environment variable; it is masked wherever settings are shown."
    )
    ssl_cafile: _File | None = _setting(
        None, "path, PEM", "Certificates that sign the brokers' own; without it those of the operating system."
    )
    ssl_certfile: _File | None = _setting(
        None, "path, PEM", "The client's certificate, for brokers that ask for one (mutual TLS)."
    )
    ssl_keyfile: _File | None = _setting(
        None, "path, PEM", "The key of `ssl_certfile`, where it is not in the same file."
    )
    session_timeout_s: float = _setting(
        30,
        "seconds",
        "A worker that sends no heartbeat for this long loses its partitions. Shorter moves work sooner after a crash, "
        "longer forgives a slow machine. Brokers take 6 to 1800 by default.",
        ge=1,
        le=1800,
    )
    heartbeat_interval_s: float = _setting(
        3,
        "seconds",
        "Between two heartbeats; at most a third of `session_timeout_s`, so that two may get lost.",
        gt=0,
    )
    request_timeout_s: float = _setting(
        60,
        "seconds",
        "One request to a broker; above `session_timeout_s`, else the client gives up on a broker that still answers.",
        gt=0,
        le=1800,
    )
    rebalance_timeout_s: float = _setting(
        60,
        "seconds",
        "How long the others wait for a worker to hand over its partitions; at least `session_timeout_s`.",
        gt=0,
        le=1800,
    )
    transaction_timeout_s: float = _setting(
        30,
        "seconds",
        "The broker aborts a transaction that its owner has left open for this long; until then read_committed readers of "
        "its partitions wait. Brokers allow 900 at most by default.",
        ge=1,
        le=900,
    )
    commit_deadline_s: float = _setting(
        20,
        "seconds",
        "What is not committed within this time, or in the stages without transactions not acknowledged, crashes the "
        "worker, which is then restarted; below `request_timeout_s` and `transaction_timeout_s`, so that the worker never "
        "works on after the broker gave up.",
        gt=0,
    )
    compression_type: Compression = _setting(
        Compression.AUTO,
        "auto, none, lz4, snappy, zstd, gzip",
        "Of everything that is written. auto is zstd for a batch whose keys and values have 16 KiB or more, and snappy "
        "for a smaller one. zstd makes our records a tenth and is the cheapest of those that make them small, but it "
        "costs much for a batch of a few kB: at 2,000 events/s half of the events took 136 ms with it and 96 ms "
        "with none. snappy makes them a fifth in a fifth of its time, where processors are scarcer than disks. All but "
        "auto apply to batches of every size. Readers of the topics must support the one that is set, or both of auto.",
    )
    group_instance_id: str | None = _setting(
        None,
        "text, unique for each worker",
        "Static membership: a worker that comes back under this name within `session_timeout_s` gets its partitions "
        "back without a rebalance. None by default, as two workers with one name throw each other out.",
        min_length=1,
    )

    @field_validator("bootstrap_servers")
    @classmethod
    def _check_servers(cls, value: str) -> str:
        servers = [server.strip() for server in value.split(",")]
        for server in servers:
            match = re.fullmatch(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):(\d{1,5})", server)
            if match is None or not 0 < int(match[1]) < 1 << 16:
                message = f"{server!r} is not host:port"
                raise ValueError(message)
        return ",".join(servers)

    @field_validator("sasl_mechanism", "sasl_username", "sasl_password")
    @classmethod
    def _check_sasl(cls, value: Any, info: ValidationInfo) -> Any:
        protocol = info.data.get("security_protocol")
        if protocol is None:
            return value
        if protocol.authenticated and not value:
            message = f"required with kafka.security_protocol {protocol}"
            raise ValueError(message)
        if value and not protocol.authenticated:
            message = f"has no effect with kafka.security_protocol {protocol}; did you mean SASL_SSL?"
            raise ValueError(message)
        return value

    @field_validator("ssl_cafile", "ssl_certfile", "ssl_keyfile")
    @classmethod
    def _check_ssl(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        protocol = info.data.get("security_protocol")
        if value is not None and protocol is not None and not protocol.encrypted:
            message = f"has no effect with kafka.security_protocol {protocol}; did you mean SSL or SASL_SSL?"
            raise ValueError(message)
        if info.field_name == "ssl_keyfile" and value is not None and info.data.get("ssl_certfile") is None:
            message = "needs kafka.ssl_certfile"
            raise ValueError(message)
        return value

    @field_validator("heartbeat_interval_s")
    @classmethod
    def _check_heartbeat(cls, value: float, info: ValidationInfo) -> float:
        session = info.data.get("session_timeout_s")
        if session is not None and value > session / 3:
            message = f"{value:g} s must be at most a third of kafka.session_timeout_s ({session:g} s)"
            raise ValueError(message)
        return value

    @field_validator("request_timeout_s", "rebalance_timeout_s")
    @classmethod
    def _check_above_session(cls, value: float, info: ValidationInfo) -> float:
        session = info.data.get("session_timeout_s")
        if session is not None and (value < session or (value == session and info.field_name == "request_timeout_s")):
            above = "above" if info.field_name == "request_timeout_s" else "at least"
            message = f"{value:g} s must be {above} kafka.session_timeout_s ({session:g} s)"
            raise ValueError(message)
        return value

    @field_validator("commit_deadline_s")
    @classmethod
    def _check_deadline(cls, value: float, info: ValidationInfo) -> float:
        return _below(value, info, "request_timeout_s", "transaction_timeout_s")

    @property
    def producer_compression(self) -> str | None:
        """The ``compression_type`` of every ``streams.kafka.producer.Producer``."""
        return None if self.compression_type is Compression.NONE else self.compression_type.value

    def client_options(self) -> dict[str, Any]:
        """Return the keyword arguments with which every aiokafka client reaches these brokers.

        Raises:
            SettingsError: a certificate or key cannot be used.
        """
        options: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap_servers,
            "security_protocol": self.security_protocol.value,
        }
        if self.security_protocol.encrypted:
            options["ssl_context"] = self._ssl_context()
        if self.sasl_mechanism is not None and self.sasl_password is not None:
            options["sasl_mechanism"] = self.sasl_mechanism.value
            options["sasl_plain_username"] = self.sasl_username
            options["sasl_plain_password"] = self.sasl_password.get_secret_value()
        return options

    def _ssl_context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ssl_cafile)
        except (ssl.SSLError, OSError) as error:
            raise SettingsError([f"kafka.ssl_cafile: {error}"]) from None
        if self.ssl_certfile is not None:
            try:
                context.load_cert_chain(self.ssl_certfile, self.ssl_keyfile)
            except (ssl.SSLError, OSError) as error:
                raise SettingsError([f"kafka.ssl_certfile, kafka.ssl_keyfile: {error}"]) from None
        return context


class Topics(_Section):
    """How `mailstreams topics create` makes the topics."""

    partitions: int = _setting(
        8,
        "count",
        "Of every topic keyed by delivery, and of the changelog: the most workers that can share the load. It cannot "
        "be changed later, because a key would move to another partition; 8 is enough for 8 workers of 2 cores.",
        ge=1,
        le=1000,
    )
    replication_factor: int = _setting(
        1, "count", "Copies of each partition. 1 suits one broker; take 3 on a cluster of three or more.", ge=1, le=15
    )
    min_insync_replicas: int = _setting(
        1,
        "count",
        "Copies that must have a record before it counts as written. Take 2 with three copies, so that one broker may "
        "fail without a loss and without a stop.",
        ge=1,
        le=15,
    )
    raw_retention_days: float = _setting(
        7,
        "days",
        "Of `mail.raw.*` and `mail.sends`: how long the workers may be away, and webhooks and sends can be processed again "
        "after a mistake of ours. The other retentions are to be a day longer at least: what is made of a webhook has "
        "the webhook's time, and the brokers would delete what is made late before anybody reads it.",
        gt=0,
        le=_TEN_YEARS_DAYS - RETENTION_MARGIN_DAYS,
    )
    events_retention_days: float = _setting(
        8,
        "days",
        "Of `mail.events` and `mail.deferrals`: the timeline that `lookup` can show. A day longer than "
        "`raw_retention_days`, at least.",
        gt=0,
        le=_TEN_YEARS_DAYS,
    )
    status_changed_retention_days: float = _setting(
        30,
        "days",
        "Of `mail.status-changed` and `mail.deferral-alerts`: the longest time a subscriber may be away. A day longer "
        "than `raw_retention_days`, at least.",
        gt=0,
        le=_TEN_YEARS_DAYS,
    )
    dead_letter_retention_days: float = _setting(
        30,
        "days",
        "Of `mail.dead-letters`: the time to find, mend and replay what could not be understood. A day longer than "
        "`raw_retention_days`, at least.",
        gt=0,
        le=_TEN_YEARS_DAYS,
    )
    providers: _Names = _setting(
        (),
        "names, comma-separated",
        "Those that have a topic `mail.raw.<provider>` and are read; empty means every provider that is built in.",
    )

    @field_validator("min_insync_replicas")
    @classmethod
    def _check_replicas(cls, value: int, info: ValidationInfo) -> int:
        factor = info.data.get("replication_factor")
        if factor is not None and value > factor:
            message = f"{value} must be at most topics.replication_factor ({factor}), else nothing can be written"
            raise ValueError(message)
        return value

    @field_validator("events_retention_days", "status_changed_retention_days", "dead_letter_retention_days")
    @classmethod
    def _check_retention(cls, value: float, info: ValidationInfo) -> float:
        raw = info.data.get("raw_retention_days")
        if raw is not None and round(value - raw, 6) < RETENTION_MARGIN_DAYS:  # 2.07 - 1.07 is a little less than 1
            message = (
                f"{value:g} days must be at least {raw + RETENTION_MARGIN_DAYS:g}, a day longer than "
                f"topics.raw_retention_days ({raw:g} days), else what is made of a webhook late is deleted unread"
            )
            raise ValueError(message)
        return value

    @field_validator("providers")
    @classmethod
    def _check_providers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in PROVIDERS:
                raise ValueError(_unknown_provider(name))
        return tuple(dict.fromkeys(value)) or tuple(PROVIDERS)


class Worker(_Section):
    """The worker process."""

    app_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,100}$")] = _setting(
        APP_ID,
        "text",
        "Never change it: it names the consumer group, the changelog topics and the transactions, so another name "
        "starts from nothing and publishes every status again. It is a setting for tests only.",
    )
    datadir: Path = _setting(
        Path("./var/data"),
        "path",
        "Where the local stores are kept. They can be rebuilt from the changelog, so they need no backup; keeping them "
        "over a restart saves the rebuild. Each worker needs its own. A new one is made for the worker's user alone.",
    )
    batch_records: int = _setting(
        5000,
        "records",
        "Most records in one transaction; more is faster while catching up, and takes more memory.",
        ge=1,
        le=50_000,
    )
    batch_bytes: int = _setting(
        4 * _MEBIBYTE,
        "bytes",
        "Most bytes in one transaction; bounds memory where records are large. A larger record goes alone.",
        ge=1024,
        le=64 * _MEBIBYTE,
    )
    tick_interval_s: float = _setting(
        1.0,
        "seconds",
        "Between two looks at what is due (deferral alerts, the objective, expiry); a second is exact and costs nothing.",
        gt=0,
    )
    watchdog_s: float = _setting(
        60,
        "seconds",
        "When records wait and nothing is committed for this long, or a restore makes no progress, while the broker "
        "answers, the worker ends for a restart; above `kafka.commit_deadline_s` and a rebalance.",
        ge=5,
    )
    shutdown_s: float = _setting(
        20,
        "seconds",
        "An orderly stop may take this long, then the process ends; below the time that a supervisor or Kubernetes "
        "waits before it kills (30 s by default). What was not committed is done again after the next start.",
        gt=0,
    )
    store_cache_mb: int = _setting(
        128, "MiB", "Read cache of all local stores together; more helps when the hot rows do not fit.", ge=8
    )
    store_write_buffer_mb: int = _setting(
        64, "MiB", "Write buffers of all local stores together; more means fewer, larger files.", ge=8
    )
    poison_share: float = _setting(
        0.5,
        "share, 0-1",
        "A source partition stops when more than this share of its last `poison_window` records could not be "
        "understood: then our code or the provider's format is wrong, not the records. Older records fade, so that a "
        "share above 0.9 could never be reached.",
        gt=0,
        le=0.9,
    )
    poison_window: int = _setting(1000, "records", "The records that `poison_share` looks back on.", ge=1, le=100_000)
    poison_minimum: int = _setting(
        20, "records", "Up to this many bad records never stop a partition, whatever their share.", ge=1
    )
    dead_letter_max_bytes: int = _setting(
        _MEBIBYTE,
        "bytes",
        "A dead letter keeps at most this much of the original; a longer one is cut, with its hash and length, and "
        "cannot be replayed from there.",
        ge=1024,
        le=7 * _MEBIBYTE,
    )
    log_level: LogLevel = _setting(
        LogLevel.INFO,
        "debug, info, warning, error",
        "The least severe line written, by every process: ingress and history, too.",
    )
    log_format: LogFormat = _setting(
        LogFormat.CONSOLE,
        "console, json",
        "Lines for people, or one JSON object a line for a log collector; of every process: ingress and history, too.",
    )

    @field_validator("poison_minimum")
    @classmethod
    def _check_minimum(cls, value: int, info: ValidationInfo) -> int:
        window = info.data.get("poison_window")
        if window is not None and value > window:
            message = f"{value} must be at most worker.poison_window ({window}), else nothing ever stops a partition"
            raise ValueError(message)
        return value


class Web(_Section):
    """The endpoints of the worker: `/metrics`, `/livez`, `/readyz`. Ingress and history have theirs at their `admin_port`."""

    host: Annotated[str, StringConstraints(min_length=1)] = _setting(
        "127.0.0.1",
        "host name or address",
        "The address to listen on. This machine only by default, as the endpoints have no login; 0.0.0.0 in a container.",
    )
    port: int = _setting(
        19100,
        "port",
        "Below 32768, where the system does not hand out ports to outgoing connections; 0 takes any free one.",
        ge=0,
        le=32767,
    )


class Ingress(_Section):
    """The process that takes webhooks: `mailstreams ingress`. What each answer means to a provider: docs/ingress.md."""

    host: Annotated[str, StringConstraints(min_length=1)] = _setting(
        "127.0.0.1",
        "host name or address",
        "The address to listen on. This machine only by default: a proxy on it speaks TLS to the outside. 0.0.0.0 in a "
        "container.",
    )
    port: int = _setting(
        19101,
        "port",
        "Serves `/webhooks/PROVIDER/ACCOUNT` and `/sends`, nothing else. 0 takes any free one.",
        ge=0,
        le=32767,
    )
    admin_host: Annotated[str, StringConstraints(min_length=1)] = _setting(
        "127.0.0.1",
        "host name or address",
        "Where `/metrics`, `/livez` and `/readyz` are served: apart from the public port, as they have no login.",
    )
    admin_port: int = _setting(19102, "port", "Of `admin_host`. 0 takes any free one.", ge=0, le=32767)
    reuse_port: bool = _setting(
        False,
        "true, false",
        "Several processes share `port` and the load (SO_REUSEPORT); each needs its own `admin_port`.",
    )
    public_url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$")] | None = _setting(
        None,
        "URL",
        "What providers call, up to the path: `https://hooks.example.net`. Some sign the URL, so it is kept with each "
        "webhook. Without it, it is what the request says.",
    )
    trusted_proxies: _Names = _setting(
        (),
        "addresses or networks (CIDR), comma-separated",
        "Only from these are X-Forwarded-Proto and X-Forwarded-Host believed; from anybody else they are a claim.",
    )
    tls_certfile: Path | None = _setting(
        None,
        "path, PEM",
        "Speak TLS with this certificate and its chain; without it plain HTTP, for a proxy in front. A renewed one is used "
        "within a minute. Only the ingress needs the file.",
    )
    tls_keyfile: Path | None = _setting(
        None, "path, PEM", "The key of `tls_certfile`, where it is not in the same file."
    )
    max_body_bytes: int = _setting(
        8 * _MEBIBYTE - 64 * 1024,
        "bytes",
        "A larger body, as it comes or decompressed, is refused with 413. The default and the most is what fits into a "
        "Kafka record together with its headers; SendGrid's batches reach 768 KB.",
        ge=1024,
        le=8 * _MEBIBYTE - 64 * 1024,
    )
    read_timeout_s: float = _setting(
        10,
        "seconds",
        "A request's head must come within this time, else its connection is closed; then its whole body, else 408. A client "
        "that reads none of its answers for this long is cut off.",
        gt=0,
        le=300,
    )
    keepalive_timeout_s: float = _setting(
        75,
        "seconds",
        "How long an idle connection is kept; above the proxy's own, else the proxy sends into a closing connection.",
        gt=0,
        le=3600,
    )
    max_connections: int = _setting(
        2000,
        "count",
        "More connections are closed at once; fewer are let in where the limit of open files is too low for them.",
        ge=1,
        le=100_000,
    )
    max_requests: int = _setting(
        500,
        "count",
        "More requests in work at once are answered 503. One is in work when all of its body is there, so they wait for "
        "the broker only; bodies that are still coming are bounded by `max_memory_mb` and `max_connections`.",
        ge=1,
        le=100_000,
    )
    max_memory_mb: int = _setting(
        256,
        "MiB",
        "Bodies of all requests together, what came of those still coming included. Beyond it the body that has been "
        "coming for longest makes room, else 503. Heads of requests are not among it: 16 KiB for each connection.",
        ge=8,
    )
    rate_per_s: float = _setting(
        5000,
        "requests per second",
        "Of one account at one provider, counted after the signature, so that a forger cannot use it up; beyond it 429.",
        gt=0,
    )
    rate_burst: int = _setting(
        10_000,
        "requests",
        "This many are accepted at once before `rate_per_s` applies: a provider may have a backlog.",
        ge=1,
    )
    acknowledge_timeout_s: float = _setting(
        5,
        "seconds",
        "A webhook that not all in-sync replicas have within this time is answered 503, and comes again; below the "
        "patience of every provider (the least is 10 s).",
        gt=0,
        lt=10,
    )
    shutdown_s: float = _setting(
        20,
        "seconds",
        "How long an orderly stop lets the requests in work finish; below the supervisor's patience.",
        gt=0,
    )
    certificates_dir: Path | None = _setting(
        None,
        "path",
        "Amazon SNS's signing certificates by file name, taken before any download: for a machine that may not reach "
        "the internet, and for trying things out. Anybody who can write there can forge SNS messages.",
    )

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _checked_networks(value)

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, value: str | None) -> str | None:
        return value.rstrip("/") if value is not None else None

    @field_validator("tls_keyfile")
    @classmethod
    def _check_tls(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("tls_certfile") is None:
            message = "needs ingress.tls_certfile"
            raise ValueError(message)
        return value

    def check_files(self) -> None:
        """Check that what is named here is there.

        For the ingress itself: other processes may have the same settings on machines without these files.

        Raises:
            SettingsError: something is not there.
        """
        problems = []
        for name in ("tls_certfile", "tls_keyfile", "certificates_dir"):
            path = getattr(self, name)
            try:
                if path is not None:
                    _there(path, folder=name == "certificates_dir")
            except ValueError as error:
                problems.append(f"ingress.{name}: {error}")
        if problems:
            raise SettingsError(problems)

    def tls_context(self) -> ssl.SSLContext | None:
        """Return the context of the public port; None where it speaks plain HTTP.

        Raises:
            SettingsError: the certificate or key cannot be used.
        """
        if self.tls_certfile is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.tls_certfile, self.tls_keyfile)
        except (ssl.SSLError, OSError) as error:
            raise SettingsError([f"ingress.tls_certfile, ingress.tls_keyfile: {error}"]) from None
        return context


class History(_Section):
    """The pages and the JSON interface where the sender looks: `mailstreams history`. See docs/history.md."""

    host: Annotated[str, StringConstraints(min_length=1)] = _setting(
        "127.0.0.1",
        "host name or address",
        "The address to listen on. This machine only by default. Any other one needs `trusted_proxies` or an account's "
        "`history_keys`: without them anybody who reaches the port sees every recipient.",
    )
    port: int = _setting(
        19103, "port", "Serves the pages and `/api/v1`, nothing else. 0 takes any free one.", ge=0, le=32767
    )
    admin_host: Annotated[str, StringConstraints(min_length=1)] = _setting(
        "127.0.0.1",
        "host name or address",
        "Where `/metrics`, `/livez` and `/readyz` are served: apart from the pages, as they have no login.",
    )
    admin_port: int = _setting(19104, "port", "Of `admin_host`. 0 takes any free one.", ge=0, le=32767)
    database_url: _Secret = _setting(
        SecretStr("sqlite:///./var/history/history.db"),
        "URL",
        "Where the history is kept: `sqlite:///PATH` (four slashes before an absolute path), or "
        "`postgresql://USER:PASSWORD@HOST/DATABASE`, for which `psycopg[binary]` is installed. The tables are made "
        "and migrated at each start. One process writes to a database.",
    )
    trusted_proxies: _Names = _setting(
        (),
        "addresses or networks (CIDR), comma-separated",
        "Only from these is `accounts_header` believed; from anybody else it is a claim, and counts for nothing.",
    )
    accounts_header: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]{1,64}$")] = _setting(
        "X-Mailstreams-Accounts",
        "name of a header",
        "In which a trusted proxy says whose deliveries the person may see: accounts, comma-separated, or `*` for all. "
        "The proxy has to remove it from what comes from outside.",
    )
    public_hosts: _Names = _setting(
        (),
        "host names, comma-separated",
        "What browsers call it by, without a port, besides this machine's own names and `host`. Requests for another "
        "name are refused, so that no foreign page can read the history by pointing its own name here (DNS rebinding).",
    )
    page_size: int = _setting(
        50, "deliveries", "On one page, and in one answer of the interface unless it asks.", ge=1, le=200
    )
    export_rows: int = _setting(10_000, "deliveries", "The most that a CSV file has.", ge=1, le=1_000_000)
    retention_days: float = _setting(
        400,
        "days",
        "After the last change of its status a delivery is deleted here, with its timeline, unless its provider still "
        "tries; a year and a month by default, for the yearly accounts. It may be longer than the topics keep: then "
        "`mailstreams history rebuild` cannot bring back all of it.",
        ge=1,
        le=_TEN_YEARS_DAYS,
    )
    batch_records: int = _setting(
        5000, "records", "Most records in one transaction; more is faster while catching up.", ge=1, le=50_000
    )
    query_timeout_s: float = _setting(
        5, "seconds", "A question to the database that takes longer is given up and answered 503.", gt=0, le=300
    )
    read_timeout_s: float = _setting(
        10, "seconds", "The body of a request must come within this time, else 408.", gt=0, le=300
    )
    max_requests: int = _setting(100, "count", "More requests in work at once are answered 503.", ge=1, le=10_000)
    max_streams: int = _setting(
        500,
        "count",
        "More live views at once are answered 503; a page without one shows the same, once.",
        ge=0,
        le=100_000,
    )
    shutdown_s: float = _setting(
        10,
        "seconds",
        "How long an orderly stop lets the requests in work finish; below the supervisor's patience.",
        gt=0,
    )

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _checked_networks(value)

    @field_validator("database_url")
    @classmethod
    def _check_database(cls, value: SecretStr) -> SecretStr:
        if re.match(r"^(sqlite:///.|postgresql(\+psycopg)?://.)", value.get_secret_value()) is None:
            message = "neither sqlite:///PATH nor postgresql://USER:PASSWORD@HOST/DATABASE"
            raise ValueError(message)
        return value


class Delivery(_Section):
    """What a delivery is and when it is forgotten."""

    expire_after_days: float = _setting(
        90,
        "days",
        "After its last event a delivery is forgotten and its record in `mail.status` removed; longer than any "
        "provider reports on a message, so that no late event begins it again.",
        ge=1,
        le=_TEN_YEARS_DAYS,
    )
    reference_keys: _Names = _setting(
        ("reference", "invoice", "invoice_id", "invoice_number"),
        "names, comma-separated",
        "Custom argument, metadata key or tag that holds the invoice's reference; the first one found wins.",
        min_length=1,
    )


_KeyId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


class Webhook(_Section):
    """How one provider's webhooks for one account are verified: docs/ingress.md."""

    secrets: dict[_KeyId, _Secret] = _setting(
        {},
        "table: name of the secret -> secret",
        "What proves that a request comes from the provider: SendGrid's verification key, the allowed TopicArn of Amazon "
        "SNS, Mailgun's signing key, `basic:USER:PASSWORD` or `header:NAME:VALUE` of Postmark, Azure, Brevo and Mailjet, "
        "Resend's signing secret. Several live ones make a rotation possible; the name is kept with each webhook. Without "
        "any, requests are refused.",
    )
    replay_window_s: float | None = _setting(
        None,
        "seconds",
        "How old a signature's time stamp may be. Without it the provider's own default, which is as wide as its retries "
        "need: a narrower one refuses what an outage delayed.",
        gt=0,
    )
    insecure: bool = _setting(
        False,
        "true, false",
        "Take requests without any proof: anybody who finds the URL can mark any invoice as delivered. For trying only; each "
        "start says so.",
    )
    auto_confirm: bool = _setting(
        False,
        "true, false",
        "Amazon SNS: confirm a subscription of an allowed topic by itself; else `mailstreams webhook confirm` does.",
    )

    @field_validator("insecure")
    @classmethod
    def _check_insecure(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("secrets"):
            message = "has no effect beside secrets; remove one of them"
            raise ValueError(message)
        return value


class Deferrals(_Section):
    """When the monitor alerts on deliveries that stay deferred, and what "in time" means: docs/deferrals.md."""

    warn_after_s: float = _setting(
        3600,
        "seconds",
        "A delivery deferred for this long is raised on `mail.deferral-alerts`, and its advice says to contact the "
        "recipient from then on; greylisting and short outages are over by then.",
        gt=0,
        le=_TEN_YEARS_S,
    )
    escalate_after_s: float | None = _setting(
        None,
        "seconds",
        "When it is escalated. Without it the smaller of 12 h and three quarters of the provider's retry window, "
        "so that there is time to send it by another way.",
        gt=0,
        le=_TEN_YEARS_S,
    )
    retry_window_s: float | None = _setting(
        None,
        "seconds",
        "How long **every** provider tries again, where it names no end itself; for one of them set that of the account. "
        "Without it what each documents: SendGrid 72 h, Amazon SES 14 h (and so Resend), Mailgun 8 h, Brevo 36 h, else 72 h.",
        gt=0,
        le=_TEN_YEARS_S,
    )
    overdue_slack_s: float = _setting(
        3600,
        "seconds",
        "How long after the end of its retry window the provider's final word may come; then the delivery is overdue.",
        ge=0,
        le=_TEN_YEARS_S,
    )
    objective_s: float = _setting(
        900,
        "seconds",
        "A message delivered within this time after the provider took it met the objective; "
        "`mailstreams_objective_total` counts them.",
        gt=0,
        le=_TEN_YEARS_S,
    )

    @field_validator("escalate_after_s")
    @classmethod
    def _check_escalation(cls, value: float | None, info: ValidationInfo) -> float | None:
        warn_after_s = info.data.get("warn_after_s")
        if value is not None and warn_after_s is not None and value <= warn_after_s:
            message = f"{value:g} s must be above warn_after_s ({warn_after_s:g} s)"
            raise ValueError(message)
        return value


class DeferralOverrides(_Section):
    """What differs from `deferrals` for one account at one provider."""

    warn_after_s: float | None = _setting(
        None, "seconds", "Instead of `deferrals.warn_after_s`.", gt=0, le=_TEN_YEARS_S
    )
    escalate_after_s: float | None = _setting(
        None, "seconds", "Instead of `deferrals.escalate_after_s`.", gt=0, le=_TEN_YEARS_S
    )
    retry_window_s: float | None = _setting(
        None,
        "seconds",
        "Instead of `deferrals.retry_window_s`: what is set up at the provider for this account. `MailDeferralNearExpiry` does "
        "not know it.",
        gt=0,
        le=_TEN_YEARS_S,
    )
    overdue_slack_s: float | None = _setting(
        None, "seconds", "Instead of `deferrals.overdue_slack_s`.", ge=0, le=_TEN_YEARS_S
    )

    def over(self, common: Deferrals) -> Deferrals:
        """Return the settings in force for the account at the provider; the result is not validated."""
        return common.model_copy(update=self.model_dump(exclude_none=True))

    def fault(self, common: Deferrals) -> tuple[str, str] | None:
        """Return which of these settings contradicts another one in force, and why; ``None`` if none does."""
        chosen = self.over(common)
        if chosen.escalate_after_s is None or chosen.escalate_after_s > chosen.warn_after_s:
            return None
        if self.escalate_after_s is None:
            inherited = f"deferrals.escalate_after_s ({chosen.escalate_after_s:g} s)"
            return "warn_after_s", f"{chosen.warn_after_s:g} s must be below {inherited}"
        warn_after = "deferrals.warn_after_s" if self.warn_after_s is None else "warn_after_s"
        return (
            "escalate_after_s",
            f"{chosen.escalate_after_s:g} s must be above {warn_after} ({chosen.warn_after_s:g} s)",
        )


class Account(_Section):
    """One account at a provider."""

    support_contact: Annotated[str, StringConstraints(min_length=1)] | None = _setting(
        None,
        "text",
        "Whom to ask for a manual send after a drop: an address, a number or a link; the advice shows it as it is.",
    )
    api_keys: _Digests = _setting(
        (),
        "SHA-256 in hexadecimal, comma-separated",
        "Of the keys with which the application may `POST /sends` for this account: the key itself is nowhere here. "
        "`printf %s KEY | sha256sum` gives it.",
    )
    history_keys: _Digests = _setting(
        (),
        "SHA-256 in hexadecimal, comma-separated",
        "Of the keys with which this account's deliveries, and no others, may be read from `mailstreams history`, by "
        "`Authorization: Bearer KEY` or as a browser's password. Made like `api_keys`, and never the same ones.",
    )
    webhooks: dict[str, Webhook] = _setting(
        {},
        "table: provider -> the settings below",
        "The providers that may send webhooks for this account to `/webhooks/PROVIDER/NAME`.",
    )

    deferrals: dict[str, DeferralOverrides] = _setting(
        {},
        "table: provider -> the settings below",
        "Another policy for this account's deferred deliveries at a provider.",
    )

    @field_validator("deferrals", "webhooks")
    @classmethod
    def _check_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        unknown = {name: _unknown_provider(name) for name in value if name not in PROVIDERS}
        _raise_all(cls, [_fault(text, name, kind=UNKNOWN_PROVIDER) for name, text in unknown.items()])
        return value

    @field_validator("webhooks")
    @classmethod
    def _check_secrets(cls, value: dict[str, Webhook]) -> dict[str, Webhook]:
        faults = [
            _fault(fault, name, "secrets", key_id)
            for name, webhook in value.items()
            for key_id, secret in webhook.secrets.items()
            if (fault := PROVIDERS[name].secret_fault(secret.get_secret_value()))
        ]
        _raise_all(cls, faults)
        return value


_AccountName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


class Settings(_Section):
    """All settings; ``Settings()`` is the defaults, ``load`` reads file and environment."""

    kafka: Kafka = Kafka()
    topics: Topics = Field(default_factory=Topics)
    worker: Worker = Worker()
    web: Web = Web()
    ingress: Ingress = Ingress()
    history: History = History()
    delivery: Delivery = Delivery()
    deferrals: Deferrals = Deferrals()
    accounts: dict[_AccountName, Account] = Field(default_factory=dict)

    @field_validator("accounts")
    @classmethod
    def _check_deferrals(cls, value: dict[str, Account], info: ValidationInfo) -> dict[str, Account]:
        common = info.data.get("deferrals")
        faults = [
            _fault(fault[1], name, "deferrals", provider, fault[0])
            for name, account in value.items()
            for provider, overrides in account.deferrals.items()
            if common is not None and (fault := overrides.fault(common)) is not None
        ]
        _raise_all(cls, faults)
        return value

    @field_validator("worker")
    @classmethod
    def _check_watchdog(cls, value: Worker, info: ValidationInfo) -> Worker:
        kafka = info.data.get("kafka")
        if kafka is not None and value.watchdog_s <= kafka.commit_deadline_s:
            deadline = kafka.commit_deadline_s
            text = f"{value.watchdog_s:g} s must be above kafka.commit_deadline_s ({deadline:g} s)"
            _raise_all(cls, [_fault(text, "watchdog_s")])
        return value


NESTED: Final[Mapping[str, type[BaseModel]]] = {"webhooks": Webhook, "deferrals": DeferralOverrides}
"""The sections below an account's: ``accounts.NAME.webhooks.PROVIDER``."""


def section_of(name: str) -> type[BaseModel]:
    """Return the class that declares a section's settings; for ``accounts``, those of one account."""
    if name == "accounts":
        return Account
    annotation = Settings.model_fields[name].annotation
    assert isinstance(annotation, type)
    assert issubclass(annotation, BaseModel)
    return annotation


def _unknown_provider(name: str) -> str:
    return f"unknown provider {name!r}{suggestion(name, PROVIDERS)}"


def suggestion(name: str, known: Mapping[str, Any]) -> str:
    """Say which known name was probably meant, or which there are."""
    similar = get_close_matches(name, known, n=1)
    return f"; did you mean {similar[0]}?" if similar else f"; known: {', '.join(known)}"
