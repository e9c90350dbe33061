"""``docs/configuration.md``, generated from the descriptions in the sections."""

from collections.abc import Iterator

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from streams.settings._loading import CONFIG_VARIABLE, DEFAULT_CONFIG, DELIMITER, PREFIX
from streams.settings._sections import NESTED, Account, Settings, section_of


def reference() -> str:
    """Return ``docs/configuration.md``: every setting, from the sections' descriptions."""
    return "\n".join(_reference_lines()) + "\n"


def _reference_lines() -> Iterator[str]:
    yield "# Configuration"
    yield ""
    yield "<!-- Written by `mailstreams config reference` from streams/settings/_sections.py; change it there. -->"
    yield ""
    yield "Settings come from one TOML file and from environment variables, which win."
    yield f"The file is the one named by `--config`, else by `{CONFIG_VARIABLE}`, else `{DEFAULT_CONFIG}` in the"
    yield "working directory if there is one. Every setting has a default; no file is needed to begin."
    yield "A file that is there and cannot be read stops the program."
    yield ""
    yield "An unknown name or a wrong value stops the program with one line for each."
    yield f"A variable without a double underscore is ignored, such as `{PREFIX}SERVICE_HOST`, which Kubernetes sets; but one"
    yield "that lacks only the second underscore of a setting's stops the program, too."
    yield "`mailstreams config show` prints what is in force, with secrets masked."
    yield ""
    yield "```toml"
    yield "[kafka]"
    yield 'bootstrap_servers = "kafka-1.example.net:9093,kafka-2.example.net:9093"'
    yield 'security_protocol = "SASL_SSL"'
    yield 'sasl_mechanism = "SCRAM-SHA-512"'
    yield 'sasl_username = "mailstreams"'
    yield "# sasl_password by the environment: MAILSTREAMS_KAFKA__SASL_PASSWORD"
    yield ""
    yield "[topics]"
    yield "replication_factor = 3"
    yield "min_insync_replicas = 2"
    yield ""
    yield "[accounts.billing]"
    yield 'support_contact = "https://support.example.net/manual-send"'
    yield ""
    yield "[accounts.billing.webhooks.mailgun.secrets]"
    yield "# by the environment: MAILSTREAMS_ACCOUNTS__BILLING__WEBHOOKS__MAILGUN__SECRETS__2026"
    yield "```"
    for section in Settings.model_fields:
        yield from _reference_of_section("accounts.NAME" if section == "accounts" else section, section_of(section))
    for name, model in NESTED.items():
        yield from _reference_of_section(f"accounts.NAME.{name}.PROVIDER", model)


def _reference_of_section(heading: str, model: type[BaseModel]) -> Iterator[str]:
    yield ""
    yield f"## [{heading}]"
    yield ""
    yield (model.__doc__ or "").strip()
    if model is Account:
        yield "NAME is the account's name in the path of the webhook's URL: letters, digits, `.`, `_`, `-`."
        yield "A name given by environment variable is in lower case."
    for name, field in model.model_fields.items():
        yield ""
        yield f"### `{heading}.{name}`"
        yield ""
        yield f"Default: {_default_text(field)}. Unit: {_unit(field)}."
        variable = f"{PREFIX}{heading.replace('.', DELIMITER).upper()}{DELIMITER}{name.upper()}"
        if name == "secrets":
            yield f"Environment: `{variable}{DELIMITER}KEY`, the name of the secret in lower case."
        elif name not in NESTED:
            yield f"Environment: `{variable}`."
        yield ""
        yield field.description or ""


def _unit(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    assert isinstance(extra, dict), "every setting is declared by _setting"
    return str(extra["unit"])


def _default_text(field: FieldInfo) -> str:
    default = field.get_default()
    assert default is not PydanticUndefined, "every setting has a default"
    if default is None:
        return "none"
    if isinstance(default, SecretStr):  # a default that everybody can read is no secret
        default = default.get_secret_value()
    if default == {}:
        return "empty"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        return f"`{', '.join(default)}`" if default else "empty"
    return f"`{default}`"
