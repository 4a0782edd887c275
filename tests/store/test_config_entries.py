"""Places for new items as a setting: what is read, and what is refused."""

import pytest

from recsys_meta.core.errors import ConfigError
from recsys_meta.inference.ranking.fresh_slots import FreshPolicy
from recsys_meta.store.config_entries import parse_fresh_policies


def test_policies_are_read_by_model():
    assert parse_fresh_policies("") == {}
    assert parse_fresh_policies("films:slots=2, shop:share=0.1:events=50") == {
        "films": FreshPolicy(slots=2),
        "shop": FreshPolicy(share=0.1, events=50),
    }


@pytest.mark.parametrize(
    "policy",
    [
        "",
        "slots",
        "slots=-1",
        "slots=1.5",
        "share=1.1",
        "share=nan",
        "slots=1:share=0.1",
        "events=5",
        "slots=1:events=0",
    ],
)
def test_a_wrong_policy_is_named(policy):
    with pytest.raises(ConfigError, match=r"RECSYS_META_FRESH: 'films:.*slots=N or share=S"):
        parse_fresh_policies(f"films:{policy}")


@pytest.mark.parametrize("entries", [":slots=1", "films:slots=1,films:slots=2"])
def test_each_model_has_one_policy(entries):
    with pytest.raises(ConfigError, match="once for each model"):
        parse_fresh_policies(entries)
