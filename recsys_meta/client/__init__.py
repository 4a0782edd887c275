"""A typed client of the HTTP API, for plain and for async code; it needs httpx and pydantic only.

    from recsys_meta.client import Client

    with Client("http://127.0.0.1:8000", key="rsm_...") as client:
        answer = client.recommend(["50", "181"], entity="anna", n=10)
        print(answer.served_by, [item.item for item in answer.items])

`AsyncClient` has the same methods, to be awaited.
"""

from recsys_meta.client.client import AsyncClient, Client
from recsys_meta.client.errors import ApiError, NoAnswer
from recsys_meta.client.requests import Event, Explore, Filter, Member, Moment, Newcomer, Row, Share, SupportEvent, Told
from recsys_meta.client.retry_policy import Patience

__all__ = [
    "ApiError",
    "AsyncClient",
    "Client",
    "Event",
    "Explore",
    "Filter",
    "Member",
    "Moment",
    "Newcomer",
    "NoAnswer",
    "Patience",
    "Row",
    "Share",
    "SupportEvent",
    "Told",
]
