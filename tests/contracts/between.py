"""What comes between a writer and its brokers: lost connections, refusals, silence. Each as often as a test says."""

import asyncio
from typing import Any

from aiokafka.client import ConnectionGroup
from aiokafka.errors import BrokerResponseError, KafkaConnectionError
from aiokafka.protocol.produce import ProduceResponse_v3
from aiokafka.protocol.transaction import (
    AddPartitionsToTxnRequest,
    AddPartitionsToTxnResponse_v0,
    EndTxnRequest,
    EndTxnResponse_v0,
)

from streams.kafka.publishing import Publisher
from streams.kafka.transactions import TransactionalWriter

Writer = TransactionalWriter | Publisher


def producer_of(writer: Writer) -> Any:
    assert writer._producer is not None
    return writer._producer


def hold_back(writer: Writer, request_type: type, go: asyncio.Event) -> asyncio.Event:
    """Hold requests of a type back until ``go``; the event that is returned tells that one has come."""
    client, come = producer_of(writer).client, asyncio.Event()
    send = client.send

    async def later(node_id: int, request: Any, **options: Any) -> Any:
        if isinstance(request, request_type):
            come.set()
            await go.wait()
        return await send(node_id, request, **options)

    client.send = later
    return come


def record(writer: Writer) -> list[Any]:
    """Return the list to which every request of the writer is added from now on."""
    client, requests = producer_of(writer).client, []
    send = client.send

    async def recorded(node_id: int, request: Any, **options: Any) -> Any:
        requests.append(request)
        return await send(node_id, request, **options)

    client.send = recorded
    return requests


def refuse(
    writer: Writer,
    request_type: type[Any],
    refusal: type[BrokerResponseError],
    *,
    times: int = 1,
    seen: bool = False,
) -> list[Any]:
    """Answer the next requests of a type with a refusal, whether the broker has seen them or not; return all requests."""
    client, requests = producer_of(writer).client, []
    send, left = client.send, [refusal.errno] * times

    async def refused(node_id: int, request: Any, **options: Any) -> Any:
        requests.append(request)
        if not (left and isinstance(request, request_type)):
            return await send(node_id, request, **options)
        code = left.pop()
        if seen:
            await send(node_id, request, **options)
        if isinstance(request, EndTxnRequest):
            return EndTxnResponse_v0(0, code)
        if isinstance(request, AddPartitionsToTxnRequest):
            return AddPartitionsToTxnResponse_v0(0, [(topic, [(p, code) for p in ps]) for topic, ps in request._topics])
        topics = [(topic, [(p, code, -1, -1) for p, _ in ps]) for topic, ps in request._topics]
        return ProduceResponse_v3(topics, 0)

    client.send = refused
    return requests


def refuse_connections(writer: Writer, group: ConnectionGroup, *, times: int) -> list[None]:
    """Let the next connections of a group come about as little as to a broker that is away; return those left."""
    client, left = producer_of(writer).client, [None] * times
    ready = client.ready

    async def refused(node_id: int, *, group: ConnectionGroup = ConnectionGroup.DEFAULT) -> bool:
        if left and group is refused_group:
            left.pop()
            return False
        return bool(await ready(node_id, group=group))

    refused_group, client.ready = group, refused
    return left


def never_told(writer: Writer) -> None:
    """Let the writer wait for ever for newer metadata, as for a broker that stands still."""
    producer_of(writer).client.force_metadata_update = lambda: asyncio.get_running_loop().create_future()


def lose_once(producer: Any, request_type: type, *, before: bool) -> list[str]:
    """Let one request of a type fail as a lost connection does, before or after the broker has it."""
    send = producer.client.send
    lost: list[str] = []

    async def lossy(node_id: int, request: Any, **options: Any) -> Any:
        if isinstance(request, request_type) and not lost:
            lost.append(type(request).__name__)
            if not before:
                await send(node_id, request, **options)
            message = "the connection was lost"
            raise KafkaConnectionError(message)
        return await send(node_id, request, **options)

    producer.client.send = lossy
    return lost
