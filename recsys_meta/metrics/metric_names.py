"""Names of the metrics, by objective, and which of them are losses."""

from __future__ import annotations

from recsys_meta.core.errors import ConfigError

RANKING = ("ndcg@10", "recall@20", "mrr", "hit@10")
RATING = ("rmse", "mae", "ndcg@5")
CLICK = ("logloss", "auc", "ece")
CHOICE = (
    "hit@10", "hit@5", "ndcg@10", "ndcg@5", "mrr",
    "new_hit@10", "new_hit@5", "new_ndcg@10", "new_ndcg@5",
    "macro_hit@10", "macro_new_hit@10",
)  # fmt: skip
"""Means over query rows; `new_` over rows whose item their actor had not taken before; `macro_` over entities."""
NEW_ITEMS = ("ndcg@20", "recall@20", "ndcg@10", "share@10")
"""Of lists of new items; `share@10` is hits among the first ten over the most that there could be."""
METRICS = frozenset({*NEW_ITEMS, *RANKING, *RATING, *CLICK, *CHOICE})
LOWER_IS_BETTER = frozenset({"rmse", "mae", "logloss", "ece"})


def require_metric(metric: str, metrics: frozenset[str] = METRICS) -> None:
    """Raise ConfigError, with the names there are, for a metric that is not among `metrics`."""
    if metric not in metrics:
        raise ConfigError(f"no metric '{metric}' here; there are {', '.join(sorted(metrics))}")
