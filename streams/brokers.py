"""Why no broker lets us in: found by asking each broker, since aiokafka only says that none could be used.

The rule: **a refusal is distinguished from an absence.** A broker that is away comes
back, so its clients wait. A refused password or certificate stays refused until a
person changes something, so one line says so, with what to change.
"""

import asyncio
import ssl
from collections.abc import Iterable, Mapping
from typing import Any, Final

from aiokafka.conn import create_conn
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnsupportedSaslMechanismError,
)

NOT_ALLOWED: Final = (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
"""A broker knows our user, but the user lacks a right."""
_TIMEOUT_MS: Final = 3000
_CERT_REQUIRED: Final = ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "SSLV3_ALERT_BAD_CERTIFICATE")
_HOSTNAME_MISMATCH: Final = (62, 64)
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""

_connect: Any = create_conn  # untyped


OUT_OF_REACH: Final = "start it, or let its advertised.listeners name where it is reached"
"""What to do about a broker that another one names, and that cannot be reached: ``NodeNotReadyError``."""


class RefusedError(KafkaConnectionError):
    """A broker answers but does not let us in, or we do not trust it; the text says what to change."""

    def __str__(self) -> str:
        return str(self.args[0])


class SilentError(NodeNotReadyError):
    """Partitions are led by brokers that do not answer; the text says which, and what to do."""

    def __str__(self) -> str:
        return str(self.args[0])


def absence(error: BaseException) -> str:
    """Return which error it is that keeps a process waiting for a broker, and what to do where waiting may not help."""
    name = type(error).__name__
    if isinstance(error, NodeNotReadyError):
        return f"{name}: it answers, but a broker of that cluster cannot be reached from here: {OUT_OF_REACH}"
    return name


async def refusal(options: Mapping[str, Any]) -> RefusedError | None:
    """Ask each of the brokers once more; return why the first that refuses cannot be used, or None if none refuses.

    Args:
        options: Those of any aiokafka client: ``Kafka.client_options()``.
    """
    if options["security_protocol"] == "PLAINTEXT":
        return None  # nothing that could be refused
    for server in options["bootstrap_servers"].split(","):
        host, _, port = server.rpartition(":")
        more = {name: value for name, value in options.items() if name != "bootstrap_servers"}
        try:
            connection = await _connect(host.strip("[]"), int(port), request_timeout_ms=_TIMEOUT_MS, **more)
        except (KafkaError, OSError, TimeoutError) as error:
            if why := _why(error, host, more):
                return RefusedError(f"the broker at {server} cannot be used: {why}")
        else:
            connection.close()
    return None


async def silent(options: Mapping[str, Any], places: Iterable[tuple[str, int]]) -> list[str]:
    """Ask each of some brokers, by host and port; return the addresses of those that do not answer.

    Args:
        options: As for ``refusal``.
        places: Where the brokers are, as they name each other.

    Raises:
        RefusedError: one of them answers, and does not let us in.
    """
    more = {name: value for name, value in options.items() if name != "bootstrap_servers"}

    async def answers(host: str, port: int) -> bool:
        try:
            connection = await _connect(host, port, request_timeout_ms=_TIMEOUT_MS, **more)
        except (KafkaError, OSError, TimeoutError) as error:
            if why := _why(error, host, more):
                message = f"the broker at {host}:{port} cannot be used: {why}"
                raise RefusedError(message) from None
            return False
        connection.close()
        return True

    asked = sorted(places)
    answered = await asyncio.gather(*(answers(*place) for place in asked))
    return [f"{host}:{port}" for (host, port), answer in zip(asked, answered, strict=True) if not answer]


def _why(error: Exception, host: str, options: Mapping[str, Any]) -> str | None:
    mechanism = options.get("sasl_mechanism")
    if isinstance(error, SaslAuthenticationFailed):
        user = options.get("sasl_plain_username")
        return (
            f"it refuses the user {user!r} or the password ({mechanism}): set kafka.sasl_username and "
            "kafka.sasl_password, or make the user: docs/kafka-security.md"
        )
    if isinstance(error, UnsupportedSaslMechanismError):
        return f"it does not offer {mechanism} here: set kafka.sasl_mechanism"
    if isinstance(error, IllegalSaslStateError):
        return "it asks for no user and password on this port: set kafka.security_protocol"
    return _why_no_tls(error, host) if isinstance(error, ssl.SSLError) else None


def _why_no_tls(error: ssl.SSLError, host: str) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _HOSTNAME_MISMATCH:
            return (
                f"its certificate is not for {host!r}: name it in kafka.bootstrap_servers (and in the brokers' "
                "advertised.listeners) as the certificate does"
            )
        return (
            f"its certificate is not trusted ({error.verify_message}): set kafka.ssl_cafile to the certificate of "
            "the authority that signed it"
        )
    if error.reason in _CERT_REQUIRED:
        return f"it wants a certificate of ours ({error.reason}): set kafka.ssl_certfile"
    return f"TLS does not come about ({error.reason}): set kafka.security_protocol, or another port"
