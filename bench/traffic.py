"""Traffic in SendGrid's documented format, the same for the same seed: disorder, repetitions, all statuses."""

import random
import time
from collections.abc import Iterator

from streams import codecs

KINDS = {"processed": 30, "delivered": 35, "open": 20, "deferred": 10, "bounce": 3, "dropped": 2}
EVENTS_PER_DELIVERY = 3
REPEATED = 0.05


def events_of(seed: int, count: int) -> Iterator[dict[str, object]]:
    """Yield ``count`` events for a third as many deliveries; one in twenty is a repetition of a recent one."""
    chance = random.Random(seed)
    now = int(time.time())
    deliveries = max(count // EVENTS_PER_DELIVERY, 1)
    recent: list[dict[str, object]] = []
    for number in range(count):
        if recent and chance.random() < REPEATED:
            yield chance.choice(recent)
            continue
        event = _event(chance, now, chance.randrange(deliveries), f"{seed}-{number}")
        recent.append(event)
        if len(recent) > 200:  # noqa: PLR2004 - trimmed now and then
            del recent[:-100]
        yield event


def bodies_of(seed: int, count: int, per_body: int) -> list[bytes]:
    """Return ``count`` bodies of ``per_body`` events."""
    events = events_of(seed, count * per_body)
    return [codecs.encode([next(events) for _ in range(per_body)]) for _ in range(count)]


def _event(chance: random.Random, now: int, number: int, event_id: str) -> dict[str, object]:
    kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
    event: dict[str, object] = {
        "email": f"payer{number}@customer{number % 997}.example",
        "timestamp": now - chance.randrange(7200),
        "smtp-id": f"<m{number}@ismtpd0001p1iad1.sendgrid.net>",
        "event": kind,
        "category": ["invoice"],
        "sg_event_id": event_id,
        "sg_message_id": f"m{number}.filter0001.16648.5515E0B88.0",
        "invoice": f"INV-{number}",
    }
    if kind == "deferred":
        event |= {"response": "421 4.7.0 Try again later", "attempt": str(chance.randrange(1, 9))}
    elif kind == "delivered":
        event |= {"response": "250 2.0.0 OK"}
    elif kind == "bounce":
        event |= {"reason": "550 5.1.1 The email account does not exist", "status": "5.1.1", "type": "bounce"}
    elif kind == "dropped":
        event |= {"reason": "Bounced Address"}
    elif kind == "open":
        event |= {"useragent": "Mozilla/5.0 (X11; Linux x86_64)", "ip": "192.0.2.17", "sg_machine_open": False}
    return event
