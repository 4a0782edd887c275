"""Bundles: a trained predictor with all that serving needs, in a content-addressed directory.

    model.safetensors   parameters, and the popularity of items among the training entities
    vocab.parquet       space, id, value: the items and feature values (no ids of entities)
    titles.parquet      item, title: for display, where the data has titles
    bundle.json         predictor and its configuration, schema, digests, metrics, code version, sha256 of the files

The version is the hash of bundle.json, which holds the hashes of all other files: equal content, equal version.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from recsys_meta import __version__
from recsys_meta.core.atomic_io import atomic_directory, dump_checksummed, load_checksummed, sha256
from recsys_meta.core.dataset import Dataset, Vocabulary
from recsys_meta.core.errors import CheckpointError
from recsys_meta.core.schema import Schema
from recsys_meta.core.types import FIRST, IntArray, Params
from recsys_meta.episodes.event_index import EventIndex
from recsys_meta.models.factory import build_predictor, is_known, packages_of
from recsys_meta.models.functional.embeddings import item_features
from recsys_meta.models.functional.item_popularity import distinct_item_counts, item_occurrences
from recsys_meta.models.protocols import Predictor

FORMAT = 1
MEETINGS = "meetings"
"""The key of `about` under which stands how many training entities there were, and how many items each met."""

_POPULARITY = "bundle.popularity"
_QUANTILES = 20  # of the numbers of items that training entities met


@dataclass(frozen=True)
class Bundle:
    """A predictor ready to serve. `popularity` [C]: events of each item among the training entities."""

    predictor: Predictor
    params: Params
    popularity: Tensor
    schema: Schema
    vocab: Vocabulary
    titles: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""


def make_bundle(
    predictor: Predictor,
    params: Params,
    data: Dataset,
    index: EventIndex,
    train: IntArray,
    about: Mapping[str, Any],
) -> Bundle:
    """Make a bundle from a trained predictor. `about` is stored as it is (metrics, run), with the digest of the data.

    The features of items are stored with the parameters even if the predictor does not use them: serving does, to
    filter lists and to describe items.
    """
    entity, item, _ = index.of_entities(train)
    if data.schema.objective in ("ranking", "rating"):
        counts = distinct_item_counts(entity.cpu(), item.cpu(), data.catalogue)
        about = {**about, MEETINGS: {"entities": len(counts), "sizes": _spread(counts)}}
    home = data.schema.home
    # A bundle holds no ids of entities, nor the owners of items.
    spaces = {k: v for k, v in data.vocab.values.items() if k not in ("entity", f"item.{home}")}
    items = item_features({k: v for k, v in data.items.items() if k != home})
    return Bundle(
        predictor=predictor,
        params={k: v.detach().cpu() for k, v in {**items, **params}.items()},
        popularity=item_occurrences(item.cpu(), data.catalogue),
        schema=data.schema,
        vocab=Vocabulary(spaces),
        titles=titles if isinstance(titles := data.about.get("titles"), Mapping) else {},
        about={**about, "data_digest": data.digest},
    )


def _spread(counts: Tensor) -> list[int]:
    """Quantiles of numbers, each standing for an equal share of them."""
    shares = (torch.arange(_QUANTILES) + 0.5) / _QUANTILES
    return counts.sort().values[(shares * len(counts)).long()].tolist() if len(counts) else []


def save_bundle(bundle: Bundle, root: Path) -> Path:
    """Write a bundle under root/<version> and return that path; an intact one that exists already stays.

    Raises CheckpointError where it cannot be written.
    """
    # Clones, because safetensors refuses tensors that share memory.
    tensors = {**bundle.params, _POPULARITY: bundle.popularity}
    files = {
        "model.safetensors": save({k: v.clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}),
        "vocab.parquet": _parquet_bytes(_vocabulary_frame(bundle.vocab)),
    }
    if bundle.titles:
        titles = pd.DataFrame({"item": list(bundle.titles), "title": list(bundle.titles.values())})
        files["titles.parquet"] = _parquet_bytes(titles)
    text = _manifest(bundle, {name: hashlib.sha256(content).hexdigest() for name, content in files.items()})
    target = root / _version(text)
    if not _is_whole(target):
        try:
            with atomic_directory(target) as beside:
                for name, content in files.items():
                    (beside / name).write_bytes(content)
                (beside / "bundle.json").write_text(text, encoding="utf-8")
        except OSError as error:
            raise CheckpointError(f"{target}: the bundle cannot be written: {error.strerror or error}") from None
    return target


def _parquet_bytes(frame: pd.DataFrame) -> bytes:
    stream = io.BytesIO()
    frame.to_parquet(stream, index=False)
    return stream.getvalue()


def _is_whole(path: Path) -> bool:
    try:
        load_bundle(path)
    except CheckpointError:
        return False
    return True


def _manifest(bundle: Bundle, files: Mapping[str, str]) -> str:
    # Names alone: another version of a package does not make equal weights another version.
    packages = packages_of(bundle.predictor)
    return dump_checksummed(
        {
            "format": FORMAT,
            "predictor": bundle.predictor.name,
            "config": bundle.predictor.config.model_dump(mode="json"),
            "schema": bundle.schema.model_dump(mode="json"),
            "code_version": __version__,
            "vocabulary_digest": files["vocab.parquet"],
            "vocabularies": sorted(bundle.vocab.values),
            "about": dict(bundle.about),
            "files": dict(files),
            **({"packages": packages} if packages else {}),
        }
    )


def _version(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_bundle(path: Path, verify: bool = True) -> Bundle:
    """Read a bundle; with `verify` the hash of every file is checked. Raises CheckpointError when a file is missing,
    damaged or of another format, or a package that it needs is not installed, ConfigError for an unknown predictor, one
    that cannot be used, or a wrong configuration of it."""
    try:
        text = (path / "bundle.json").read_text(encoding="utf-8")
        about = load_checksummed(text)
        if about["format"] != FORMAT:
            raise CheckpointError(f"{path}: bundle format {about['format']}, this version reads {FORMAT}")
        for name, digest in about["files"].items() if verify else ():
            if sha256(path / name) != digest:
                raise CheckpointError(f"{path / name}: damaged (its hash differs); publish the run again")
        params = load_file(path / "model.safetensors")
        vocab = _read_vocabulary(pd.read_parquet(path / "vocab.parquet"), about["vocabularies"])
        titles = _read_titles(path / "titles.parquet") if "titles.parquet" in about["files"] else {}
        schema = Schema.model_validate(about["schema"])
        _require_packages(path, about.get("packages", {}))
        predictor = build_predictor(about["predictor"], about["config"])
        popularity = params.pop(_POPULARITY)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a whole bundle ({type(error).__name__}: {error})") from None
    return Bundle(predictor, params, popularity, schema, vocab, titles, about["about"], _version(text))


def _require_packages(path: Path, packages: Mapping[str, str]) -> None:
    """Raise CheckpointError where a package that registers a learner or baseline of the bundle is not installed."""
    missing = {name: package for name, package in packages.items() if not is_known(name)}
    if missing:
        names, owners = ", ".join(sorted(missing)), ", ".join(sorted({*missing.values()}))
        raise CheckpointError(
            f"{path}: {names}: registered by the package {owners}, which is not installed here; install it and load "
            "the model again"
        )


def _vocabulary_frame(vocab: Vocabulary) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"space": space, "id": range(FIRST, FIRST + len(values)), "value": values.astype("str")})
        for space, values in sorted(vocab.values.items())
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"space": [], "id": [], "value": []})


def _read_vocabulary(frame: pd.DataFrame, spaces: Sequence[str]) -> Vocabulary:
    """Vocabulary of a frame; `spaces` lists all id spaces, as one without values has no row in the frame."""
    groups = frame.sort_values(["space", "id"]).groupby("space", sort=True)["value"]
    values_by_space = {str(space): pd.Index(values, dtype="str") for space, values in groups}
    return Vocabulary({space: values_by_space.get(space, pd.Index([], dtype="str")) for space in spaces})


def _read_titles(path: Path) -> dict[str, str]:
    frame = pd.read_parquet(path)
    # As lists: iterating over an Arrow column takes twenty times as long.
    return dict(zip(frame["item"].astype(str).tolist(), frame["title"].astype(str).tolist(), strict=True))


def popular_scores(bundle: Bundle) -> Tensor:
    """Scores [C] by popularity among training entities, ties by id: the fallback when no predictor can answer."""
    return torch.log1p(bundle.popularity)
