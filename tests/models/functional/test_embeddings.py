import numpy as np
import pytest
import torch

from recsys_meta.core.dataset import FeatureColumn
from recsys_meta.core.feature_tensors import lookup_rows
from recsys_meta.models.functional.embeddings import (
    catalogue_features,
    embed_fields,
    init_embedding_bag,
    init_mlp,
    item_features,
    linear,
)

TABLE = {
    "genres": FeatureColumn("genres", np.array([2, 3, 4, 2], np.int32), np.array([0, 0, 2, 3, 4]), 5),
    "age": FeatureColumn("age", np.array([10.0, 20.0, np.nan, 40.0], np.float32)),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_bag_is_the_mean_of_its_values_and_empty_is_zero():
    params = init_embedding_bag("side", TABLE, np.arange(4), 3, 1.0, generator())
    _, genres = embed_fields(params, "side", lookup_rows(TABLE, np.arange(4)))
    table = params["side.genres"]
    assert table.shape == (5, 3)
    assert torch.equal(genres[0], torch.zeros(3))
    assert torch.allclose(genres[1], (table[2] + table[3]) / 2)
    assert torch.allclose(genres[2], table[4])


def test_padding_changes_no_bag_and_ids_beyond_the_table_are_unknown():
    params = init_embedding_bag("side", {"genres": TABLE["genres"]}, np.arange(4), 3, 1.0, generator())
    narrow = embed_fields(params, "side", {"genres": torch.tensor([[2, 3]])})[0]
    wide = embed_fields(params, "side", {"genres": torch.tensor([[2, 3, 0, 0, 0]])})[0]
    assert torch.equal(narrow, wide)
    unknown = embed_fields(params, "side", {"genres": torch.tensor([[1], [99]])})[0]
    assert torch.equal(unknown[0], unknown[1]) and torch.equal(unknown[0], params["side.genres"][1])


def test_numbers_lie_between_knots_of_the_given_rows_only():
    params = init_embedding_bag("side", TABLE, np.array([0, 1, 2]), 3, 1.0, generator())
    knots, weight = params["side.age.knots"], params["side.age.weight"]
    assert knots[0] == 10 and knots[-1] == 20  # not 40, which is another's
    between = (knots[3] + knots[4]) / 2
    age = embed_fields(
        params, "side", {"age": torch.stack([knots[2], between, torch.tensor(torch.nan), knots[-1] * 9])}
    )[0]
    assert torch.allclose(age[0], weight[2])
    assert torch.allclose(age[1], (weight[3] + weight[4]) / 2, atol=1e-5)
    assert torch.allclose(age[2], weight[-1]), "missing has a vector of its own"
    assert torch.allclose(age[3], weight[-2]), "beyond the last knot nothing changes"


@pytest.mark.parametrize("values", [[np.nan, np.nan], [7.0, 7.0]])
def test_numbers_without_spread_give_no_nan(values):
    params = init_embedding_bag(
        "side", {"x": FeatureColumn("x", np.array(values, np.float32))}, np.arange(2), 2, 1.0, generator()
    )
    assert torch.isfinite(embed_fields(params, "side", {"x": torch.tensor([7.0, 8.0, torch.nan])})[0]).all()


def test_fields_come_by_name_and_draws_depend_on_the_generator():
    params = init_embedding_bag("side", TABLE, np.arange(4), 3, 1.0, generator())
    features = lookup_rows(TABLE, np.arange(4))
    both = embed_fields(params, "side", features)
    assert torch.equal(both[1], embed_fields(params, "side", {"genres": features["genres"]})[0])
    backward = embed_fields(params, "side", dict(reversed(features.items())))
    assert all(torch.equal(a, b) for a, b in zip(both, backward, strict=True))
    again = init_embedding_bag("side", TABLE, np.arange(4), 3, 1.0, generator())
    other = init_embedding_bag("side", TABLE, np.arange(4), 3, 1.0, generator(1))
    assert torch.equal(params["side.genres"], again["side.genres"])
    assert not torch.equal(params["side.genres"], other["side.genres"])


def test_fast_weights_of_each_task_equal_the_tasks_one_by_one():
    g = generator()
    x, weight, bias = (torch.randn(*s, generator=g) for s in ((3, 5, 4), (3, 4, 2), (3, 2)))
    got = linear(x, weight, bias)
    for t in range(3):
        assert torch.allclose(got[t], x[t] @ weight[t] + bias[t], atol=1e-6)
        assert torch.allclose(linear(x, weight[0], bias[0])[t], x[t] @ weight[0] + bias[0], atol=1e-6)
    assert torch.allclose(linear(x[0], weight[0], bias[0]), x[0] @ weight[0] + bias[0])


def test_layers_have_the_given_widths_and_keep_the_variance():
    params = init_mlp("head", (200, 300, 1), generator())
    assert {k: tuple(v.shape) for k, v in params.items()} == {
        "head.0.weight": (200, 300), "head.0.bias": (300,), "head.1.weight": (300, 1), "head.1.bias": (1,)
    }  # fmt: skip
    out = torch.relu(torch.randn(500, 200, generator=generator(1)) @ params["head.0.weight"])
    assert float(out.square().mean()) == pytest.approx(1.0, rel=0.15)


def test_the_catalogues_features_are_kept_with_the_parameters():
    kept = item_features(TABLE)
    assert set(kept) == {"catalogue.genres", "catalogue.age"}
    back = catalogue_features({**kept, "item": torch.zeros(1)})
    wanted = lookup_rows(TABLE, np.arange(4))
    assert torch.equal(back["genres"], wanted["genres"]) and back["age"].shape == (4,)
    assert item_features({}) == {}


def test_fields_of_one_value_are_the_same_gathered_together_or_apart():
    """Many rows read small tables in one gather, single rows each table by itself; gradients too."""
    tables = {f"x.f{i}": torch.randn(5 + i, 3, generator=generator(i)).requires_grad_() for i in range(3)}
    features = {f"f{i}": torch.randint(0, 9, (40, 1), generator=generator(9 + i)) for i in range(3)}
    many = embed_fields(tables, "x", features)
    single = [embed_fields(tables, "x", {k: v[r : r + 1] for k, v in features.items()}) for r in range(40)]
    apart = [torch.cat([row[i] for row in single]) for i in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(many, apart, strict=True))
    assert (many[0][features["f0"][:, 0] == 0] == 0).all()
    weights = torch.randn(40, 3, generator=generator(20))
    for vectors in (many, apart):
        (torch.stack(vectors) * weights).sum().backward()
        gradients = [table.grad for table in tables.values()]
        for table in tables.values():
            table.grad = None
        if vectors is many:
            expected = gradients
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(gradients, expected, strict=True))
