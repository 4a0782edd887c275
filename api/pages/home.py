"""`/ui/`: what is live and how it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy.orm import Session

from api.handlers.model_summary import list_summaries
from api.handlers.readiness import readiness_report
from api.pages.answer_charts import traffic_chart
from api.pages.charts import PageChart
from api.pages.curve_charts import curve_chart
from api.pages.page_context import PageContext, ReadContext
from api.pages.page_route import PageRoute
from recsys_meta.store.database.engine import StoreUnavailable
from recsys_meta.store.entities import adaptations
from recsys_meta.store.entities.outcome_summary import OutcomeSummary, summarize_outcomes
from recsys_meta.store.model_registry.guardrail import open_alerts
from recsys_meta.store.tracking.version_curve import VersionCurve, version_curve

router = APIRouter(route_class=PageRoute, prefix="/ui", include_in_schema=False)

_MOST_MODELS = 6


@dataclass(frozen=True)
class ModelPanel:
    """Panel of a model in service: its summary, its curve and how its lists did."""

    summary: dict[str, Any]
    curve: VersionCurve | None
    chart: PageChart | None
    online: OutcomeSummary


@router.get("/")
async def show_home(page: ReadContext) -> Response:
    """Show what is live, how it does, and who answers."""
    report = await readiness_report(page.container)
    summaries, _ = await list_summaries(page.container)
    live = [one for one in summaries if one["live"]]
    try:
        figures = await page.read(lambda s: _read(s, live[:_MOST_MODELS]))
    except StoreUnavailable:
        figures = None
    return page.render("home.html.jinja", report=report, live=live, most=_MOST_MODELS, **_shown(page, figures))


def _read(session: Session, live: list[dict[str, Any]]) -> dict[str, Any]:
    panels = []
    for summary in live:
        curve = version_curve(session, summary["name"], summary["live"])
        chart = None if curve is None else curve_chart(curve, most=6)
        panels.append(ModelPanel(summary, curve, chart, summarize_outcomes(session, summary["name"])))
    return {"panels": panels, "alerts": open_alerts(session), "answers": adaptations.newest_answers(session)}


def _shown(page: PageContext, figures: dict[str, Any] | None) -> dict[str, Any]:
    if figures is None:
        return {"is_read": False, "panels": [], "alerts": [], "traffic": None, "answers": []}
    answers = figures["answers"]
    return {**figures, "is_read": True, "traffic": traffic_chart(answers) if answers else None}
