"""Everything that can be set: each with its unit, its default and the reason for it.

Settings come from one TOML file and from environment variables
``MAILSTREAMS_<SECTION>__<NAME>``, which win. They are read once, checked as a
whole and frozen; nothing else in the program reads the environment. Each
mistake is reported in one line, ``section.name: what is wrong``. An unknown name
is refused, because a misspelled setting that is silently ignored is found only
in production.

``_sections`` declares them, ``_loading`` reads and checks them, and ``docs/configuration.md`` is written from the
declarations by ``_reference``.
"""

from streams.settings._loading import load, shown
from streams.settings._reference import reference
from streams.settings._sections import (
    RETENTION_MARGIN_DAYS,
    Account,
    DeferralOverrides,
    Deferrals,
    Ingress,
    Kafka,
    LogFormat,
    Settings,
    SettingsError,
    Topics,
    Web,
    Webhook,
    Worker,
)

__all__ = [
    "RETENTION_MARGIN_DAYS",
    "Account",
    "DeferralOverrides",
    "Deferrals",
    "Ingress",
    "Kafka",
    "LogFormat",
    "Settings",
    "SettingsError",
    "Topics",
    "Web",
    "Webhook",
    "Worker",
    "load",
    "reference",
    "shown",
]
