"""`Client` and `AsyncClient`: each call of `endpoints` as a method, sent over httpx by a retry policy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import cache, wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from recsys_meta.client import endpoints
from recsys_meta.client.endpoints import EndpointCall
from recsys_meta.client.errors import ApiError, TransportError
from recsys_meta.client.retry_policy import RetryPolicy
from recsys_meta.wire.service_responses import ProblemDocument

Params = ParamSpec("Params")
Result = TypeVar("Result")

_RETRY_STATUSES = frozenset((429, 503))


def _sync_method(build: Callable[Params, EndpointCall[Result]]) -> Callable[Concatenate[Client, Params], Result]:
    """Make a method of `Client` of a function that builds a call."""

    @wraps(build)
    def method(self: Client, /, *args: Params.args, **kwargs: Params.kwargs) -> Result:
        return self.send(build(*args, **kwargs))

    return method


def _async_method(
    build: Callable[Params, EndpointCall[Result]],
) -> Callable[Concatenate[AsyncClient, Params], Awaitable[Result]]:
    """Make a method of `AsyncClient` of a function that builds a call."""

    @wraps(build)
    async def method(self: AsyncClient, /, *args: Params.args, **kwargs: Params.kwargs) -> Result:
        return await self.send(build(*args, **kwargs))

    return method


class Client:
    """Client of the API at a URL. Safe for threads; holds connections, so close it or use it in a `with`.

    Methods raise pydantic's ValidationError for a wrong field or value, before anything is sent; ApiError for a refusal
    by the API; TransportError where no response of the API came. `patience` is the retry policy, `timeout` in seconds,
    `transport` httpx's, for tests.
    """

    recommend = _sync_method(endpoints.recommend)
    score = _sync_method(endpoints.score)
    rank_entities = _sync_method(endpoints.rank_entities)
    onboarding = _sync_method(endpoints.onboarding)
    adapt = _sync_method(endpoints.adapt)
    send_events = _sync_method(endpoints.send_events)
    get_entity = _sync_method(endpoints.get_entity)
    put_entity = _sync_method(endpoints.put_entity)
    delete_entity = _sync_method(endpoints.delete_entity)
    list_items = _sync_method(endpoints.list_items)
    send_items = _sync_method(endpoints.send_items)
    get_item = _sync_method(endpoints.get_item)
    put_item = _sync_method(endpoints.put_item)
    show_item = _sync_method(endpoints.show_item)
    delete_item = _sync_method(endpoints.delete_item)
    similar_items = _sync_method(endpoints.similar_items)
    list_models = _sync_method(endpoints.list_models)
    get_model = _sync_method(endpoints.get_model)
    promote = _sync_method(endpoints.promote)
    rollback = _sync_method(endpoints.rollback)
    retire_model = _sync_method(endpoints.retire_model)
    set_default_model = _sync_method(endpoints.set_default_model)
    archive_version = _sync_method(endpoints.archive_version)
    restore_version = _sync_method(endpoints.restore_version)
    delete_version = _sync_method(endpoints.delete_version)
    delete_model = _sync_method(endpoints.delete_model)
    get_split = _sync_method(endpoints.get_split)
    put_split = _sync_method(endpoints.put_split)
    delete_split = _sync_method(endpoints.delete_split)
    list_runs = _sync_method(endpoints.list_runs)
    list_metrics = _sync_method(endpoints.list_metrics)
    list_evaluations = _sync_method(endpoints.list_evaluations)
    list_adaptations = _sync_method(endpoints.list_adaptations)
    live = _sync_method(endpoints.live)
    ready = _sync_method(endpoints.ready)
    metrics = _sync_method(endpoints.metrics)

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = 10.0,
        patience: RetryPolicy | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._retry_policy = patience or RetryPolicy()
        self._http = httpx.Client(base_url=url, headers=_headers(key), timeout=timeout, transport=transport)

    def send(self, call: EndpointCall[Result]) -> Result:
        """Send a call, again as the retry policy says, and return its result."""
        attempt, total_pause = 1, 0.0
        while True:
            try:
                outcome: httpx.Response | httpx.TransportError = self._http.request(**_request(call))
            except httpx.TransportError as error:
                outcome = error
            pause = _retry_pause(self._retry_policy, call, outcome, attempt, total_pause)
            if pause is None:
                return _result(call, outcome)
            time.sleep(pause)
            attempt, total_pause = attempt + 1, total_pause + pause

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class AsyncClient:
    """Client for an event loop: the methods of `Client`, to be awaited."""

    recommend = _async_method(endpoints.recommend)
    score = _async_method(endpoints.score)
    rank_entities = _async_method(endpoints.rank_entities)
    onboarding = _async_method(endpoints.onboarding)
    adapt = _async_method(endpoints.adapt)
    send_events = _async_method(endpoints.send_events)
    get_entity = _async_method(endpoints.get_entity)
    put_entity = _async_method(endpoints.put_entity)
    delete_entity = _async_method(endpoints.delete_entity)
    list_items = _async_method(endpoints.list_items)
    send_items = _async_method(endpoints.send_items)
    get_item = _async_method(endpoints.get_item)
    put_item = _async_method(endpoints.put_item)
    show_item = _async_method(endpoints.show_item)
    delete_item = _async_method(endpoints.delete_item)
    similar_items = _async_method(endpoints.similar_items)
    list_models = _async_method(endpoints.list_models)
    get_model = _async_method(endpoints.get_model)
    promote = _async_method(endpoints.promote)
    rollback = _async_method(endpoints.rollback)
    retire_model = _async_method(endpoints.retire_model)
    set_default_model = _async_method(endpoints.set_default_model)
    archive_version = _async_method(endpoints.archive_version)
    restore_version = _async_method(endpoints.restore_version)
    delete_version = _async_method(endpoints.delete_version)
    delete_model = _async_method(endpoints.delete_model)
    get_split = _async_method(endpoints.get_split)
    put_split = _async_method(endpoints.put_split)
    delete_split = _async_method(endpoints.delete_split)
    list_runs = _async_method(endpoints.list_runs)
    list_metrics = _async_method(endpoints.list_metrics)
    list_evaluations = _async_method(endpoints.list_evaluations)
    list_adaptations = _async_method(endpoints.list_adaptations)
    live = _async_method(endpoints.live)
    ready = _async_method(endpoints.ready)
    metrics = _async_method(endpoints.metrics)

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = 10.0,
        patience: RetryPolicy | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._retry_policy = patience or RetryPolicy()
        self._http = httpx.AsyncClient(base_url=url, headers=_headers(key), timeout=timeout, transport=transport)

    async def send(self, call: EndpointCall[Result]) -> Result:
        """Send a call, again as the retry policy says, and return its result."""
        attempt, total_pause = 1, 0.0
        while True:
            try:
                outcome: httpx.Response | httpx.TransportError = await self._http.request(**_request(call))
            except httpx.TransportError as error:
                outcome = error
            pause = _retry_pause(self._retry_policy, call, outcome, attempt, total_pause)
            if pause is None:
                return _result(call, outcome)
            await asyncio.sleep(pause)
            attempt, total_pause = attempt + 1, total_pause + pause

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()


def _headers(key: str | None) -> dict[str, str]:
    return {} if key is None else {"X-API-Key": key}


def _request(call: EndpointCall[Any]) -> dict[str, Any]:
    return {"method": call.method, "url": call.path, "params": call.params, "json": call.body}


def _retry_pause(
    policy: RetryPolicy,
    call: EndpointCall[Any],
    outcome: httpx.Response | httpx.TransportError,
    attempt: int,
    total_pause: float,
) -> float | None:
    """Return the seconds until the next attempt; None where there is none."""
    if isinstance(outcome, httpx.Response):
        # 429 precedes any work. 503 may come after work that went on when its time was up.
        retryable = outcome.status_code in _RETRY_STATUSES - call.response_statuses
        retryable = retryable and (call.repeatable or outcome.status_code == 429)
        retry_after = outcome.headers.get("retry-after")
    else:
        retryable = call.repeatable or isinstance(outcome, httpx.ConnectError | httpx.ConnectTimeout)
        retry_after = None
    return policy.wait(attempt, retry_after, total_pause) if retryable else None


def _result(call: EndpointCall[Result], outcome: httpx.Response | httpx.TransportError) -> Result:
    """Return the parsed response. Raises ApiError for a refusal, TransportError without a response of the API."""
    if isinstance(outcome, httpx.TransportError):
        raise TransportError(f"{call.method} {call.path}: {type(outcome).__name__}: {outcome}") from outcome
    if not (outcome.is_success or outcome.status_code in call.response_statuses):
        raise ApiError(_problem(outcome))
    if call.response_type is str:
        return outcome.text  # type: ignore[return-value]
    try:
        response_type: Any = call.response_type
        result: Result = _type_adapter(response_type).validate_json(outcome.content)
        return result
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise TransportError(f"{call.method} {call.path}: the answer is not the API's: {reason}") from error


@cache
def _type_adapter(response_type: Any) -> TypeAdapter[Any]:
    return TypeAdapter(response_type)


def _problem(response: httpx.Response) -> ProblemDocument:
    """Return the problem document; one made of the status and the text where a proxy answered in place of the API."""
    try:
        return ProblemDocument.model_validate_json(response.content)
    except ValidationError:
        return ProblemDocument(status=response.status_code, title=response.reason_phrase, detail=response.text[:200])
