"""What a newcomer may begin with: popular items of a few values, each once, and none that lists may not hold."""

from recsys_meta.inference.insight.item_groups import describe_item, popular_groups
from recsys_meta.inference.insight.map_areas import RADIUS_KM, map_areas
from recsys_meta.inference.new_items.stored_items import StoredItem
from recsys_meta.inference.recommender import Recommender
from tests.fixtures import stub_predictors as stubs
from tests.fixtures import trained_recommenders as served


def test_groups_share_no_item_and_their_items_have_the_value():
    model = served.ranking()
    groups = popular_groups(model, groups=4, size=3)
    items = [item for group in groups for item in group.items]
    assert len(groups) > 1 and len(set(items)) == len(items)
    assert all(group.name in describe_item(model, item) for group in groups for item in group.items)


def test_a_hidden_item_is_in_no_group_and_in_no_search():
    model = served.ranking()
    item = popular_groups(model)[0].items[0]
    name = model.catalog.item_name(item)
    hidden = model.with_items([StoredItem(name, {}, None, False)])
    assert item in model.catalog.search(name, 5)
    assert item not in [i for group in popular_groups(hidden) for i in group.items]
    assert item not in hidden.catalog.search(name, 50)
    assert item not in hidden.catalog.search("", 50)


def test_an_item_is_found_by_its_title_or_where_it_has_none_by_its_name():
    catalog = served.ranking().catalog
    assert catalog.search("thre", 5) == [catalog.ids["i3"]]
    assert catalog.search("i3", 5) == [catalog.ids["i3"]]
    assert catalog.search("i12", 5)[0] == catalog.ids["i12"]


def test_items_without_features_have_no_groups():
    assert popular_groups(Recommender(stubs.clicks())) == []


def test_an_area_is_a_popular_place_and_what_is_near():
    model = Recommender(stubs.visits())
    (area,) = map_areas(model)
    assert model.catalog.item_name(area.centre) == "k0"
    assert [model.catalog.item_name(item) for item in area.items] == [f"k{n}" for n in range(5)]
    north = [lat for lat, _ in area.points]
    assert north == sorted(north) and (north[-1] - north[0]) * 111.2 < RADIUS_KM
