"""An ensemble whose learner pushes away: what was disliked counts, alone as in a batch."""

from dataclasses import replace

import torch

from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EntityRequest, Interaction
from tests.fixtures import trained_recommenders as served

SUPPORTS = (
    {},
    {"i7": 1.0},
    {"i3": 5.0},
    {"i3": 5.0, "i7": 1.0},
    {"i3": 5.0, "i9": 4.0, "i7": 0.0, "i8": 2.0},
    {"i7": 2.0, "i8": 1.0},
)


def test_dislikes_change_the_ensemble_alike_alone_and_in_a_batch():
    bundle = served.ensemble()
    schema = bundle.schema.model_copy(update={"label": "stars", "label_range": (1.0, 5.0)})
    own = Recommender(replace(bundle, schema=schema, params=bundle.params | {"0/push": torch.tensor([0.5, 1.0])}))
    known = [own.read_support(EntityRequest(events=[Interaction(*e) for e in some.items()])) for some in SUPPORTS]
    alone = torch.cat([own.scores(own.adapt([entity])) for entity in known])
    together = own.scores(own.adapt(known))
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert not torch.equal(alone[0], alone[1]) and not torch.equal(alone[2], alone[3])
    plain = Recommender(replace(bundle, schema=schema))
    without = torch.cat([plain.scores(plain.adapt([entity])) for entity in known])
    assert torch.equal(alone[[0, 2]], without[[0, 2]]), "without dislikes nothing changes"
    assert torch.equal(without[1], without[0]), "nothing pushes"
