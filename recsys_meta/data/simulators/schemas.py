"""Schemas of the simulated data sets, and the values of their features."""

from __future__ import annotations

from recsys_meta.core.schema import FeatureField, Schema

GENDERS = ("F", "M")
AGES = ("under 18", "18-24", "25-34", "35-44", "45-54", "55+")
OCCUPATIONS = ("artist", "clerk", "doctor", "driver", "engineer", "farmer", "lawyer", "retired", "student", "teacher")
GENRES = ("action", "animation", "comedy", "crime", "documentary", "drama", "fantasy", "horror", "musical", "romance")
AD_CATEGORIES = ("books", "cars", "fashion", "food", "games", "garden", "phones", "travel")
AD_WORDS = ("best", "cheap", "daily", "fast", "fresh", "gift", "new", "outlet", "premium", "sale", "season", "smart")
COUNTRIES = tuple("ABCDEFGHIJ")
CLIMATES = ("arid", "cold", "mild", "tropical")
VENUE_KINDS = (
    "bakery",
    "bar",
    "cafe",
    "cinema",
    "gallery",
    "gym",
    "hotel",
    "library",
    "market",
    "museum",
    "park",
    "theatre",
)

USER_ATTRIBUTES = (("gender", GENDERS), ("age", AGES), ("occupation", OCCUPATIONS))
_POINT = (FeatureField(name="lat", kind="numeric"), FeatureField(name="lon", kind="numeric"))

USERS = Schema(
    name="simulated-users",
    label="rating",
    label_range=(1, 5),
    time="time",
    entity_features=tuple(FeatureField(name=n) for n, _ in USER_ATTRIBUTES),
    item_features=(FeatureField(name="genres", kind="multi"), FeatureField(name="year")),
)

ADS = Schema(
    name="simulated-ads",
    kind="ad",
    objective="click",
    entity="ad",
    item="user",
    group="list",
    label="click",
    label_range=(0, 1),
    time="time",
    context=(FeatureField(name="position"), FeatureField(name="hour")),
    entity_features=(
        FeatureField(name="category"),
        FeatureField(name="advertiser", min_count=2),
        FeatureField(name="words", kind="text"),
        FeatureField(name="price", kind="numeric"),
    ),
    item_features=(
        *(FeatureField(name=n) for n, _ in USER_ATTRIBUTES),
        FeatureField(name="interests", kind="multi"),
    ),
)

CITIES = Schema(
    name="simulated-cities",
    kind="city",
    objective="choice",
    entity="city",
    item="place",
    actor="person",
    time="time",
    home="city",
    context=(FeatureField(name="hour"),),
    entity_features=(
        FeatureField(name="country"),
        FeatureField(name="climate"),
        FeatureField(name="log_population", kind="numeric"),
        *_POINT,
    ),
    item_features=(FeatureField(name="venue"), FeatureField(name="price"), *_POINT, FeatureField(name="city")),
    shots=(0, 16, 64, 256),
    min_query=20,
)
