"""Logging: one configuration for ours, Faust's and aiokafka's; lines for people or JSON.

The rule: a log line carries no address. Our own texts never contain one; what looks
like one in other texts is replaced. With the broker away aiokafka logs many lines a
second: each logger that is not ours may repeat a message once in ``REPEAT_S``.
"""

import logging
import re
import sys
import time
from collections.abc import MutableMapping
from typing import Any

import structlog

from streams.settings import LogFormat, Settings

REPEAT_S = 10.0
_ADDRESS = re.compile(
    r"""(?:"(?:[^"\n]|\\"){1,64}"|[^\s@<>"'(),:;](?:[^\s@<>"'(),:;]|(?<![=\[{])'){0,254})(?:@|%40)[^\s@<>"'(),:;]{1,255}"""
)
"""A local part may be quoted, with quotation marks inside (RFC 5321, 4.1.2), and may hold an apostrophe; one before it
or after "=" or a bracket is a quotation mark."""
_TEMPLATES_KEPT = 1000  # a library that formats its texts itself would fill the memory


def configure(settings: Settings) -> None:
    """Send everything to standard error in the format of the settings."""
    renderer: Any
    if settings.worker.log_format is LogFormat.JSON:
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            _without_addresses,
            renderer,
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    handler.addFilter(RateLimit(REPEAT_S))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.worker.log_level.upper())
    for noisy in ("faust", "mode", "aiokafka"):
        theirs = logging.getLogger(noisy)
        theirs.handlers[:] = []  # drop earlier ones: from here on everything goes to the root logger
        theirs.propagate = True
        theirs.setLevel(max(root.level, logging.WARNING))


class RateLimit(logging.Filter):
    """Lets each foreign message template through once in a while, and says how often it was held back."""

    def __init__(self, repeat_s: float) -> None:
        super().__init__()
        self._repeat_s = repeat_s
        self._last: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the record may pass."""
        if record.name.startswith("streams"):
            return True
        key = (record.name, str(record.msg)[:80])
        now = time.monotonic()
        last, held = self._last.get(key, (-self._repeat_s, 0))
        if now - last < self._repeat_s:
            self._last[key] = (last, held + 1)
            return False
        if len(self._last) >= _TEMPLATES_KEPT:
            self._last.clear()
        self._last[key] = (now, 0)
        if held:
            record.msg = f"{record.getMessage()} (and {held} times more since)"
            record.args = ()
        return True


def without_addresses(text: str) -> str:
    """Return the text with ``<address>`` in place of everything that looks like an e-mail address."""
    return _ADDRESS.sub("<address>", text) if "@" in text or "%40" in text else text


def _without_addresses(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = without_addresses(value)
    return event
