"""Two predictors of a few lines, for clicks in a context and for choices of an actor, in bundles made by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import pandas as pd
import pytest
import torch

from recsys_meta.baselines import BASELINES
from recsys_meta.baselines.base import BaselineConfig
from recsys_meta.bundle import Bundle
from recsys_meta.dataset import Vocabulary
from recsys_meta.objectives import logistic, mean_rows
from recsys_meta.schema import FeatureField, Schema


class Blind(BaselineConfig):
    """Logit of the entity's clicks, shrunk to one in five, less 0.5 for each position; items have a level each."""

    name: ClassVar[str] = "test-blind"
    objective: str = "click"

    def fit(self, data, entities):
        raise NotImplementedError

    def adapt(self, body, support):
        rows = support.rows
        clicks = (rows.label * rows.mask).sum(1)
        position = rows.context["position"].nan_to_num(0) * rows.mask
        age = support.features["age"].nan_to_num(30)
        return {"up": clicks + 1, "down": rows.counts - clicks + 4, "far": position.sum(1), "age": age}

    def level(self, state):
        return (state["up"] / state["down"]).log() + state["far"] / (state["up"] + state["down"]) + state["age"] / 100

    def rank(self, body, state):
        return self.level(state)[:, None] + body["item"]

    def score(self, body, state, rows):
        seat = torch.where(rows.context["device"] == 2, 0.3, 0.0)
        position = rows.context["position"].nan_to_num(0)
        return self.level(state)[:, None] + body["item"][rows.item] - 0.5 * position + seat

    def support_loss(self, body, state, support):
        return logistic(self.score(body, state, support.rows), support.rows)


class Clicks(Blind):
    """The same, knowing how sure it is."""

    name: ClassVar[str] = "test-clicks"

    def spread(self, body, state, rows):
        return (1 / state["up"] + 1 / state["down"]).sqrt()[:, None].expand(rows.item.shape)


class Dumb(BaselineConfig):
    """Visits so far. It cannot choose."""

    name: ClassVar[str] = "test-dumb"
    objective: str = "choice"

    def fit(self, data, entities):
        raise NotImplementedError

    def adapt(self, body, support):
        rows, own = support.rows, support.catalogue
        counts = torch.zeros(own.mask.shape).scatter_add(1, rows.item, rows.mask.float())
        cafe = (own.features["category"] == 2).any(2).float()
        place = torch.stack([own.features["lat"], own.features["lon"]], 2)
        return {"counts": counts, "place": place, "cafe": cafe}

    def rank(self, body, state):
        return state["counts"].log1p() + 0.01 * state["cafe"]

    def support_loss(self, body, state, support):
        picked = torch.log_softmax(self.rank(body, state), 1).gather(1, support.rows.item)
        return mean_rows(-picked, support.rows.mask)


class Visits(Dumb):
    """The actor's own visits too, nearness to where it was last, and lunch in cafes."""

    name: ClassVar[str] = "test-visits"

    def choose(self, body, state, rows, candidates):
        def of(name, ids):
            tasks = torch.arange(len(ids))[:, None, None]
            return state[name][tasks, ids]

        again = (candidates[..., None] == rows.history[:, :, None, :]).sum(3)
        last = of("place", rows.history[:, :, :1])
        far = (of("place", candidates) - last).square().sum(3).sqrt().nan_to_num(0)
        noon = (rows.context["hour"] - 12).abs().nan_to_num(9)[..., None] < 2
        base = self.rank(body, state)[torch.arange(len(candidates))[:, None, None], candidates]
        return base + 2.0 * again - 10 * far + noon * of("cafe", candidates)

    def score(self, body, state, rows):
        return self.choose(body, state, rows, rows.item[..., None])[..., 0]


@contextmanager
def registered() -> Iterator[None]:
    """The predictors under their names, for bundles that are read from a folder."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in (Clicks, Blind, Visits, Dumb):
            patch.setitem(BASELINES, kind.name, kind)
        yield


def _words(*values: str) -> pd.Index:
    return pd.Index(values, dtype="str")


def clicks(kind: type[Blind] = Clicks) -> Bundle:
    """Ads shown to people p0 to p9, on desktop or mobile."""
    schema = Schema(
        name="shown",
        kind="ad",
        objective="click",
        entity="ad",
        item="person",
        label="click",
        label_range=(0, 1),
        time="time",
        entity_features=(FeatureField(name="age", kind="numeric"),),
        context=(FeatureField(name="position", kind="numeric"), FeatureField(name="device")),
    )
    spaces = {"item": _words(*(f"p{n}" for n in range(10))), "context.device": _words("mobile", "desktop")}
    item = torch.cat([torch.zeros(2), torch.linspace(-0.5, 0.5, 10)])
    return Bundle(kind(), {"item": item}, torch.ones(12), schema, Vocabulary(spaces))


def visits(kind: type[Dumb] = Visits) -> Bundle:
    """Cities; the model knows the places k0 to k4, on a line to the north."""
    schema = Schema(
        name="places",
        kind="city",
        objective="choice",
        entity="city",
        item="place",
        actor="person",
        home="city",
        time="time",
        item_features=(
            FeatureField(name="city"),
            FeatureField(name="lat", kind="numeric"),
            FeatureField(name="lon", kind="numeric"),
            FeatureField(name="category"),
        ),
        context=(FeatureField(name="hour", kind="numeric"),),
    )
    spaces = {
        "item": _words(*(f"k{n}" for n in range(5))),
        "item.city": _words("old"),
        "item.category": _words("cafe", "bar", "park"),
    }
    nan = torch.full((2,), torch.nan)
    params = {
        "catalogue.lat": torch.cat([nan, 40 + torch.arange(5) / 100]),
        "catalogue.lon": torch.cat([nan, torch.full((5,), -70.0)]),
        "catalogue.category": torch.tensor([0, 0, 2, 3, 4, 2, 3])[:, None],
    }
    popularity = torch.tensor([0, 0, 5, 4, 3, 2, 1.0])
    return Bundle(kind(), params, popularity, schema, Vocabulary(spaces))
