"""A typed client of the HTTP API, for plain and for async code; it needs httpx and pydantic only.

    from recsys_meta.client import Client

    with Client("http://127.0.0.1:8000", key="rsm_...") as client:
        response = client.recommend(["50", "181"], entity="anna", n=10)
        print(response.served_by, [item.item for item in response.items])

`AsyncClient` has the same methods, to be awaited.
"""

from recsys_meta.client.client import AsyncClient, Client
from recsys_meta.client.errors import ApiError, TransportError
from recsys_meta.client.retry_policy import RetryPolicy
from recsys_meta.wire.requests import (
    CandidateEntity,
    EntityInput,
    Event,
    ExplorationOptions,
    Filter,
    ItemInput,
    ItemWithFeatures,
    QueryContextInput,
    ScoringRow,
    SplitShare,
    SupportEvent,
)

# Names of earlier versions.
Explore = ExplorationOptions
Member = CandidateEntity
Moment = QueryContextInput
Newcomer = EntityInput
NoAnswer = TransportError
Patience = RetryPolicy
Row = ScoringRow
Share = SplitShare
Told = ItemWithFeatures

__all__ = [
    "ApiError",
    "AsyncClient",
    "CandidateEntity",
    "Client",
    "EntityInput",
    "Event",
    "ExplorationOptions",
    "Explore",
    "Filter",
    "ItemInput",
    "ItemWithFeatures",
    "Member",
    "Moment",
    "Newcomer",
    "NoAnswer",
    "Patience",
    "QueryContextInput",
    "RetryPolicy",
    "Row",
    "ScoringRow",
    "Share",
    "SplitShare",
    "SupportEvent",
    "Told",
    "TransportError",
]
