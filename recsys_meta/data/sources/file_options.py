"""Options of a schema's table [files]: which files there are, and how each of them is written."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from recsys_meta.core.schema import Schema
from recsys_meta.data.readers.csv_reader import CsvDialect
from recsys_meta.data.readers.raw_tables import Duplicates, Repeated
from recsys_meta.data.readers.row_filter import CellCondition
from recsys_meta.data.readers.table_reader import TableForm, TableFormat

Layout = Literal["rows", "wide", "list"]
Character = Annotated[str, Field(min_length=1, max_length=1)]
Scalar = str | bool | int | float


class WhereCondition(BaseModel):
    """Condition on a cell: `any` of some values, `not` any of some, a number of at least `min`, at most `max`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    any: list[Scalar] | None = None
    none: Scalar | list[Scalar] = Field(default_factory=list, alias="not")
    min: float | None = None
    max: float | None = None

    @property
    def condition(self) -> CellCondition:
        """The condition as the reader has it."""
        none = self.none if isinstance(self.none, list) else [self.none]
        return CellCondition(None if self.any is None else tuple(self.any), tuple(none), self.min, self.max)


def _to_condition(value: Any) -> Any:
    """Write a single value, or a list of them, as the condition that it is short for."""
    if isinstance(value, dict):
        return value
    return {"any": value if isinstance(value, list) else [value]}


class TextOptions(BaseModel):
    """Options of texts; under [files] for all of them, under [files.events] and so on for one.

    `separator` (else found from the first line) may have several letters. `quotes` False: a quote is a letter.
    `escape` stands before a quote within quotes. `decimal` is the decimal mark. The first `skip_lines` lines are not
    read, nor those that begin with `comment`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    separator: str | None = Field(default=None, min_length=1)
    encoding: str | None = None
    quotes: bool | None = None
    escape: Character | None = None
    decimal: Literal[".", ","] | None = None
    comment: str | None = Field(default=None, min_length=1)
    skip_lines: int | None = Field(default=None, ge=0)
    format: TableFormat | None = None


class TableFile(TextOptions):
    """One table: its file or files, and how they are written.

    `columns` are the names of the columns of files without a header. `key` is the column of the ids in a table of
    features, `repeated` what happens there to an id that comes again. `where` are conditions on columns that a row
    must fulfil. `layout` "wide": a column for each item, of which cells that are `missing` are no events; "list": a
    list of items in a row, joined by `list_separator`, each maybe with its label behind `pair_separator`. `row_number`
    is a name for the number of the row, where that is the id.
    """

    path: str | list[str]
    columns: list[str] | None = Field(default=None, min_length=1)
    key: str | None = None
    repeated: Repeated = "refuse"
    where: dict[str, Annotated[WhereCondition, BeforeValidator(_to_condition)]] = Field(default_factory=dict)
    layout: Layout = "rows"
    list_separator: str | None = Field(default=None, min_length=1)
    pair_separator: str | None = Field(default=None, min_length=1)
    missing: list[Scalar] = Field(default_factory=list)
    ignore: list[str] = Field(default_factory=list)
    row_number: str | None = None

    @property
    def paths(self) -> list[str]:
        """The files, or patterns of them."""
        return [self.path] if isinstance(self.path, str) else self.path

    @property
    def first_line(self) -> int | None:
        """Line of the first row in a text without a header, whose blank lines are rows too; None where only reading
        tells."""
        is_plain = self.columns is not None and self.comment is None and self.format in (None, "csv")
        return (self.skip_lines or 0) + 1 if is_plain else None

    @property
    def conditions(self) -> dict[str, CellCondition]:
        """The conditions on rows, by column."""
        return {name: where.condition for name, where in self.where.items()}

    def form(self) -> TableForm:
        """Return how the files are written."""
        names = None if self.columns is None else tuple(self.columns)
        dialect = CsvDialect(
            self.separator,
            names,
            self.quotes,
            self.encoding or "utf-8",
            escape=self.escape,
            skip_lines=self.skip_lines or 0,
            comment=self.comment,
        )
        return TableForm(self.format, dialect)


def _to_table(value: Any) -> Any:
    """Write the name of a file, or a list of them, as the table that it is short for."""
    return {"path": value} if isinstance(value, str | list) else value


File = Annotated[TableFile, BeforeValidator(_to_table)]


class SchemaFiles(TextOptions):
    """Table [files] of a schema; paths are relative to the directory of the schema.

    `events` may be a list or a pattern such as "part-*.parquet", and a member of a zip file ("a.zip/b.csv"); with
    options of its own it is a table, [files.events], whose file is `path`. Without `entities` or `items` the features
    of these are columns of the events. `title` is the column of the items with names for display. With `city_radius_km`
    the entities are cities made from the coordinates of the items.
    """

    events: File
    entities: File | None = None
    items: File | None = None
    duplicates: Duplicates = "refuse"
    title: str | None = None
    city_radius_km: float | None = Field(default=None, ge=1, le=1000)

    @model_validator(mode="after")
    def _check_tables(self) -> Self:
        if self.events.key is not None or self.events.repeated != "refuse":
            raise ValueError("events: key and repeated belong under [files.entities] or [files.items]")
        for name, table in (("entities", self.entities), ("items", self.items)):
            if table is not None and (table.layout != "rows" or table.row_number or len(table.paths) != 1):
                raise ValueError(f"{name}: one file with a row for each id is needed")
        return self

    def with_defaults(self, table: TableFile) -> TableFile:
        """Return a table with the options of [files] where it has none of its own."""
        common = {n: v for n in TextOptions.model_fields if (v := getattr(self, n)) is not None}
        own = {n: v for n in TextOptions.model_fields if (v := getattr(table, n)) is not None}
        return table.model_copy(update={**common, **own})


PLACES: dict[str, str] = {
    **dict.fromkeys(TableFile.model_fields, "in [files.events], [files.entities] or [files.items]"),
    **dict.fromkeys(SchemaFiles.model_fields, "under [files]"),
    **dict.fromkeys(Schema.model_fields, "at the top of the schema, before every table"),
    "format": "under [files]",
    "name": "at the top of the schema, before every table",
    "kind": "at the top of the schema, before every table; that of a feature in its [[...]] table",
    "column": "in [[entity_features]], [[item_features]] or [[context]]",
    "min_count": "in [[entity_features]], [[item_features]] or [[context]]",
    "max_values": "in [[entity_features]], [[item_features]] or [[context]]",
}
"""Where in a schema each key belongs, for messages about one that stands elsewhere."""
