"""Choice of the kind of newcomer that items are stored for."""

from __future__ import annotations

from collections.abc import Sequence

from recsys_meta.core.errors import ConfigError
from recsys_meta.core.schema import Schema


def choose_item_kind(schemas: Sequence[Schema], kind: str | None) -> str:
    """Return the kind that items are for: the one that was given, or the only one of the schemas of live models. Raises
    ConfigError where there are several, and where every newcomer of the kind has items of its own."""
    kinds = sorted({schema.kind for schema in schemas})
    if kind is None and len(kinds) != 1:
        raise ConfigError(f"A kind is needed; models in service are for {', '.join(kinds) or 'no kind yet'}")
    kind = kind or kinds[0]
    homes = [schema.home for schema in schemas if schema.kind == kind]
    if homes and None not in homes:
        raise ConfigError(
            f"Every {kind} has items of its own: they come with its events, or as `candidates` with features"
        )
    return kind
