"""Lists of a large catalogue over HTTP: found in two stages, exact where a request names candidates, checked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from recsys_meta.inference.ranking import catalogue_sketch
from tests.api import bundles
from tests.api.servers import Served, serving, settings
from tests.fixtures import factor_bundles
from tests.fixtures.services import wait

NEWCOMER = ("i3", "i40", "i77", "i150")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, migrated_file: Path) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("two-stages")
    url = f"sqlite:///{home / 'recsys-meta.db'}"
    (home / "recsys-meta.db").write_bytes(migrated_file.read_bytes())
    bundles.publish(url, home / "models", "users", factor_bundles.ensemble())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue_sketch, "CANDIDATES", factor_bundles.CANDIDATES)
        with serving(settings(home, url).model_copy(update={"sketch_from": factor_bundles.ITEMS})) as server:
            yield server


def test_pages_of_a_list_in_two_stages_begin_with_the_best_and_repeat_nothing(server: Served) -> None:
    recommender = server.container.registry.live["users"].recommender
    assert recommender.sketch is not None
    first = server.recommend(*NEWCOMER, n=20).json()
    rest = server.recommend(*NEWCOMER, n=100, cursor=first["next"]).json()
    whole = server.recommend(*NEWCOMER, n=120).json()
    assert first["items"] + rest["items"] == whole["items"]
    names = [item["item"] for item in whole["items"]]
    assert len(set(names)) == 120
    exact = server.recommend(*NEWCOMER, n=20, candidates=names).json()
    assert [item["item"] for item in exact["items"]] == names[:20]


def test_how_many_of_the_best_are_listed_is_counted(server: Served) -> None:
    server.recommend("i5", "i9", n=7)
    wait(lambda: 'recsys_meta_sketch_items_total{listed="yes"}' in server.client.get("/metrics").text)
    lines = dict(line.rsplit(" ", 1) for line in server.client.get("/metrics").text.splitlines() if line[0] != "#")
    listed, missed = (float(lines[f'recsys_meta_sketch_items_total{{listed="{one}"}}']) for one in ("yes", "no"))
    assert listed >= 10
    assert missed == 0
