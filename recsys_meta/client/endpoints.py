"""Every call of the API: its method, path, parameters, body and response. `Client` and `AsyncClient` have each as a
method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

from recsys_meta.wire.base import RequestModel
from recsys_meta.wire.entity_responses import DeletionReceipt, EntityDocument
from recsys_meta.wire.field_types import Feature, ServedBy
from recsys_meta.wire.item_responses import ItemDeletion, ItemDocument, ItemPage, ItemReceipt, SimilarItems
from recsys_meta.wire.model_responses import (
    AliasChange,
    DefaultModel,
    ModelDeletion,
    ModelDocument,
    ModelList,
    ModelRetirement,
    SplitDocument,
    VersionState,
)
from recsys_meta.wire.requests import (
    AdaptRequest,
    CandidateEntity,
    EntityBody,
    EntityInput,
    Event,
    EventBatch,
    ExplorationOptions,
    Filter,
    ItemAvailability,
    ItemBody,
    ItemInput,
    ItemWithFeatures,
    PromotionRequest,
    QueryContextInput,
    RecommendationRequest,
    ScoreRequest,
    ScoringRow,
    SplitBody,
    SplitShare,
    SupportEvent,
)
from recsys_meta.wire.responses import (
    AdaptationResponse,
    EntityRankingResponse,
    EventReceipt,
    OnboardingResponse,
    RecommendationResponse,
    ScoreResponse,
)
from recsys_meta.wire.service_responses import ReadinessReport, RowPage

Result = TypeVar("Result")
EntityOrId = EntityInput | str | None
Events = Sequence[SupportEvent | str]
Features = Mapping[str, Feature]


@dataclass(frozen=True)
class EndpointCall(Generic[Result]):
    """One HTTP call. `repeatable`: sent twice it has the effect of once; `response_statuses` are statuses besides
    success whose body is of the response type too."""

    method: str
    path: str
    response_type: type[Result]
    body: dict[str, Any] | None = None
    params: dict[str, Any] = field(default_factory=dict)
    repeatable: bool = True
    response_statuses: frozenset[int] = frozenset()


def recommend(
    events: Events = (),
    *,
    entity: EntityOrId = None,
    n: int = 10,
    model: str | None = None,
    candidates: Sequence[str | ItemWithFeatures] | None = None,
    exclude: Sequence[str] = (),
    include_seen: bool | None = None,
    filters: Mapping[str, Filter] | None = None,
    moment: QueryContextInput | None = None,
    cursor: str | None = None,
    explain: bool = False,
) -> EndpointCall[RecommendationResponse]:
    """Rank the n best items for an entity. Events and the entity may be plain ids. `cursor` is `next` of the page
    before, with the rest of the request as it was."""
    fields = _without_none(
        entity=_entity_input(entity),
        events=_support_events(events),
        n=n,
        model=model,
        candidates=None if candidates is None else list(candidates),
        exclude=list(exclude) or None,
        include_seen=include_seen,
        filters=dict(filters) if filters else None,
        moment=moment,
        cursor=cursor,
        explain=explain or None,
    )
    return EndpointCall(
        "POST", "/v1/recommendations", RecommendationResponse, _to_json(RecommendationRequest(**fields))
    )


def score(
    items: Sequence[str] = (),
    *,
    rows: Sequence[ScoringRow] = (),
    events: Events = (),
    entity: EntityOrId = None,
    model: str | None = None,
) -> EndpointCall[ScoreResponse]:
    """Score items, or rows (items in contexts), for an entity."""
    fields = _without_none(
        items=list(items) or None,
        rows=list(rows) or None,
        events=_support_events(events),
        entity=_entity_input(entity),
        model=model,
    )
    return EndpointCall("POST", "/v1/score", ScoreResponse, _to_json(ScoreRequest(**fields)))


def rank_entities(
    entities: Sequence[CandidateEntity],
    row: ScoringRow,
    *,
    entity: EntityInput | None = None,
    model: str | None = None,
    explore: ExplorationOptions | None = None,
) -> EndpointCall[EntityRankingResponse]:
    """Rank several entities for one row, best first. `entity` has the kind only; `explore` draws the order."""
    fields = _without_none(entities=list(entities), row=row, entity=entity, model=model, explore=explore)
    return EndpointCall("POST", "/v1/score", EntityRankingResponse, _to_json(ScoreRequest(**fields)))


def onboarding(
    *,
    kind: str | None = None,
    id: str | None = None,
    model: str | None = None,
    n: int | None = None,
    strategy: Literal["information", "evidence"] | None = None,
) -> EndpointCall[OnboardingResponse]:
    """Get the items whose labels would tell the model most about an entity."""
    params = _without_none(kind=kind, id=id, model=model, n=n, strategy=strategy)
    return EndpointCall("GET", "/v1/onboarding", OnboardingResponse, params=params)


def adapt(
    events: Events = (), *, entity: EntityOrId = None, model: str | None = None, persist: bool = False
) -> EndpointCall[AdaptationResponse]:
    """Adapt to an entity at once, and measure the adaptation. `persist` stores the features and events of the call."""
    fields = _without_none(
        entity=_entity_input(entity), events=_support_events(events), model=model, persist=persist or None
    )
    # An event without event_id stands for its content: stored twice is stored once.
    return EndpointCall("POST", "/v1/adapt", AdaptationResponse, _to_json(AdaptRequest(**fields)))


def send_events(events: Sequence[Event]) -> EndpointCall[EventReceipt]:
    """Store interactions of any entities."""
    batch = _to_json(EventBatch(events=list(events)))
    # Without time an event has the time of its arrival, so only one with an id or a time is the same event again.
    repeatable = all(e.event_id is not None or e.time is not None for e in events)
    return EndpointCall("POST", "/v1/events", EventReceipt, batch, repeatable=repeatable)


def get_entity(kind: str, id: str, *, events: int | None = None) -> EndpointCall[EntityDocument]:
    """Get the stored features and figures of an entity, and as many of its newest events as `events` says."""
    return EndpointCall("GET", _entity_path(kind, id), EntityDocument, params=_without_none(events=events))


def put_entity(kind: str, id: str, features: Features) -> EndpointCall[EntityDocument]:
    """Set the features of an entity; they replace those it had."""
    return EndpointCall("PUT", _entity_path(kind, id), EntityDocument, _to_json(EntityBody(features=dict(features))))


def delete_entity(kind: str, id: str) -> EndpointCall[DeletionReceipt]:
    """Erase everything stored of an entity."""
    return EndpointCall("DELETE", _entity_path(kind, id), DeletionReceipt)


def list_items(
    *,
    kind: str | None = None,
    available: bool | None = None,
    since: float | str | None = None,
    limit: int | None = None,
    cursor: str | None = None,
) -> EndpointCall[ItemPage]:
    """List stored items, those that were changed last first."""
    params = _without_none(kind=kind, available=available, since=since, limit=limit, cursor=cursor)
    return EndpointCall("GET", "/v1/items", ItemPage, params=params)


def send_items(items: Sequence[ItemInput], *, kind: str | None = None) -> EndpointCall[ItemReceipt]:
    """Store items; what is sent of each replaces what was stored."""
    body = {**_without_none(kind=kind), "items": [_to_json(item) for item in items]}
    return EndpointCall("POST", "/v1/items", ItemReceipt, body)


def get_item(id: str, *, kind: str | None = None) -> EndpointCall[ItemDocument]:
    """Get what is stored of an item."""
    return EndpointCall("GET", _item_path(id), ItemDocument, params=_without_none(kind=kind))


def put_item(
    id: str,
    features: Features | None = None,
    *,
    title: str | None = None,
    available: bool = True,
    kind: str | None = None,
) -> EndpointCall[ItemDocument]:
    """Store an item; what is sent replaces what was stored."""
    fields = {**_without_none(title=title), "features": dict(features or {}), "available": available}
    return EndpointCall("PUT", _item_path(id), ItemDocument, _to_json(ItemBody(**fields)), _without_none(kind=kind))


def show_item(id: str, available: bool = True, *, kind: str | None = None) -> EndpointCall[ItemDocument]:
    """Let lists hold an item, or with `available` False keep it from them."""
    body = _to_json(ItemAvailability(available=available))
    return EndpointCall("PATCH", _item_path(id), ItemDocument, body, _without_none(kind=kind))


def delete_item(id: str, *, kind: str | None = None) -> EndpointCall[ItemDeletion]:
    """Delete what is stored of an item."""
    return EndpointCall("DELETE", _item_path(id), ItemDeletion, params=_without_none(kind=kind))


def similar_items(
    id: str, *, n: int | None = None, model: str | None = None, kind: str | None = None, filter: Sequence[str] = ()
) -> EndpointCall[SimilarItems]:
    """List the items that newcomers like as they like one; `filter` are conditions FEATURE=VALUE."""
    params = _without_none(n=n, model=model, kind=kind, filter=list(filter) or None)
    return EndpointCall("GET", f"{_item_path(id)}/similar", SimilarItems, params=params)


def list_models() -> EndpointCall[ModelList]:
    """List every model and its live version."""
    return EndpointCall("GET", "/v1/models", ModelList)


def get_model(name: str) -> EndpointCall[ModelDocument]:
    """Get a model with its versions and its history."""
    return EndpointCall("GET", f"/v1/models/{_quote_segment(name)}", ModelDocument)


def promote(name: str, version: str, *, force: bool = False, end_split: bool = False) -> EndpointCall[AliasChange]:
    """Make a registered version live; with `force` also one that loses to the simplest baseline or was never evaluated,
    with `end_split` also one that ends a split of others."""
    body = _to_json(PromotionRequest(version=version))
    params = _without_none(force=force or None, end_split=end_split or None)
    return EndpointCall("POST", f"/v1/models/{_quote_segment(name)}/promote", AliasChange, body, params)


def rollback(name: str) -> EndpointCall[AliasChange]:
    """Make the version live that was live before."""
    return EndpointCall("POST", f"/v1/models/{_quote_segment(name)}/rollback", AliasChange, {}, repeatable=False)


def retire_model(name: str) -> EndpointCall[ModelRetirement]:
    """Take a model out of service, until a version of it is promoted or it is rolled back."""
    return EndpointCall("POST", f"/v1/models/{_quote_segment(name)}/retire", ModelRetirement, {})


def set_default_model(name: str) -> EndpointCall[DefaultModel]:
    """Let a live model answer for its kind of newcomer where a request names none."""
    return EndpointCall("POST", f"/v1/models/{_quote_segment(name)}/default", DefaultModel, {})


def archive_version(name: str, version: str) -> EndpointCall[VersionState]:
    """Put a version out of reach; its files stay. What is in service is refused."""
    return EndpointCall("POST", f"{_version_path(name, version)}/archive", VersionState, {})


def restore_version(name: str, version: str) -> EndpointCall[VersionState]:
    """Bring an archived version back."""
    return EndpointCall("POST", f"{_version_path(name, version)}/restore", VersionState, {})


def delete_version(name: str, version: str) -> EndpointCall[ModelDeletion]:
    """Delete the files of a version; it keeps its place in the history. What is in service is refused."""
    return EndpointCall("DELETE", _version_path(name, version), ModelDeletion)


def delete_model(name: str) -> EndpointCall[ModelDeletion]:
    """Delete a retired model with its versions and its history."""
    return EndpointCall("DELETE", f"/v1/models/{_quote_segment(name)}", ModelDeletion, repeatable=False)


def get_split(name: str) -> EndpointCall[SplitDocument]:
    """Get the versions of a model that answer side by side."""
    return EndpointCall("GET", f"/v1/models/{_quote_segment(name)}/split", SplitDocument)


def put_split(
    name: str, arms: Sequence[SplitShare], *, salt: str | None = None, force: bool = False
) -> EndpointCall[SplitDocument]:
    """Let versions answer side by side; with `force` also one that loses to the simplest baseline."""
    body = _to_json(SplitBody(arms=list(arms), salt=salt))
    return EndpointCall(
        "PUT", f"/v1/models/{_quote_segment(name)}/split", SplitDocument, body, _without_none(force=force or None)
    )


def delete_split(name: str) -> EndpointCall[SplitDocument]:
    """End the split: the live version answers all again."""
    return EndpointCall("DELETE", f"/v1/models/{_quote_segment(name)}/split", SplitDocument)


def list_runs(
    *, status: str | None = None, limit: int | None = None, cursor: str | None = None
) -> EndpointCall[RowPage]:
    """List training runs, newest first."""
    return EndpointCall("GET", "/v1/runs", RowPage, params=_without_none(status=status, limit=limit, cursor=cursor))


def list_metrics(
    id: str, *, key: str | None = None, limit: int | None = None, cursor: str | None = None
) -> EndpointCall[RowPage]:
    """List the metrics of a run by key and step."""
    params = _without_none(key=key, limit=limit, cursor=cursor)
    return EndpointCall("GET", f"/v1/runs/{_quote_segment(id)}/metrics", RowPage, params=params)


def list_evaluations(
    *,
    dataset: str | None = None,
    scenario: str | None = None,
    method: str | None = None,
    model: str | None = None,
    metric: str | None = None,
    run: str | None = None,
    limit: int | None = None,
    cursor: str | None = None,
) -> EndpointCall[RowPage]:
    """List points of cold-start curves, newest first."""
    filters = _without_none(dataset=dataset, scenario=scenario, method=method, model=model, metric=metric, run=run)
    return EndpointCall(
        "GET", "/v1/evaluations", RowPage, params={**filters, **_without_none(limit=limit, cursor=cursor)}
    )


def list_adaptations(
    *,
    kind: str | None = None,
    entity: str | None = None,
    model_version: str | None = None,
    served_by: ServedBy | None = None,
    limit: int | None = None,
    cursor: str | None = None,
) -> EndpointCall[RowPage]:
    """List adaptations with their losses and times, newest first."""
    filters = _without_none(kind=kind, entity=entity, model_version=model_version, served_by=served_by)
    return EndpointCall(
        "GET", "/v1/adaptations", RowPage, params={**filters, **_without_none(limit=limit, cursor=cursor)}
    )


def live() -> EndpointCall[dict[str, str]]:
    """Check that the process answers."""
    return EndpointCall("GET", "/livez", dict[str, str])


def ready() -> EndpointCall[ReadinessReport]:
    """Check whether recommendations can be answered, and each dependency."""
    return EndpointCall("GET", "/readyz", ReadinessReport, response_statuses=frozenset((503,)))


def metrics() -> EndpointCall[str]:
    """Get the metrics in the text format of Prometheus."""
    return EndpointCall("GET", "/metrics", str)


def _without_none(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _to_json(body: RequestModel) -> dict[str, Any]:
    """Return the fields of a body that were set; the server has the defaults of the others."""
    return body.model_dump(mode="json", exclude_unset=True)


def _entity_input(entity: EntityOrId) -> EntityInput | None:
    return EntityInput(id=entity) if isinstance(entity, str) else entity


def _support_events(events: Events) -> list[SupportEvent] | None:
    return [SupportEvent(item=e) if isinstance(e, str) else e for e in events] or None


def _quote_segment(text: str) -> str:
    return quote(text, safe="")


def _item_path(id: str) -> str:
    return f"/v1/items/{_quote_segment(id)}"


def _version_path(name: str, version: str) -> str:
    return f"/v1/models/{_quote_segment(name)}/versions/{_quote_segment(version)}"


def _entity_path(kind: str, id: str) -> str:
    return f"/v1/entities/{_quote_segment(kind)}/{_quote_segment(id)}"
