"""Adapted states as bytes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_meta.inference.requests.entity import EntityRequest, Interaction
from recsys_meta.inference.state_codec import dump_state, load_state, quantize, round_coarse
from tests.fixtures import trained_recommenders as served
from tests.fixtures.small_datasets import same
from tests.fixtures.trained_recommenders import EVENTS


@pytest.fixture(scope="module")
def model():
    return served.ranking()


@pytest.fixture(scope="module")
def liking():
    return served.liking()


@given(events=EVENTS)
def test_a_state_survives_the_wire(liking, events):
    state = liking.adapt([liking.read_support(EntityRequest(events=events))])
    back = load_state(dump_state(state), state)
    assert same(back, state)


def test_a_slice_of_many_states_is_no_bigger_than_one(model):
    known = [model.read_support(EntityRequest(events=[Interaction(f"i{i}")])) for i in range(20)]
    many = model.adapt(known)
    one = {k: v[3:4] for k, v in many.items()}
    assert quantize(many)[1][3] == dump_state(one)
    raw = dump_state({**one, "twin": one["z"], "turned": one["z"].T})
    assert len(raw) < 1000
    assert torch.equal(load_state(raw)["z"], one["z"]) and torch.equal(load_state(raw)["turned"], one["z"].T)


@given(events=EVENTS)
def test_a_state_is_rounded_the_same_way_whether_or_not_it_is_serialized(liking, events):
    state = liking.adapt([liking.read_support(EntityRequest(events=events))])
    fresh = {name: leaf + 0.1 if leaf.is_floating_point() else leaf for name, leaf in state.items()}
    coarse = [name for name, leaf in fresh.items() if leaf.is_floating_point()]
    assert coarse and same(round_coarse(fresh, coarse), quantize(fresh, coarse)[0])


@given(st.binary(max_size=80))
def test_garbage_is_no_state(content):
    assert load_state(content) is None


def test_a_state_with_more_behind_it_is_none(model):
    state = model.adapt([model.read_support(EntityRequest(events=[Interaction("i1")]))])
    assert load_state(dump_state(state) + b"x") is None


@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_state_is_none_or_fits(model, data):
    """Flipped or cut bytes never raise; what still reads has the same leaves, types and dimensions."""
    state = model.adapt([model.read_support(EntityRequest(events=[Interaction("i1")]))])
    raw = bytearray(dump_state(state))
    at = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        raw = raw[:at]
    else:
        raw[at] ^= data.draw(st.integers(1, 255))
    back = load_state(bytes(raw), state)
    if back is not None:
        assert {k: (v.dtype, v.dim()) for k, v in back.items()} == {k: (v.dtype, v.dim()) for k, v in state.items()}


def test_a_state_of_another_model_does_not_fit(model):
    state = model.adapt([model.read_support(EntityRequest())])
    assert load_state(dump_state({"other": state["z"]}), state) is None
    assert load_state(dump_state({"z": state["z"].double()}), state) is None
    assert load_state(dump_state({"z": state["z"][0]}), state) is None


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40), st.integers(1, 3))
def test_what_is_rounded_stays_as_it_is(values, rows):
    """Cached once or ten times, an answer is the same; and no number is off by more than its row's step."""
    leaf = torch.tensor(values).repeat(1, rows, 1)
    once, (raw,) = quantize({"z": leaf, "n": torch.tensor([3])}, {"z"})
    assert same(quantize(once, {"z"})[0], once) and quantize(once, {"z"})[1] == [raw]
    assert same(load_state(raw), once)
    assert same(load_state(dump_state(once, {"z"})), once)
    assert same(load_state(dump_state({"z": leaf}, {"z"})), {"z": once["z"]})
    step = leaf.abs().amax(-1, keepdim=True) / 126 + 1e-37  # below, a float32 loses its digits
    assert bool(((once["z"] - leaf).abs() <= step).all())


@given(st.lists(st.integers(-(2**62), 2**62), max_size=20))
def test_whole_numbers_are_kept_whatever_their_size(values):
    state = {"item": torch.tensor([values], dtype=torch.int64), "mask": torch.tensor([[True, False]])}
    assert same(load_state(dump_state(state)), state)


def test_small_numbers_take_few_bytes():
    ids = {"item": torch.arange(20)[None] + 3000, "size": torch.tensor([20])}
    assert len(dump_state(ids)) < 80
    assert len(dump_state({"z": torch.randn(1, 3, 65)}, {"z"})) < 230


def test_a_strange_type_is_refused():
    with pytest.raises(ValueError, match="'z' is of type"):
        dump_state({"z": torch.zeros(1, dtype=torch.complex64)})
