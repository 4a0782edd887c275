"""What routes ask of a request."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Path, Query, Request

from api.house import House
from api.models import EntityId, Kind, ModelName
from recsys_meta.store.cursor import MOST


async def _house(request: Request) -> House:
    return cast(House, request.app.state.house)


def request_id(request: Request) -> str:
    """The id under which the log has this request."""
    return str(request.scope["state"]["request_id"])


AHouse = Annotated[House, Depends(_house)]
KindPath = Annotated[Kind, Path(description="kind of newcomer: user, ad, city ...")]
IdPath = Annotated[EntityId, Path(description="the entity's id; slashes may stand in it")]
ModelPath = Annotated[ModelName, Path(description="the model's name")]
Limit = Annotated[int, Query(ge=1, le=MOST, description="rows of a page")]
Cursor = Annotated[str | None, Query(max_length=2000, description="`next` of the page before")]
Word = Annotated[str | None, Query(max_length=200)]
