"""The product job: what ``streams.agents.track`` does to an event, with the same pure functions and codecs.

The contestant's work is left out: ours reads and writes differently, and also counts
metrics. A test compares this fold with ``track.Track``, output by output.
"""

from bench import jobs
from bench.jobs import Job
from streams import records
from streams.domain import deferrals, objective, status
from streams.domain.events import EventType
from streams.domain.status import Kind, Outcome

WARN_AFTER_US = 3_600_000_000
OBJECTIVE_US = 300_000_000


def fold(row: bytes | None, key: bytes, value: bytes) -> jobs.Folded:
    """Fold one record of ``mail.events``."""
    event = records.decode_event(value)
    before = None if row is None else records.decode_row(row)
    folded = status.fold(before, event, delivery_id=key.decode("ascii"))
    after = folded.delivery
    if after is None or after is before:
        return None, []
    objective.judge(before, after, OBJECTIVE_US)
    outputs: list[tuple[str, bytes]] = []
    if folded.changed or folded.refreshed:
        shown = records.encode_status(after, support_contact=None, warn_after_us=WARN_AFTER_US)
        if folded.changed:
            outputs.append(("status-changed", shown))
        outputs.append(("status", shown))
    if Kind.DEFERRED in after.facts and deferrals.is_news(before, folded, event.type):
        attempt = event.type is EventType.DEFERRED and folded.outcome is Outcome.APPLIED
        outputs.append(("deferrals", records.encode_deferral(after, attempt=attempt)))
    return records.encode_row(after), outputs


JOB = Job("product", ("status-changed", "status", "deferrals"), fold)
