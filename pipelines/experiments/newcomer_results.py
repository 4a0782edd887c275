"""Results of single newcomers of a comparison: all of them as Parquet, and a sample as rows for SQL."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.experiments.comparison import Comparison, MethodCurves
from recsys_meta.core.atomic_io import atomic_file
from recsys_meta.core.types import FloatArray, IntArray
from recsys_meta.metrics.bootstrap import Values
from recsys_meta.metrics.pooled_metrics import RowSample, entity_means
from recsys_meta.metrics.ranking_metrics import LOWER_IS_BETTER
from recsys_meta.store.entities.newcomer_results import NewNewcomerResult

MOST_RANDOM, MOST_WORST = 200, 50
"""Newcomers of a comparison in SQL: a random sample for averages, and those of each point that gained least from
adapting; shared by the seeds."""

SCHEMA = pa.schema(
    [
        ("scenario", pa.dictionary(pa.int32(), pa.string())),
        ("entity", pa.int64()),
        ("seed", pa.int64()),
        ("shots", pa.int64()),
        ("method", pa.dictionary(pa.int32(), pa.string())),
        ("metric", pa.dictionary(pa.int32(), pa.string())),
        ("value", pa.float64()),
        ("support_size", pa.int64()),
        ("popularity", pa.float64()),
        ("features_known", pa.int64()),
    ]
)
"""Columns of the Parquet file. `entity` is the number of the entity in the prepared data set, not its id, so that the
file names nobody; for RMSE `value` is the mean square."""


def write_newcomer_results(results: Sequence[Comparison], seed: int, path: Path) -> int:
    """Write the result of every newcomer of one seed, for all methods, points and metrics; return the number of rows.

    The file holds the digest of the data set among its metadata, by which the numbers of entities are understood.
    """
    count = 0
    data = next(result.newcomers[seed].data for result in results)
    schema = SCHEMA.with_metadata({"dataset": data.schema.name, "data_digest": data.digest})
    with atomic_file(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for result in results:
            for table in _tables(result, seed):
                writer.write_table(table.cast(schema))
                count += table.num_rows
    return count


def _tables(result: Comparison, seed: int) -> Iterator[pa.Table]:
    newcomers = result.newcomers[seed]
    known = newcomers.features_known
    for method in result.methods:
        for shots in result.shots if seed in method.curves else ():
            support = newcomers.support[shots]
            for metric in result.metrics:
                values = _values(metric, method.curves[seed].values[shots][metric], newcomers.entities)
                measured = np.flatnonzero(~np.isnan(values)) if values is not None else ()
                if values is None or not len(measured):
                    continue
                names = {"scenario": result.scenario, "method": method.name, "metric": metric}
                numbers = {"seed": seed, "shots": shots}
                columns = {
                    "entity": newcomers.entities[measured],
                    "value": values[measured],
                    "support_size": support.size[measured],
                    "popularity": pa.array(support.popularity[measured], from_pandas=True),
                    "features_known": known[measured],
                }
                columns |= {name: pa.repeat(value, len(measured)) for name, value in (names | numbers).items()}
                yield pa.table({name: columns[name] for name in SCHEMA.names})


def sampled_results(result: Comparison) -> list[NewNewcomerResult]:
    """Return the results of a bounded number of newcomers: of the first learner, in the first metric, at each point.

    The random ones are the same at every point. Empty without a description of the newcomers, without a learner, or for
    a metric that no single newcomer has.
    """
    learner = next((m for m in result.methods if m.role != "baseline"), None)
    seeds = [] if learner is None else [s for s in learner.curves if s in result.newcomers]
    rows: list[NewNewcomerResult] = []
    for seed in seeds:
        newcomers = result.newcomers[seed]
        count = len(newcomers.entities)
        random = np.random.default_rng(seed).permutation(count)[: math.ceil(MOST_RANDOM / len(seeds))]
        is_random = np.zeros(count, bool)
        is_random[random] = True
        for shots in result.shots:
            assert learner is not None
            rows += _rows_of_point(result, learner, seed, shots, is_random, math.ceil(MOST_WORST / len(seeds)))
    return rows


def _rows_of_point(
    result: Comparison, learner: MethodCurves, seed: int, shots: int, is_random: np.ndarray, most_worst: int
) -> Iterator[NewNewcomerResult]:
    metric, newcomers = result.metrics[0], result.newcomers[seed]
    plain = next((m for m in result.methods if m.name == f"{learner.name}-unadapted"), None)
    best = result.best_baseline(shots, metric)
    value, unadapted, baseline = (
        _of_method(method, seed, shots, metric, newcomers.entities) for method in (learner, plain, best)
    )
    gain = (unadapted - value) if metric in LOWER_IS_BETTER else (value - unadapted)
    order = np.argsort(gain, kind="stable")  # what is not a number comes last
    place = np.empty(len(gain), np.int64)
    place[order] = np.arange(1, len(gain) + 1)
    is_known = np.isfinite(gain)
    support, known = newcomers.support[shots], newcomers.features_known
    kept = np.isfinite(value) & (is_random | (is_known & (place <= most_worst)))
    for i in map(int, np.flatnonzero(kept)):
        yield NewNewcomerResult(
            result.dataset,
            result.scenario,
            learner.name,
            seed,
            newcomers.data.schema.kind,
            newcomers.entity_id(i),
            metric,
            shots,
            float(value[i]),
            _finite(unadapted[i]),
            _finite(baseline[i]),
            _finite(gain[i]),
            int(place[i]) if is_known[i] else None,
            bool(is_random[i]),
            int(support.size[i]),
            _finite(support.popularity[i]),
            int(known[i]),
            newcomers.feature_values(i),
        )


def _of_method(method: MethodCurves | None, seed: int, shots: int, metric: str, entities: IntArray) -> FloatArray:
    """Values [n] of a method; not a number where it has none."""
    values = None if method is None else _values(metric, method.curves[seed].values[shots][metric], entities)
    return np.full(len(entities), np.nan) if values is None else values


def _values(metric: str, values: Values, entities: IntArray) -> FloatArray | None:
    """Value of each entity [n]; None for a metric that no single entity has."""
    return entity_means(metric, values, entities) if isinstance(values, RowSample) else np.asarray(values, np.float64)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
