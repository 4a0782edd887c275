"""Pages while the database is away: they say so, and what they need no database for is still there."""

from sqlalchemy.engine import make_url

from tests.api import bundles
from tests.api.pages.conftest import browser_of
from tests.api.servers import Wire, serving, settings
from tests.fixtures.services import text_of, wait


def test_pages_say_that_the_database_is_away(home, migrated_schema, bundle) -> None:
    url = make_url(migrated_schema)
    wire = Wire(url.port or 5432)
    wire.mend()
    bundles.publish(migrated_schema, home / "models", "users", bundle)
    with (
        serving(settings(home, text_of(url.set(host="127.0.0.1", port=wire.port)))) as server,
        browser_of(server) as browser,
    ):
        assert "The database cannot be read" not in browser.get("/ui/").text
        wire.cut()
        wait(lambda: "The database cannot be read" in browser.get("/ui/").text)
        home_page, models = browser.get("/ui/"), browser.get("/ui/models")
        assert home_page.status_code == models.status_code == 200
        assert "away" in home_page.text
        assert "in service" in models.text
        runs = browser.get("/ui/runs")
        assert (runs.status_code, runs.headers["retry-after"]) == (503, "2")
        assert runs.headers["content-type"].startswith("text/html")
        assert str(url.port or 5432) not in runs.text
        wire.mend()
        wait(lambda: browser.get("/ui/runs").status_code == 200)
    wire.cut()
