"""Five-way classification of made drawings, the field's own test of metric methods and of MAML; chance is .2."""

import pytest

from recsys_meta.models.learners import LEARNERS
from tests.models.learners.cases import generator, train
from tests.models.learners.glyphs import accuracy, glyph_world

CONFIG = {"dims": 32, "dropout": 0.0, "item_id": False}


@pytest.fixture(scope="module")
def world():
    return glyph_world(classes=300, drawings=10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "config", "one_shot", "five_shot"),
    [
        ("prototypical", {}, 0.55, 0.62),
        ("siamese", {}, 0.66, 0.72),
        ("matching", {}, 0.85, 0.94),
        ("relation", {"hidden": (32, 32)}, 0.58, 0.68),
        ("episodic-memory", {}, 0.85, 0.94),
        ("ridge-head", {}, 0.62, 0.82),
        ("maml", {"rate": 3.0, "item_bias": False}, 0.57, 0.66),
    ],
)
def test_new_classes_are_told_apart_from_one_and_five_drawings(world, name, config, one_shot, five_shot):
    learner = LEARNERS[name](LEARNERS[name].Config(**CONFIG, **config))
    params, index, split, _ = train(learner, world, epochs=12, max_shots=5, empty=0.0)
    reached = [accuracy(learner, params, world, index, split.test, shots) for shots in (1, 5)]
    fresh = learner.init(world, split.train, generator(0))
    before = [accuracy(learner, fresh, world, index, split.test, shots) for shots in (1, 5)]
    print(f"{name}: {reached} of one and five drawings; before training {before}")
    assert reached[0] > one_shot and reached[1] > five_shot and reached[1] > reached[0]
    assert reached[0] > before[0]
