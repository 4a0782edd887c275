"""`Client` and `AsyncClient`: each call of `calls` as a method, sent over httpx and tried again with patience."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import cache, wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from recsys_meta.client import endpoints as calls
from recsys_meta.client.endpoints import Call
from recsys_meta.client.errors import ApiError, NoAnswer
from recsys_meta.client.responses import Problem
from recsys_meta.client.retry_policy import Patience

Params = ParamSpec("Params")
Result = TypeVar("Result")

_AGAIN = frozenset((429, 503))


def _now(make: Callable[Params, Call[Result]]) -> Callable[Concatenate[Client, Params], Result]:
    """A call as a method of `Client`."""

    @wraps(make)
    def method(self: Client, /, *args: Params.args, **kwargs: Params.kwargs) -> Result:
        return self.send(make(*args, **kwargs))

    return method


def _later(make: Callable[Params, Call[Result]]) -> Callable[Concatenate[AsyncClient, Params], Awaitable[Result]]:
    """A call as a method of `AsyncClient`."""

    @wraps(make)
    async def method(self: AsyncClient, /, *args: Params.args, **kwargs: Params.kwargs) -> Result:
        return await self.send(make(*args, **kwargs))

    return method


class Client:
    """The API at a URL. Safe for threads; holds connections, so close it or use it in a `with`.

    Methods raise ApiError for a refusal and NoAnswer where none came. `transport` is httpx's, for tests.
    """

    recommend = _now(calls.recommend)
    score = _now(calls.score)
    rank_entities = _now(calls.rank_entities)
    onboarding = _now(calls.onboarding)
    adapt = _now(calls.adapt)
    send_events = _now(calls.send_events)
    get_entity = _now(calls.get_entity)
    put_entity = _now(calls.put_entity)
    delete_entity = _now(calls.delete_entity)
    list_models = _now(calls.list_models)
    get_model = _now(calls.get_model)
    promote = _now(calls.promote)
    rollback = _now(calls.rollback)
    get_split = _now(calls.get_split)
    put_split = _now(calls.put_split)
    delete_split = _now(calls.delete_split)
    list_runs = _now(calls.list_runs)
    list_metrics = _now(calls.list_metrics)
    list_evaluations = _now(calls.list_evaluations)
    list_adaptations = _now(calls.list_adaptations)
    live = _now(calls.live)
    ready = _now(calls.ready)
    metrics = _now(calls.metrics)

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = 10.0,
        patience: Patience | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._patience = patience or Patience()
        self._http = httpx.Client(base_url=url, headers=_headers(key), timeout=timeout, transport=transport)

    def send(self, call: Call[Result]) -> Result:
        """Make a call."""
        attempt, waited = 1, 0.0
        while True:
            try:
                response: httpx.Response | httpx.TransportError = self._http.request(**_request(call))
            except httpx.TransportError as error:
                response = error
            pause = _pause(self._patience, call, response, attempt, waited)
            if pause is None:
                return _result(call, response)
            time.sleep(pause)
            attempt, waited = attempt + 1, waited + pause

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class AsyncClient:
    """The same for an event loop; its methods are awaited."""

    recommend = _later(calls.recommend)
    score = _later(calls.score)
    rank_entities = _later(calls.rank_entities)
    onboarding = _later(calls.onboarding)
    adapt = _later(calls.adapt)
    send_events = _later(calls.send_events)
    get_entity = _later(calls.get_entity)
    put_entity = _later(calls.put_entity)
    delete_entity = _later(calls.delete_entity)
    list_models = _later(calls.list_models)
    get_model = _later(calls.get_model)
    promote = _later(calls.promote)
    rollback = _later(calls.rollback)
    get_split = _later(calls.get_split)
    put_split = _later(calls.put_split)
    delete_split = _later(calls.delete_split)
    list_runs = _later(calls.list_runs)
    list_metrics = _later(calls.list_metrics)
    list_evaluations = _later(calls.list_evaluations)
    list_adaptations = _later(calls.list_adaptations)
    live = _later(calls.live)
    ready = _later(calls.ready)
    metrics = _later(calls.metrics)

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout: float = 10.0,
        patience: Patience | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._patience = patience or Patience()
        self._http = httpx.AsyncClient(base_url=url, headers=_headers(key), timeout=timeout, transport=transport)

    async def send(self, call: Call[Result]) -> Result:
        """Make a call."""
        attempt, waited = 1, 0.0
        while True:
            try:
                response: httpx.Response | httpx.TransportError = await self._http.request(**_request(call))
            except httpx.TransportError as error:
                response = error
            pause = _pause(self._patience, call, response, attempt, waited)
            if pause is None:
                return _result(call, response)
            await asyncio.sleep(pause)
            attempt, waited = attempt + 1, waited + pause

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


def _request(call: Call[Any]) -> dict[str, Any]:
    return {"method": call.method, "url": call.path, "params": call.params, "json": call.body}


def _pause(
    patience: Patience, call: Call[Any], found: httpx.Response | httpx.TransportError, attempt: int, waited: float
) -> float | None:
    """Seconds until the call is made again; None where it is not."""
    if isinstance(found, httpx.Response):
        # 429 is said before anything was done. 503 may be said of work that went on after its time was up.
        again = found.status_code in _AGAIN - call.also and (call.repeatable or found.status_code == 429)
        named = found.headers.get("retry-after")
    else:
        again, named = call.repeatable or isinstance(found, httpx.ConnectError | httpx.ConnectTimeout), None
    return patience.wait(attempt, named, waited) if again else None


def _result(call: Call[Result], found: httpx.Response | httpx.TransportError) -> Result:
    if isinstance(found, httpx.TransportError):
        raise NoAnswer(f"{call.method} {call.path}: {type(found).__name__}: {found}") from found
    if not (found.is_success or found.status_code in call.also):
        raise ApiError(_problem(found))
    if call.answer is str:
        return found.text  # type: ignore[return-value]
    try:
        wanted: Any = call.answer
        answer: Result = _reader(wanted).validate_json(found.content)
        return answer
    except ValidationError as error:
        raise NoAnswer(f"{call.method} {call.path}: the answer is not the API's: {error.errors()[0]['msg']}") from error


@cache
def _reader(answer: Any) -> TypeAdapter[Any]:
    return TypeAdapter(answer)


def _problem(found: httpx.Response) -> Problem:
    """The problem document, or what can be said where something between answered instead of the API."""
    try:
        return Problem.model_validate_json(found.content)
    except ValidationError:
        return Problem(status=found.status_code, title=found.reason_phrase, detail=found.text[:200])
