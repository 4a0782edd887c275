"""`/ui/adaptations`: what adapting was worth, how long it took, and whom it did not help."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy.orm import Session

from api.handlers.dependencies import Cursor, Word
from api.pages.answer_charts import latency_chart, latency_rows, support_fit_chart, traffic_chart
from api.pages.gain_charts import gain_chart
from api.pages.page_context import ReadContext
from api.pages.page_route import PageRoute
from recsys_meta.store.entities import adaptations
from recsys_meta.store.entities.outcome_summary import (
    entities_not_helped,
    gain_by_support_size,
    newest_model,
    summarize_outcomes,
)
from recsys_meta.store.model_registry import registry

router = APIRouter(route_class=PageRoute, prefix="/ui/adaptations", include_in_schema=False)

_PAGE = 50


@router.get("")
async def show_adaptations(page: ReadContext, model: Word = None, cursor: Cursor = None) -> Response:
    """Show gain by support size and whom adapting did not help, of one model; latency and the log, of all."""
    values = await page.read(lambda s: _read(s, model or None, cursor))
    answers = values["answers"]
    return page.render(
        "adaptations.html.jinja",
        gain_chart=gain_chart(values["gains"]),
        traffic=traffic_chart(answers),
        latency=latency_rows(answers),
        latency_chart=latency_chart(answers),
        fit=support_fit_chart(answers),
        **values,
    )


def _read(session: Session, model: str | None, cursor: str | None) -> dict[str, Any]:
    names = [one.name for one in registry.page_models(session) if one.live or one.name == model]
    newest = newest_model(session)
    name = model or (newest if newest in names else None) or (names[0] if names else "")
    rows = adaptations.page_adaptations(session, limit=_PAGE, cursor=cursor)
    return {
        "names": names,
        "chosen": name,
        "online": summarize_outcomes(session, name),
        "gains": gain_by_support_size(session, name),
        "not_helped": entities_not_helped(session, name),
        "answers": adaptations.newest_answers(session),
        "rows": rows.items,
        "next": rows.next,
    }
