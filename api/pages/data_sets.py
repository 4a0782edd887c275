"""`/ui/data`: prepared data sets, and the schemas of the models in service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cachetools import LRUCache
from fastapi import APIRouter, Response
from fastapi import Path as PathField

from api.http.problem_details import ProblemError, unavailable
from api.inference.long_tasks import WorkerBusy
from api.pages.charts import ChartSeries, PageChart
from api.pages.page_context import ReadContext
from api.pages.page_route import PageRoute
from recsys_meta.core.errors import DataError
from recsys_meta.data.build.describe import describe
from recsys_meta.data.build.prepared_dataset import open_dataset
from recsys_meta.store.tracking.setting_tables import flat_settings

router = APIRouter(route_class=PageRoute, prefix="/ui/data", include_in_schema=False)

MOST_EVENTS = 30_000_000
"""Events of a data set that is described here; `recsys-meta data describe` has no bound."""

_MOST_SETS = 200
_QUANTILE_ROWS = ("rows_of_an_entity", "rows_of_an_item", "rows_of_an_actor", "rows_of_a_group", "items_of_an_entity")
# By folder and the time its description was written: a data set that appears anew is described anew.
_descriptions: LRUCache[tuple[str, int], dict[str, Any]] = LRUCache(32)

SetName = Annotated[str, PathField(max_length=200, pattern=r"^[A-Za-z0-9_\-][A-Za-z0-9_.\-]*$")]


@router.get("")
async def show_data(page: ReadContext) -> Response:
    """List the prepared data sets and the schemas of live models."""
    models = [
        {"name": name, "schema": flat_settings(_schema(one.recommender.bundle.schema)), "kind": one.kind}
        for name, one in sorted(page.container.registry.live.items())
    ]
    return page.render("data.html.jinja", names=_prepared_names(page.container.prepared), models=models)


@router.get("/{name}")
async def show_data_set(name: SetName, page: ReadContext) -> Response:
    """Describe a prepared data set."""
    folder = page.container.prepared / name
    if not (folder / "dataset.json").is_file():
        raise ProblemError(404, f"No prepared data set is named '{name}'")
    try:
        description = await page.container.long_tasks.run(_described, folder)
    except DataError:
        raise ProblemError(
            409, f"The data set '{name}' cannot be read; `recsys-meta data describe {name}` says why"
        ) from None
    except WorkerBusy:
        raise unavailable("Too many descriptions are being made; try again") from None
    return page.render(
        "data_set.html.jinja",
        name=name,
        data=description,
        quantiles={key: description[key] for key in _QUANTILE_ROWS if key in description},
        labels=_label_chart(description.get("labels", {})),
        schema=flat_settings(description["schema"]),
        most=MOST_EVENTS,
    )


def _prepared_names(folder: Path) -> list[str]:
    try:
        names = sorted(one.name for one in folder.iterdir() if (one / "dataset.json").is_file())
    except OSError:
        return []
    return names[:_MOST_SETS]


def _described(folder: Path) -> dict[str, Any]:
    """Describe a data set, or what is at hand of one that is too large. Raises DataError."""
    key = str(folder), (folder / "dataset.json").stat().st_mtime_ns
    description = _descriptions.get(key)
    if description is None:
        data = open_dataset(folder)
        if len(data.events) > MOST_EVENTS:
            counts = {"events": len(data.events), "entities": data.events.entity_count, "digest": data.digest}
            description = {**counts, "is_large": True, "schema": data.schema.model_dump(mode="json")}
        else:
            description = dict(describe(data))
        description["schema"] = _schema(data.schema)
        _descriptions[key] = description
    return description


def _schema(schema: Any) -> dict[str, Any]:
    """Return the keys of a schema that say something: features by name and kind, nothing that is not set."""
    values: dict[str, Any] = schema.model_dump(mode="json", exclude_defaults=True)
    for key in ("entity_features", "item_features", "context"):
        if key in values:
            values[key] = ", ".join(f"{one['name']} ({one.get('kind', 'categorical')})" for one in values[key])
    return values


def _label_chart(labels: dict[str, float]) -> PageChart | None:
    if not labels or "mean" in labels:
        return None
    bars = ChartSeries("events", [float(count) for count in labels.values()])
    return PageChart("Labels", "label", "events", list(labels), [bars], "bar")
