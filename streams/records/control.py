"""``mail.control``: the commands that operators give to running workers."""

from dataclasses import dataclass
from datetime import datetime
from types import NoneType

from streams.codecs import encode
from streams.records._shared import RecordError, json_object, time_of, utc


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """The command to go on with a source partition that was stopped because too many of its records were bad."""

    resume_id: str
    """Identifies the command: it is carried out only once."""
    requested_at: datetime
    dead_letter_through: int | None
    """Bad records up to this offset go to the dead letters without being counted; None: all bad ones are counted."""
    app_id: str | None
    """The application that the command is for; None in a command of an older version, which is ignored."""
    offset: int | None
    """Where the partition was stopped: the command is valid for this stop only. None: as for ``app_id``."""


def encode_resume(
    resume_id: str, requested_at: datetime, dead_letter_through: int | None, *, app_id: str, offset: int
) -> bytes:
    """Return the value of a command; its key is ``<topic>/<partition>``."""
    return encode(
        {
            "resume_id": resume_id,
            "requested_at": utc(requested_at, "requested_at"),
            "dead_letter_through": dead_letter_through,
            "app_id": app_id,
            "offset": offset,
        }
    )


def decode_resume(value: bytes | None) -> Resume:
    """Return the command of a record of ``mail.control``.

    Raises:
        RecordError: it is not a command.
    """
    fields = json_object(value)
    resume_id, through = fields.get("resume_id"), fields.get("dead_letter_through")
    app_id, offset = fields.get("app_id"), fields.get("offset")
    if type(resume_id) is not str or type(through) not in {int, NoneType}:
        message = "resume_id or dead_letter_through is missing or has the wrong type"
        raise RecordError(message)
    if type(app_id) not in {str, NoneType} or type(offset) not in {int, NoneType}:
        message = "app_id or offset has the wrong type"
        raise RecordError(message)
    return Resume(
        resume_id=resume_id,
        requested_at=time_of(fields.get("requested_at"), "requested_at"),
        dead_letter_through=through,
        app_id=app_id,
        offset=offset,
    )
