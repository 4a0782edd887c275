"""Every call of the API: what is sent where, and what comes back. `Client` and `AsyncClient` have each as a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

from recsys_meta.client import requests as bodies
from recsys_meta.client import responses as answers
from recsys_meta.client.requests import (
    Event,
    Explore,
    Filter,
    Member,
    Moment,
    Newcomer,
    Row,
    Share,
    SupportEvent,
    Told,
    given,
)
from recsys_meta.client.responses import ServedBy

Result = TypeVar("Result")
Who = Newcomer | str | None
Events = Sequence[SupportEvent | str]
Features = Mapping[str, bodies.Cell | Sequence[bodies.Cell]]


@dataclass(frozen=True)
class Call(Generic[Result]):
    """One call. `repeatable`: doing it twice is doing it once; `also` are statuses whose body is an answer too."""

    method: str
    path: str
    answer: type[Result]
    body: dict[str, Any] | None = None
    params: dict[str, Any] = field(default_factory=dict)
    repeatable: bool = True
    also: frozenset[int] = frozenset()


def recommend(
    events: Events = (),
    *,
    entity: Who = None,
    n: int = 10,
    model: str | None = None,
    candidates: Sequence[str | Told] | None = None,
    exclude: Sequence[str] = (),
    include_seen: bool | None = None,
    filters: Mapping[str, Filter] | None = None,
    moment: Moment | None = None,
    cursor: str | None = None,
    explain: bool = False,
) -> Call[answers.Recommendations]:
    """The n best items for a newcomer. Events and the entity may be given as plain ids; `cursor` is `next` of the page
    before, with the rest of the request as it was."""
    asked = _known(
        entity=_who(entity),
        events=_events(events),
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
    return Call("POST", "/v1/recommendations", answers.Recommendations, given(bodies.RecommendationRequest(**asked)))


def score(
    items: Sequence[str] = (),
    *,
    rows: Sequence[Row] = (),
    events: Events = (),
    entity: Who = None,
    model: str | None = None,
) -> Call[answers.Scores]:
    """Scores of items, or of rows (items in contexts), for a newcomer."""
    asked = _known(
        items=list(items) or None,
        rows=list(rows) or None,
        events=_events(events),
        entity=_who(entity),
        model=model,
    )
    return Call("POST", "/v1/score", answers.Scores, given(bodies.ScoreRequest(**asked)))


def rank_entities(
    entities: Sequence[Member],
    row: Row,
    *,
    entity: Newcomer | None = None,
    model: str | None = None,
    explore: Explore | None = None,
) -> Call[answers.RankedEntities]:
    """Which of several newcomers fits a row best. Of `entity` only the kind may be given; `explore` draws the order."""
    asked = _known(entities=list(entities), row=row, entity=entity, model=model, explore=explore)
    return Call("POST", "/v1/score", answers.RankedEntities, given(bodies.ScoreRequest(**asked)))


def onboarding(
    *,
    kind: str | None = None,
    id: str | None = None,
    model: str | None = None,
    n: int | None = None,
    strategy: Literal["information", "evidence"] | None = None,
) -> Call[answers.Onboarding]:
    """The items whose answers would tell the model most about a newcomer."""
    params = _known(kind=kind, id=id, model=model, n=n, strategy=strategy)
    return Call("GET", "/v1/onboarding", answers.Onboarding, params=params)


def adapt(
    events: Events = (), *, entity: Who = None, model: str | None = None, persist: bool = False
) -> Call[answers.Adapted]:
    """Adapt now, and say what it did. `persist` stores the features and events given."""
    asked = _known(entity=_who(entity), events=_events(events), model=model, persist=persist or None)
    # An event without event_id stands for its content: stored twice is stored once.
    return Call("POST", "/v1/adapt", answers.Adapted, given(bodies.AdaptRequest(**asked)))


def send_events(events: Sequence[Event]) -> Call[answers.EventReceipt]:
    """Store interactions of any entities."""
    batch = given(bodies.EventBatch(events=list(events)))
    # Without time an event is of the moment it arrives, so only one with an id or a time is the same event again.
    known = all(e.event_id is not None or e.time is not None for e in events)
    return Call("POST", "/v1/events", answers.EventReceipt, batch, repeatable=known)


def get_entity(kind: str, id: str, *, events: int | None = None) -> Call[answers.EntityDocument]:
    """What is stored of an entity, with so many of its newest events."""
    return Call("GET", _entity(kind, id), answers.EntityDocument, params=_known(events=events))


def put_entity(kind: str, id: str, features: Features) -> Call[answers.EntityDocument]:
    """Set the features of an entity; they replace those it had."""
    return Call("PUT", _entity(kind, id), answers.EntityDocument, given(bodies.EntityBody(features=features)))


def delete_entity(kind: str, id: str) -> Call[answers.Receipt]:
    """Erase all that is known of an entity."""
    return Call("DELETE", _entity(kind, id), answers.Receipt)


def list_models() -> Call[answers.Models]:
    """Every model, and what is live."""
    return Call("GET", "/v1/models", answers.Models)


def get_model(name: str) -> Call[answers.ModelDocument]:
    """A model with its versions and history."""
    return Call("GET", f"/v1/models/{_part(name)}", answers.ModelDocument)


def promote(name: str, version: str, *, force: bool = False) -> Call[answers.Move]:
    """Make a registered version live; with `force` also one that loses to the simplest baseline."""
    body = given(bodies.Promotion(version=version))
    return Call("POST", f"/v1/models/{_part(name)}/promote", answers.Move, body, _known(force=force or None))


def rollback(name: str) -> Call[answers.Move]:
    """Make live what was live before."""
    return Call("POST", f"/v1/models/{_part(name)}/rollback", answers.Move, repeatable=False)


def get_split(name: str) -> Call[answers.SplitDocument]:
    """Which versions of a model answer side by side."""
    return Call("GET", f"/v1/models/{_part(name)}/split", answers.SplitDocument)


def put_split(
    name: str, arms: Sequence[Share], *, salt: str | None = None, force: bool = False
) -> Call[answers.SplitDocument]:
    """Let versions answer side by side; with `force` also one that loses to the simplest baseline."""
    body = given(bodies.SplitBody(arms=list(arms), salt=salt))
    return Call("PUT", f"/v1/models/{_part(name)}/split", answers.SplitDocument, body, _known(force=force or None))


def delete_split(name: str) -> Call[answers.SplitDocument]:
    """End the split: the live version answers all again."""
    return Call("DELETE", f"/v1/models/{_part(name)}/split", answers.SplitDocument)


def list_runs(*, status: str | None = None, limit: int | None = None, cursor: str | None = None) -> Call[answers.Page]:
    """Training runs, newest first."""
    return Call("GET", "/v1/runs", answers.Page, params=_known(status=status, limit=limit, cursor=cursor))


def list_metrics(
    id: str, *, key: str | None = None, limit: int | None = None, cursor: str | None = None
) -> Call[answers.Page]:
    """Figures of a run by key and step."""
    params = _known(key=key, limit=limit, cursor=cursor)
    return Call("GET", f"/v1/runs/{_part(id)}/metrics", answers.Page, params=params)


def list_evaluations(
    *,
    dataset: str | None = None,
    scenario: str | None = None,
    method: str | None = None,
    model: str | None = None,
    metric: str | None = None,
    limit: int | None = None,
    cursor: str | None = None,
) -> Call[answers.Page]:
    """Points of cold-start curves, newest first."""
    wanted = _known(dataset=dataset, scenario=scenario, method=method, model=model, metric=metric)
    return Call("GET", "/v1/evaluations", answers.Page, params={**wanted, **_known(limit=limit, cursor=cursor)})


def list_adaptations(
    *,
    kind: str | None = None,
    entity: str | None = None,
    model_version: str | None = None,
    served_by: ServedBy | None = None,
    limit: int | None = None,
    cursor: str | None = None,
) -> Call[answers.Page]:
    """What adapting did, newest first."""
    wanted = _known(kind=kind, entity=entity, model_version=model_version, served_by=served_by)
    return Call("GET", "/v1/adaptations", answers.Page, params={**wanted, **_known(limit=limit, cursor=cursor)})


def live() -> Call[dict[str, str]]:
    """Whether the process answers."""
    return Call("GET", "/livez", dict[str, str])


def ready() -> Call[answers.Readiness]:
    """Whether recommendations can be answered, and how each dependency is."""
    return Call("GET", "/readyz", answers.Readiness, also=frozenset((503,)))


def metrics() -> Call[str]:
    """Figures in the text format of Prometheus."""
    return Call("GET", "/metrics", str)


def _known(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _who(entity: Who) -> Newcomer | None:
    return Newcomer(id=entity) if isinstance(entity, str) else entity


def _events(events: Events) -> list[SupportEvent] | None:
    return [SupportEvent(item=e) if isinstance(e, str) else e for e in events] or None


def _part(text: str) -> str:
    return quote(text, safe="")


def _entity(kind: str, id: str) -> str:
    return f"/v1/entities/{_part(kind)}/{_part(id)}"
