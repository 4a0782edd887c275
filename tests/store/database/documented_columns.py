"""`python -m tests.store.database.documented_columns` writes the columns of tables and views into docs/database.md."""

import tempfile
from pathlib import Path

from sqlalchemy import Column, Engine, inspect

from recsys_meta.store.database import migrate
from recsys_meta.store.database.engine import connect
from recsys_meta.store.schema_check import VIEWS
from recsys_meta.store.tables import METADATA

DOCUMENT = Path(__file__).parents[3] / "docs" / "database.md"
BEGIN, END = "<!-- columns: generated -->\n", "<!-- end of columns -->"
TYPES = {"datetime": "time", "str": "text", "object": "json", "bool": "boolean", "int": "integer", "float": "number"}


def column_tables(engine: Engine) -> str:
    """Markdown tables of the columns of all tables, by their definition, and of all views, as a database has them."""
    lines = ["| table | columns |", "|---|---|"]
    lines += [f"| `{t.name}` | {', '.join(map(_described, t.columns))} |" for t in METADATA.sorted_tables]
    lines += ["", "| view | columns |", "|---|---|"]
    seen = inspect(engine)
    for view in VIEWS:
        names = ", ".join(f"`{column['name']}`" for column in seen.get_columns(view))
        lines.append(f"| `{view}` | {names} |")
    return "\n".join(lines) + "\n"


def _described(column: Column[object]) -> str:
    kind = getattr(column.type, "impl_instance", column.type)
    try:
        name = kind.python_type.__name__
    except NotImplementedError:
        name = "object"
    marked = f"**`{column.name}`**" if column.primary_key else f"`{column.name}`"
    return f"{marked} {TYPES.get(name, name)}{'?' if column.nullable else ''}"


def documented(text: str) -> str:
    """The part of the document that is generated."""
    return text.partition(BEGIN)[2].partition(END)[0]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/empty.db"
        migrate.upgrade_database(url)
        engine = connect(url)
        tables = column_tables(engine)
        engine.dispose()
    text = DOCUMENT.read_text()
    DOCUMENT.write_text(text.replace(f"{BEGIN}{documented(text)}{END}", f"{BEGIN}{tables}{END}"))


if __name__ == "__main__":
    main()
