"""JSON: bytes <-> plain values. The only place that imports orjson.

``decode`` accepts exactly RFC 8259 JSON in UTF-8 (no NaN, bounded nesting) and
raises ``DecodeError``, whose text never quotes the input.
"""

from typing import Any

import orjson

__all__ = ["DecodeError", "decode", "encode"]


class DecodeError(ValueError):
    """The bytes are not JSON."""


def decode(data: bytes | str) -> Any:
    """Return the plain value of a JSON text.

    Raises:
        DecodeError: not UTF-8, not JSON, NaN, or nested too deeply.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        message = f"not JSON at line {error.lineno}, column {error.colno}"
        raise DecodeError(message) from None
    except RecursionError:
        message = "JSON is nested too deeply"
        raise DecodeError(message) from None


def encode(value: Any) -> bytes:
    """Return the compact JSON text of plain values, dataclasses, enums and aware datetimes.

    Datetimes become RFC 3339 in UTC with a ``Z``. A mapping keeps its order, so equal values give equal bytes.
    """
    return orjson.dumps(value, option=orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS)
