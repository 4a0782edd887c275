"""`/ui/`: what is live and how it does."""

from __future__ import annotations

from fastapi import APIRouter, Response

from api.handlers.readiness import readiness_report
from api.pages.page_context import ReadContext
from api.pages.page_route import PageRoute

router = APIRouter(route_class=PageRoute, prefix="/ui", include_in_schema=False)


@router.get("/")
async def show_home(page: ReadContext) -> Response:
    """Show what is live, and how its dependencies are."""
    report = await readiness_report(page.container)
    return page.render("home.html.jinja", report=report)
