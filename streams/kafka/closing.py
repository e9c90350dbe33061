"""Stop aiokafka's clients, whatever the broker does.

The rule: nothing waits for ever for a client that is no longer needed. A producer's
own ``stop`` waits until everything it has is acknowledged, and an idempotent one
never gives up. A consumer's may raise the cancellation of one of its own tasks
instead of an error, and then leaves its connections open.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any, Final

from aiokafka.errors import KafkaError, ProducerClosed

RELEASE_S: Final = 2.0
_TELL_AGAIN_S: Final = 1.0
_TIMES: Final = 3


def was_cancelled(error: BaseException) -> bool:
    """Tell whether ``error`` is a cancellation of the running task that was asked for.

    Any other cancellation comes from inside a library, and must not end anything silently.
    """
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling() > 0)


async def end(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel tasks and wait for their ends.

    They are told again: aiokafka keeps a cancellation to itself that comes while it closes a client.
    """
    waiting = set(tasks)
    while waiting:
        for task in waiting:
            task.cancel()
        done, waiting = await asyncio.wait(waiting, timeout=_TELL_AGAIN_S)
        for task in done:
            if not task.cancelled():
                task.exception()  # whoever wants to know has the task


async def stop_consumer(consumer: Any) -> None:
    """Stop a consumer, and let no cancellation of its own tasks escape.

    Without brokers aiokafka raises one, and it would replace the error for which the consumer is stopped.
    """
    try:
        await consumer.stop()
    except asyncio.CancelledError as error:
        if was_cancelled(error):
            raise
        await _close(consumer._client)  # noqa: SLF001 - the step that its stop skipped


async def stop_producer(producer: Any, patience_s: float) -> None:
    """Stop a producer. What is not acknowledged after ``patience_s`` is given up, and its connections are cut."""
    try:
        async with asyncio.timeout(patience_s):
            await producer.stop()
    except (KafkaError, OSError):  # a TimeoutError is an OSError
        await _give_up(producer)


async def release_producer(producer: Any, patience_s: float = RELEASE_S) -> None:
    """Stop a producer that nothing waits for any more, whatever its stop raises."""
    with contextlib.suppress(Exception):
        await stop_producer(producer, patience_s)


async def _give_up(producer: Any) -> None:
    """End what ``stop`` left: the sender, the connections, and everything that waits for its batches."""
    sender = producer._sender.sender_task  # noqa: SLF001 - no public way to give up
    _cut(producer.client)
    for _ in range(_TIMES):  # the first cancel ends the sender's loop, the next the requests in flight
        if sender is None or sender.done():
            break
        sender.cancel()
        await asyncio.wait({sender}, timeout=_TELL_AGAIN_S)
    await _close(producer.client)
    accumulator = producer._message_accumulator  # noqa: SLF001 - no public way either
    left = [batch for batches in accumulator._batches.values() for batch in batches]  # noqa: SLF001
    accumulator._pending_batches.update(left)  # noqa: SLF001 - aiokafka removes each from here when it is done
    accumulator.fail_all(ProducerClosed())
    for batch in left:
        if batch._drain_waiter.done():  # noqa: SLF001 - nothing else retrieves the error
            batch._drain_waiter.exception()  # noqa: SLF001


async def _close(client: Any) -> None:
    """Close a client's connections, and wait no longer than healthy ones take."""
    _cut(client)
    closing = asyncio.ensure_future(client.close())
    await asyncio.wait({closing}, timeout=_TELL_AGAIN_S)
    if not closing.done():
        closing.cancel()
    elif not closing.cancelled():
        closing.exception()  # retrieves the error of a lost connection


def _cut(client: Any) -> None:
    """Abort the connections: an orderly close waits for unsent data, and with TLS for the broker's close_notify."""
    for connection in client._conns.values():  # noqa: SLF001 - no public way to cut
        transport = getattr(connection._protocol, "_transport", None)  # noqa: SLF001
        if transport is not None:
            transport.abort()
