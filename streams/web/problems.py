"""Errors as programs read them: ``application/problem+json`` (RFC 9457)."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from aiohttp import web

from streams import codecs


def problem(
    status: HTTPStatus,
    detail: str,
    *,
    errors: Sequence[Mapping[str, Any]] = (),
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """Return an answer that says what is wrong.

    Args:
        status: Of the answer.
        detail: In words; like all the rest it quotes nothing from the request.
        errors: Each single fault, if there are several.
        headers: Of the answer.
    """
    body: dict[str, Any] = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail}
    if errors:
        body["errors"] = list(errors)
    return web.Response(
        status=status,
        body=codecs.encode(body),
        content_type="application/problem+json",
        headers=dict(headers or {}),
    )
