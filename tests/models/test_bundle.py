import json
import random
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from recsys_meta.core.atomic_io import dump_checksummed
from recsys_meta.core.dataset import Vocabulary
from recsys_meta.core.errors import CheckpointError, ConfigError
from recsys_meta.core.schema import FeatureField
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.evaluation.cold_start import episodes_at
from recsys_meta.models.bundle import load_bundle, make_bundle, popular_scores, save_bundle
from recsys_meta.models.factory import build_predictor
from tests.fixtures.power_cut import each_cut
from tests.fixtures.simulated_datasets import ranking_world
from tests.fixtures.small_datasets import same, tiny


@pytest.fixture(scope="module")
def world():
    data = ranking_world(entities=50, items=24, rows=8)
    return data, EventIndex.of(data)


@pytest.fixture(scope="module")
def bundle(world):
    data, index = world
    learner, train = tiny(negatives=6), np.arange(40)
    params = learner.init(data, train, torch.Generator().manual_seed(0))
    titles = {"i0": "The Général", "i3": "日本"}
    made = make_bundle(learner, params, data, index, train, {"metrics": {"ndcg@10": 0.25, "steps": 3}})
    return replace(made, titles=titles)


def scores(bundle, data, index):
    body = bundle.predictor.body(bundle.params)
    batch = episodes_at(data, index, np.arange(40, 50), 3)
    state = bundle.predictor.adapt(body, batch.support)
    return bundle.predictor.rank(body, state), bundle.predictor.score(body, state, batch.query)


def test_what_was_saved_scores_the_same(bundle, world, tmp_path):
    path = save_bundle(bundle, tmp_path / "models")
    back = load_bundle(path)
    assert back.version == path.name and len(back.version) == 16
    assert same(back.params, bundle.params) and torch.equal(back.popularity, bundle.popularity)
    assert all(torch.equal(a, b) for a, b in zip(scores(back, *world), scores(bundle, *world), strict=True))
    assert (back.schema, back.predictor, back.titles) == (bundle.schema, bundle.predictor, bundle.titles)
    assert back.about == {**bundle.about, "data_digest": "ranking-world"}
    assert back.vocab.values.keys() == bundle.vocab.values.keys()
    assert all(back.vocab.values[s].equals(bundle.vocab.values[s]) for s in back.vocab.values)


def test_what_was_loaded_is_published_under_the_same_version(bundle, tmp_path):
    path = save_bundle(bundle, tmp_path / "run")
    assert save_bundle(load_bundle(path), tmp_path / "models").name == path.name


def test_equal_content_has_an_equal_version_and_other_content_another(bundle, tmp_path):
    first = save_bundle(bundle, tmp_path)
    again = replace(bundle, params=dict(reversed([(k, v.clone()) for k, v in bundle.params.items()])))
    assert save_bundle(again, tmp_path) == first
    nudged = dict(bundle.params)
    nudged["item"] = nudged["item"].clone()
    nudged["item"][5, 0] = torch.nextafter(nudged["item"][5, 0], torch.tensor(9.0))
    others = [
        replace(bundle, params=nudged),
        replace(bundle, popularity=bundle.popularity + 1),
        replace(bundle, titles={}),
        replace(bundle, about={**bundle.about, "metrics": {"ndcg@10": 0.26}}),
        replace(bundle, schema=bundle.schema.model_copy(update={"positive": 4.0})),
        replace(bundle, predictor=tiny(negatives=6, steps=2)),
        replace(bundle, vocab=Vocabulary({**bundle.vocab.values, "item": bundle.vocab.values["item"][::-1]})),
    ]
    versions = {save_bundle(other, tmp_path).name for other in others}
    assert len(versions) == len(others) and first.name not in versions


def test_no_entity_is_named_in_it_and_popularity_is_of_training_entities_only(bundle, world, tmp_path):
    data, index = world
    path = save_bundle(bundle, tmp_path)
    assert "entity" not in load_bundle(path).vocab.values
    assert not set(pd.read_parquet(path / "vocab.parquet")["value"]) & set(data.vocab.values["entity"])
    counted = np.bincount(index.item[: int(index.indptr[40])].numpy(), minlength=data.catalogue)
    counted[:2] = 0
    assert bundle.popularity.tolist() == counted.tolist()
    assert torch.equal(popular_scores(bundle).argsort(stable=True), bundle.popularity.argsort(stable=True))


def test_a_feature_none_of_whose_values_was_kept_is_still_known(bundle, tmp_path):
    values = {**bundle.vocab.values, "entity.rare": pd.Index([], dtype="str")}
    fields = (*bundle.schema.entity_features, FeatureField(name="rare"))
    made = replace(
        bundle, vocab=Vocabulary(values), schema=bundle.schema.model_copy(update={"entity_features": fields})
    )
    back = load_bundle(save_bundle(made, tmp_path))
    assert back.vocab.ids("entity.rare", ["x"]).tolist() == [1] and back.vocab.size("entity.rare") == 2
    empty = replace(bundle, vocab=Vocabulary({"item": pd.Index([], dtype="str")}))
    assert load_bundle(save_bundle(empty, tmp_path)).vocab.size("item") == 2


FILES = ["model.safetensors", "vocab.parquet", "titles.parquet", "bundle.json"]


@pytest.mark.parametrize("name", FILES)
def test_any_flipped_byte_in_any_file_is_noticed(bundle, tmp_path, name):
    path = save_bundle(bundle, tmp_path) / name
    assert sorted(p.name for p in path.parent.iterdir()) == sorted(FILES)
    content = path.read_bytes()
    places = {0, len(content) - 1, *random.Random(0).sample(range(len(content)), 40)}
    for at in places:
        path.write_bytes(content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :])
        with pytest.raises(CheckpointError, match=path.parent.name):
            load_bundle(path.parent)
    for cut in (b"", content[:-1], content + b" "):
        path.write_bytes(cut)
        with pytest.raises(CheckpointError):
            load_bundle(path.parent)
    path.unlink()
    with pytest.raises(CheckpointError):
        load_bundle(path.parent)
    path.write_bytes(content)
    assert load_bundle(path.parent).version == path.parent.name


def test_no_bundle_at_all_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="not a whole bundle"):
        load_bundle(tmp_path / "none")


def rewritten(path, **change):
    about = json.loads((path / "bundle.json").read_text())
    del about["seal"]
    (path / "bundle.json").write_text(dump_checksummed({**about, **change}))
    return path


def test_another_format_and_an_unknown_predictor_are_named(bundle, tmp_path):
    path = save_bundle(bundle, tmp_path)
    with pytest.raises(CheckpointError, match="bundle format 99"):
        load_bundle(rewritten(path, format=99))
    with pytest.raises(ConfigError, match=r"no learner or baseline 'oracle'; there are .*maml"):
        load_bundle(rewritten(path, format=1, predictor="oracle"))
    with pytest.raises(ConfigError, match="configuration of 'maml': colour"):
        load_bundle(rewritten(path, predictor="maml", config={"colour": 1}))


def test_a_baseline_is_saved_and_loaded_too(world, tmp_path):
    data, index = world
    made = build_predictor("itemknn", {})
    bundle = make_bundle(made, made.fit(data, np.arange(40)), data, index, np.arange(40), {})
    back = load_bundle(save_bundle(bundle, tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(scores(back, *world), scores(bundle, *world), strict=True))


def test_one_that_is_there_stays_and_a_damaged_one_is_mended(bundle, tmp_path):
    path = save_bundle(bundle, tmp_path)
    before = (path / "bundle.json").stat().st_mtime_ns
    save_bundle(bundle, tmp_path)
    assert (path / "bundle.json").stat().st_mtime_ns == before
    (path / "model.safetensors").write_bytes(b"")
    assert save_bundle(bundle, tmp_path) == path
    assert load_bundle(path).version == path.name
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_power_cut_at_any_operation_leaves_none_or_a_whole_one(bundle, tmp_path, monkeypatch):
    met = set()
    for n in each_cut(monkeypatch, lambda n: save_bundle(bundle, tmp_path / str(n))):
        found = [p for p in (tmp_path / str(n)).iterdir() if not p.name.startswith(".")]
        met.add(len(found))
        for path in found:
            load_bundle(path)
        load_bundle(save_bundle(bundle, tmp_path / str(n)))
        shutil.rmtree(tmp_path / str(n))
    assert met == {0, 1}


def test_tensors_that_share_memory_are_saved(bundle, tmp_path):
    shared = {**bundle.params, "twin": bundle.params["item"], "view": bundle.params["item"].T}
    back = load_bundle(save_bundle(replace(bundle, params=shared), tmp_path))
    assert torch.equal(back.params["twin"], bundle.params["item"])
    assert torch.equal(back.params["view"], bundle.params["item"].T)


def test_nothing_in_a_bundle_is_a_pickle(bundle, tmp_path):
    path = save_bundle(bundle, tmp_path)
    starts = {p.name: p.read_bytes()[:12] for p in path.iterdir()}
    assert starts["vocab.parquet"][:4] == starts["titles.parquet"][:4] == b"PAR1"
    assert starts["model.safetensors"][8:9] == b"{" and starts["bundle.json"][:1] == b"{"


def test_no_module_of_the_project_imports_pickle():
    from pathlib import Path

    import recsys_meta

    for file in Path(recsys_meta.__file__).parent.rglob("*.py"):
        text = file.read_text()
        assert "import pickle" not in text and "torch.load(" not in text and "torch.save(" not in text, file
