"""The records on the wire: domain values <-> the keys, values and headers of every topic.

Only this package writes records, and turns them into domain values. Readers outside
the pipeline (the Sending History, the command line) use the public records as
dictionaries, with the names in ``schemas/``. Four rules:

- *Readers are lenient about what is new*: unknown fields are ignored, an event
  type that this version does not know is ``unknown``.
- *Readers are strict about the rest*: a record that cannot be understood raises
  ``RecordError``. It is poison, and goes to the dead letters. The error's text
  never carries personal data.
- *Equal values give equal bytes*: no clock, no random id, fields in fixed order.
- *A row that cannot be understood is not poison but a crash* (``RowError``): rows
  are our own state, and going on without it would publish wrong statuses.

The public records are described by ``schemas/*.schema.json``; a field added
here must be added there.
"""

from streams.records._shared import (
    Headers,
    RecordError,
    RowError,
    RowVersionError,
    delivery_key,
    json_object,
)
from streams.records.control import Resume, decode_resume, encode_resume
from streams.records.dead_letters import DeadLetter, dead_letter, decode_dead_letter, encode_dead_letter
from streams.records.deferrals import (
    alert_action,
    decode_alert,
    decode_deferral,
    decode_open_deferral,
    encode_alert,
    encode_deferral,
    encode_forgotten,
    encode_open_deferral,
)
from streams.records.deliveries import decode_row, due_of_row, encode_row, watch_of_row
from streams.records.events import decode_event, encode_event
from streams.records.sends import decode_send, encode_send, send_of
from streams.records.status import decode_status, encode_status
from streams.records.webhooks import RAW_HTTP, RAW_VERIFIED, decode_raw, encode_raw_headers

__all__ = [
    "RAW_HTTP",
    "RAW_VERIFIED",
    "DeadLetter",
    "Headers",
    "RecordError",
    "Resume",
    "RowError",
    "RowVersionError",
    "alert_action",
    "dead_letter",
    "decode_alert",
    "decode_dead_letter",
    "decode_deferral",
    "decode_event",
    "decode_open_deferral",
    "decode_raw",
    "decode_resume",
    "decode_row",
    "decode_send",
    "decode_status",
    "delivery_key",
    "due_of_row",
    "encode_alert",
    "encode_dead_letter",
    "encode_deferral",
    "encode_event",
    "encode_forgotten",
    "encode_open_deferral",
    "encode_raw_headers",
    "encode_resume",
    "encode_row",
    "encode_send",
    "encode_status",
    "json_object",
    "send_of",
    "watch_of_row",
]
