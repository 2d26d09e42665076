"""transom.webhooks.v1: requests → engine → replies."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from transom.webhooks.v1 import webhooks_pb2 as pb
from transom.webhooks.v1 import webhooks_pb2_grpc

from server.engine.identity import etag_of
from server.engine.webhooks import CHANGEABLE, COLLECTION, DELIVERIES, Wanted, Webhooks
from server.errors import Invalid
from server.services.current import caller
from server.store.webhook_deliveries import StoredDelivery
from server.store.webhooks import StoredEndpoint

_SHOWN = frozenset(field.name for field in pb.WebhookEndpoint.DESCRIPTOR.fields)


class WebhooksService(webhooks_pb2_grpc.WebhooksServiceServicer):
    """Whom events are posted to, and what became of them."""

    def __init__(self, webhooks: Webhooks) -> None:
        self._webhooks = webhooks

    async def CreateWebhookEndpoint(self, request: pb.CreateWebhookEndpointRequest, context: Any) -> pb.WebhookEndpoint:
        wanted = _wanted(request.webhook_endpoint, frozenset(CHANGEABLE))
        made, secret = await self._webhooks.create(caller(), request.webhook_endpoint_id, wanted)
        return _endpoint(made, secret)

    async def GetWebhookEndpoint(self, request: pb.GetWebhookEndpointRequest, context: Any) -> pb.WebhookEndpoint:
        return _endpoint(await self._webhooks.get(caller(), request.name))

    async def ListWebhookEndpoints(
        self, request: pb.ListWebhookEndpointsRequest, context: Any
    ) -> pb.ListWebhookEndpointsResponse:
        found, following = await self._webhooks.list(caller(), request.page_size, request.page_token)
        return pb.ListWebhookEndpointsResponse(webhook_endpoints=map(_endpoint, found), next_page_token=following)

    async def UpdateWebhookEndpoint(self, request: pb.UpdateWebhookEndpointRequest, context: Any) -> pb.WebhookEndpoint:
        given = request.webhook_endpoint
        return _endpoint(await self._webhooks.update(caller(), given.name, _wanted(given, _paths(request))))

    async def DeleteWebhookEndpoint(self, request: pb.DeleteWebhookEndpointRequest, context: Any) -> Empty:
        await self._webhooks.delete(caller(), request.name)
        return Empty()

    async def PauseWebhookEndpoint(self, request: pb.PauseWebhookEndpointRequest, context: Any) -> pb.WebhookEndpoint:
        return _endpoint(await self._webhooks.pause(caller(), request.name))

    async def ResumeWebhookEndpoint(self, request: pb.ResumeWebhookEndpointRequest, context: Any) -> pb.WebhookEndpoint:
        return _endpoint(await self._webhooks.resume(caller(), request.name, request.skip))

    async def RotateWebhookEndpointSecret(
        self, request: pb.RotateWebhookEndpointSecretRequest, context: Any
    ) -> pb.WebhookEndpoint:
        overlap = None
        if request.HasField("overlap"):
            try:
                overlap = timedelta(seconds=request.overlap.seconds, microseconds=request.overlap.nanos // 1000)
            except OverflowError as error:
                raise Invalid.field("overlap", "is out of range", "OUT_OF_RANGE") from error
        made, secret = await self._webhooks.rotate(caller(), request.name, overlap)
        return _endpoint(made, secret)

    async def PingWebhookEndpoint(self, request: pb.PingWebhookEndpointRequest, context: Any) -> pb.WebhookDelivery:
        return _delivery(await self._webhooks.ping(caller(), request.name))

    async def GetWebhookDelivery(self, request: pb.GetWebhookDeliveryRequest, context: Any) -> pb.WebhookDelivery:
        return _delivery(await self._webhooks.delivery(caller(), request.name))

    async def ListWebhookDeliveries(
        self, request: pb.ListWebhookDeliveriesRequest, context: Any
    ) -> pb.ListWebhookDeliveriesResponse:
        try:
            state = pb.WebhookDelivery.State.Name(request.state).lower() if request.state else ""
        except ValueError as error:
            raise Invalid.field("state", "is no state of a delivery", "UNKNOWN_STATE") from error
        found, following = await self._webhooks.deliveries(
            caller(), request.parent, state, request.page_size, request.page_token
        )
        return pb.ListWebhookDeliveriesResponse(deliveries=map(_delivery, found), next_page_token=following)

    async def ReplayWebhookDelivery(self, request: pb.ReplayWebhookDeliveryRequest, context: Any) -> pb.WebhookDelivery:
        return _delivery(await self._webhooks.replay(caller(), request.name))

    async def ReplayWebhookEvents(
        self, request: pb.ReplayWebhookEventsRequest, context: Any
    ) -> pb.ReplayWebhookEventsResponse:
        start = _read("start_time", request.start_time) if request.HasField("start_time") else None
        end = _read("end_time", request.end_time) if request.HasField("end_time") else None
        after, until = await self._webhooks.replay_range(caller(), request.name, start, end)
        return pb.ReplayWebhookEventsResponse(start_position=min(after + 1, until), end_position=until)


def _wanted(given: pb.WebhookEndpoint, paths: frozenset[str]) -> Wanted:
    return Wanted(paths, given.url, tuple(given.event_types), given.filter, given.description, given.etag)


def _paths(request: pb.UpdateWebhookEndpointRequest) -> frozenset[str]:
    """What is to be changed; without a mask, what of it is set (AIP-134). Raises Invalid for what is no field."""
    given = list(request.update_mask.paths)
    if not given:
        given = [field.name for field, _ in request.webhook_endpoint.ListFields()]
    elif "*" in given:
        given = list(CHANGEABLE)
    wrong = [path for path in given if path not in _SHOWN]
    if wrong:
        raise Invalid.field("update_mask", f"{wrong[0][:100]!r} is no field of an endpoint", "INVALID_PATH")
    return frozenset(given) & frozenset(CHANGEABLE)


def _endpoint(stored: StoredEndpoint, secret: str = "") -> pb.WebhookEndpoint:
    old = stored.old_until if stored.old_until and stored.old_until > datetime.now(UTC) else None
    shut = stored.open_until if stored.open_until and stored.open_until > datetime.now(UTC) else None
    return pb.WebhookEndpoint(
        name=f"{COLLECTION}/{stored.id}",
        url=stored.url,
        event_types=stored.types,
        filter=stored.filter,
        description=stored.description,
        state=pb.WebhookEndpoint.State.Value(stored.state.upper()),
        disabled_reason=stored.reason,
        owner=stored.owner,
        secret=secret,
        old_secret_expire_time=_time(old),
        consecutive_failures=stored.failures,
        retry_time=_time(shut),
        waiting_count=stored.waiting,
        create_time=_time(stored.create_time),
        update_time=_time(stored.update_time),
        etag=etag_of(stored.version),
    )


def _delivery(stored: StoredDelivery) -> pb.WebhookDelivery:
    message = pb.WebhookDelivery(
        name=f"{COLLECTION}/{stored.endpoint}/{DELIVERIES}/{stored.id}",
        message_id=stored.message,
        event_type=stored.type,
        resource=stored.resource,
        position=stored.position,
        state=pb.WebhookDelivery.State.Value(stored.state.upper()),
        attempts=stored.attempts,
        response_code=stored.code,
        response_snippet=stored.said,
        error=stored.error,
        next_attempt_time=_time(stored.next_time if stored.state == "waiting" else None),
        last_attempt_time=_time(stored.last_time),
        create_time=_time(stored.create_time),
    )
    if stored.last_time is not None:
        message.duration.FromMilliseconds(stored.millis)
    return message


def _time(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def _read(field: str, stamp: Timestamp) -> datetime:
    try:
        return stamp.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise Invalid.field(field, "is out of range", "OUT_OF_RANGE") from error
