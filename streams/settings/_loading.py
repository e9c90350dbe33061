"""From a TOML file and the environment to checked settings; each mistake is reported in one line.

An unknown name is refused, with the name that was probably meant.
"""

import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from streams.settings._sections import (
    NESTED,
    UNKNOWN_PROVIDER,
    Account,
    Settings,
    SettingsError,
    section_of,
    suggestion,
)

CONFIG_VARIABLE: Final = "MAILSTREAMS_CONFIG"
DEFAULT_CONFIG: Final = Path("mailstreams.toml")
PREFIX: Final = "MAILSTREAMS_"
DELIMITER: Final = "__"
"""In an environment variable's name: ``PREFIX`` is before the section, ``DELIMITER`` between section and name."""

_OF_ACCOUNT: Final = re.compile(rf"{PREFIX}ACCOUNTS_\w+_({'|'.join(Account.model_fields).upper()})(_|$)")
"""An account's variable without its double underscores: ``MAILSTREAMS_ACCOUNTS_BILLING_SUPPORT_CONTACT``."""
_LINKS: Final = ("tcp://", "udp://", "sctp://")
"""Kubernetes and Docker set ``MAILSTREAMS_WEB_PORT=tcp://10.0.0.1:80`` where a Service or link is named mailstreams-web."""
_NESTED_DEPTH: Final = 4  # accounts.NAME.webhooks.PROVIDER


def load(path: Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings.

    Args:
        path: the TOML file; without it ``MAILSTREAMS_CONFIG``, else ``mailstreams.toml`` here if there is one.
        environment: the environment variables, ``os.environ`` by default.

    Raises:
        SettingsError: a file cannot be read, or settings are unknown or wrong: one line for each.
    """
    environment = os.environ if environment is None else environment
    if path is None and environment.get(CONFIG_VARIABLE):
        path = Path(environment[CONFIG_VARIABLE])
    if path is None and _may_be_there(DEFAULT_CONFIG):
        path = DEFAULT_CONFIG
    from_file = _read_file(path) if path is not None else {}
    from_environment, variables = _read_environment(environment)
    problems = _misspelled(environment) + _in_another_case(from_file.get("accounts"), variables)
    try:
        found = Settings.model_validate(_merged(from_file, from_environment))
    except ValidationError as error:
        problems += [
            _problem(details, variables, path) for details in error.errors(include_url=False, include_input=False)
        ]
    if problems:
        raise SettingsError(problems)
    return found


def shown(settings: Settings) -> dict[str, Any]:
    """Return the settings as plain values for a person to see, with every secret masked."""
    values: dict[str, Any] = settings.model_dump(mode="json")
    return values


def _may_be_there(path: Path) -> bool:
    """Tell whether a file has to be read: also a folder, a link to nothing, and what may not be looked for here.

    Docker makes a folder where the file to be mounted is missing. Reading it says what is wrong; else the defaults would
    hold, and nobody would know.
    """
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        where = f"{path} in the working directory" if path == DEFAULT_CONFIG else path
        what = "a link to no file" if isinstance(error, FileNotFoundError) and path.is_symlink() else error.strerror
        raise SettingsError([f"{where}: {what}"]) from None
    except UnicodeDecodeError:
        raise SettingsError([f"{path}: not UTF-8"]) from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError([f"{path}: not TOML: {error}"]) from None


def _read_environment(environment: Mapping[str, str]) -> tuple[dict[str, Any], dict[tuple[str, ...], str]]:
    """Return the nested values, and which variable each came from.

    A name without the double underscore is not ours: Kubernetes itself sets ``MAILSTREAMS_SERVICE_HOST``
    and the like where a Service is named mailstreams. But see ``_misspelled``.
    """
    values: dict[str, Any] = {}
    variables: dict[tuple[str, ...], str] = {}
    for variable, value in sorted(environment.items()):
        if not variable.startswith(PREFIX) or DELIMITER not in variable:
            continue
        location = tuple(variable.removeprefix(PREFIX).lower().split(DELIMITER))
        inner = values
        for name in location[:-1]:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise SettingsError([f"{variable}: {'.'.join(location[:-1])} is a value, it has no parts"])
        inner[location[-1]] = value
        variables[location] = variable
    return values, variables


def _misspelled(environment: Mapping[str, str]) -> list[str]:
    """Say which variables lack nothing but second underscores to be a setting's."""
    meant = {
        f"{PREFIX}{section}_{name}".upper(): f"{PREFIX}{section}{DELIMITER}{name}".upper()
        for section in Settings.model_fields
        if section != "accounts"
        for name in section_of(section).model_fields
    }
    problems = []
    for variable, value in sorted(environment.items()):
        if DELIMITER in variable or value.startswith(_LINKS):
            continue
        if variable in meant:
            problems.append(f"{variable}: unknown variable; did you mean {meant[variable]}?")
        elif _OF_ACCOUNT.match(variable):
            problems.append(f"{variable}: unknown variable; two underscores stand between its parts")
    return problems


def _in_another_case(accounts: Any, variables: Mapping[tuple[str, ...], str]) -> list[str]:
    """Say which variables would make another account beside one of the file that has capital letters in its name."""
    named = {name.lower(): name for name in accounts} if isinstance(accounts, dict) else {}
    return [
        f"accounts.{named[place[1]]}: a variable means the account {place[1]}, in lower case; set it in the file (from {variable})"
        for place, variable in variables.items()
        if place[:1] == ("accounts",) and place[1] in named and place[1] not in accounts
    ]


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        merged[name] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _problem(details: ErrorDetails, variables: Mapping[tuple[str, ...], str], path: Path | None) -> str:
    """Say in one line what is wrong, where, and where it was set."""
    location = tuple(str(part) for part in details["loc"] if part != "[key]")
    is_unknown = details["type"] == "extra_forbidden"
    is_name = is_unknown or details["type"] == UNKNOWN_PROVIDER or "[key]" in details["loc"]
    # a value was set at its own place or, with others, above it; a name occurs also in the variables of what is below it
    variable = next(
        (
            variable
            for place, variable in variables.items()
            if location[: len(place)] == place or (is_name and place[: len(location)] == location)
        ),
        None,
    )
    what = _unknown(location) if is_unknown else _reason(details)
    origin = f" (from {variable})" if variable else f" (in {path})" if is_unknown and path is not None else ""
    return f"{'.'.join(location)}: {what}{origin}"


def _reason(details: ErrorDetails) -> str:
    message = details["msg"].removeprefix("Value error, ")
    if details["type"] == "model_type":
        return "must be a table"
    return message[0].lower() + message[1:] if message.startswith(("Input", "Path", "String", "Tuple")) else message


def _unknown(location: Sequence[str]) -> str:
    """Say what was probably meant: a similar name in this place, or this very name in another section."""
    *parents, name = location
    if not parents:
        return f"unknown section{suggestion(name, Settings.model_fields)}"
    nested = NESTED.get(parents[2]) if len(parents) == _NESTED_DEPTH and parents[0] == "accounts" else None
    section = nested or section_of(parents[0])
    if similar := get_close_matches(name, section.model_fields, n=1):
        return f"unknown setting; did you mean {similar[0]}?"
    for other in Settings.model_fields:
        if name in section_of(other).model_fields and other != "accounts":
            return f"unknown setting; did you mean {other}.{name}?"
    place = ".".join(parents) if nested else parents[0]
    return f"unknown setting; known in {place}: {', '.join(section.model_fields)}"
