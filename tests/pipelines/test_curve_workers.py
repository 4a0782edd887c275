"""`evaluate --engine ray`: the same curves as without it, also where a worker is killed on the way.

Ray is an extra of 240 MB: where it is not installed, the tests that need it skip.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.experiments import curve_workers
from pipelines.experiments.curve_workers import CurveEpisodes, CurveMethod, curve_backend, entity_parts
from pipelines.experiments.thread_count import fixed_threads
from pipelines.experiments.training_inputs import training_inputs
from recsys_meta.core.errors import ConfigError
from recsys_meta.data import prepare, simulate_ads, simulate_users
from recsys_meta.evaluation.curve import ColdStartCurve
from recsys_meta.metrics.pooled_metrics import RowSample
from recsys_meta.models.learners import LEARNERS
from tests.pipelines.test_batch_inference import bundle  # noqa: F401

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: pip install 'recsys-meta[ray]'")
WORKERS = 2
KINDS = {
    "user": (simulate_users(users=200, items=50, events=4000), "flagship"),
    "ad": (simulate_ads(ads=120, users=60, events=4800), "bernoulli"),
}


@pytest.fixture(scope="module")
def under_ray():
    with curve_backend(WORKERS, under_ray=True) as measure:
        yield measure


@pytest.fixture(scope="module", params=KINDS)
def setting(request, tmp_path_factory):
    """Inputs and episodes of a kind of entities, and a learner that was not trained."""
    simulated, name = KINDS[request.param]
    folder = tmp_path_factory.mktemp("curves") / "data"
    data, learner = prepare(simulated.tables, folder), LEARNERS[name](LEARNERS[name].Config())
    inputs = training_inputs(data, str(folder), scenario="new", split="seed", seed=3)
    params = learner.init(data, inputs.split.train, torch.Generator().manual_seed(0))
    episodes = CurveEpisodes(str(folder), data.digest, "new", "seed", 3, (0, 1, 5), chunk=4)
    return inputs, episodes, CurveMethod(learner, params)


def assert_equal(found: ColdStartCurve, wanted: ColdStartCurve) -> None:
    assert np.array_equal(found.entities, wanted.entities) and found.method == wanted.method
    assert found.values.keys() == wanted.values.keys()
    for shots, point in wanted.values.items():
        assert found.values[shots].keys() == point.keys()
        for metric, values in point.items():
            other = found.values[shots][metric]
            if isinstance(values, RowSample):
                assert isinstance(other, RowSample) and np.array_equal(other.entity, values.entity)
                np.testing.assert_allclose(other.value, values.value, atol=1e-9, rtol=0)
                assert (other.label is None) == (values.label is None)
                np.testing.assert_array_equal(other.label, values.label)
            else:
                np.testing.assert_allclose(other, values, atol=1e-9, rtol=0)


def measure_here(setting) -> ColdStartCurve:
    # Ray's workers have one thread each, and products of several differ in the last bits.
    with fixed_threads(1), curve_backend(None, under_ray=False) as measure:
        return measure(*setting, lambda _: None)


def test_parts_are_whole_chunks_of_all_entities():
    for count in (0, 1, 7, 8, 9, 100):
        parts = entity_parts(np.arange(count), 3, 4)
        assert np.array_equal(np.concatenate([entities for _, entities in parts]), np.arange(count))
        assert all(first % 4 == 0 and (not len(e) or e[0] == first) for first, e in parts)
        assert len(parts) <= 12


@pytest.mark.parametrize("adapts", [True, False])
def test_parts_joined_are_the_whole(setting, adapts):
    inputs, episodes, method = setting
    method = replace(method, adapts=adapts)
    entities = np.sort(inputs.split.test)
    parts = [
        curve_workers._measure(inputs, episodes, method, e, lists=False, first=first)
        for first, e in entity_parts(entities, 2, episodes.chunk)
    ]
    assert len(parts) > 2
    whole = curve_workers._measure(inputs, episodes, method, entities, lists=False)
    assert_equal(ColdStartCurve.joined(parts), whole)
    with pytest.raises(ValueError, match="a part"):
        ColdStartCurve.joined([])


@needs_ray
@pytest.mark.parametrize("adapts", [True, False])
def test_every_curve_is_measured_as_without_ray(under_ray, setting, adapts):
    done: list[int] = []
    inputs, episodes, method = setting
    setting = inputs, episodes, replace(method, adapts=adapts)
    found = under_ray(*setting, done.append)
    assert_equal(found, measure_here(setting))
    assert len(done) > WORKERS and done == sorted(done) and done[-1] == len(setting[0].split.test)


class MortalPredictor:
    """Predictor whose process is killed the first time that it adapts in a worker."""

    def __init__(self, inner, marker: Path, owner: int) -> None:
        self._inner, self._marker, self._owner, self.name = inner, marker, owner, inner.name

    def body(self, params):
        return self._inner.body(params)

    def adapt(self, body, support):
        if os.getpid() != self._owner and not self._marker.exists():
            self._marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self._inner.adapt(body, support)

    def rank(self, body, state):
        return self._inner.rank(body, state)

    def score(self, body, state, rows):
        return self._inner.score(body, state, rows)


@needs_ray
@pytest.mark.timeout(300)
def test_a_killed_worker_is_replaced(under_ray, setting, tmp_path):
    inputs, episodes, method = setting
    mortal = MortalPredictor(method.predictor, tmp_path / "killed", os.getpid())
    found = under_ray(inputs, episodes, CurveMethod(mortal, method.params), lambda _: None)
    assert (tmp_path / "killed").exists()
    assert_equal(found, measure_here(setting))


@needs_ray
def test_data_that_were_replaced_are_noticed(under_ray, setting):
    inputs, episodes, method = setting
    other = CurveEpisodes(episodes.source, "another", "new", "seed", 3, (0,))
    with pytest.raises(ConfigError, match="was changed meanwhile"):
        under_ray(inputs, other, method, lambda _: None)


def test_without_ray_it_says_what_to_install(command, bundle, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'recsys-meta[ray]'" in command("evaluate", bundle, "--engine", "ray", code=2)
    assert "only --engine ray has workers" in command("evaluate", bundle, "--workers", "2", code=2)
