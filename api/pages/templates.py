"""Templates of pages: read once, everything escaped that they are given."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from api.pages.text_formats import FORMATS
from recsys_meta import __version__

if TYPE_CHECKING:
    from jinja2 import Environment

NAVIGATION = (
    ("", "Home"),
    ("runs", "Runs"),
    ("models", "Models"),
    ("adaptations", "Adaptations"),
    ("entities", "Entities"),
    ("items", "Items"),
    ("data", "Data"),
    ("playground", "Playground"),
)
"""Paths below `/ui/` of the navigation's entries, and their names."""


@cache
def _environment() -> Environment:
    """Return the environment, made for the first page: a server that shows none does not wait for it."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        autoescape=True,
        loader=PackageLoader("api.pages"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FORMATS)
    environment.globals.update(navigation=NAVIGATION, version=__version__)
    return environment


def render_template(template: str, /, **values: Any) -> str:
    """Render a template of `api/pages/templates`."""
    return _environment().get_template(template).render(page=values.pop("page", None), **values)
