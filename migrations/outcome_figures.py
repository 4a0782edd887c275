"""SQL of the figures of outcomes, which the revisions 0015, 0016 and 0019 share; a later revision writes its own.

Events of one entity are not independent, so every variance is that of a ratio of sums over entities: `hits` of
`lists` events that answered a list, and `gain` in loss over `losses` events. `judged` and `compared` say of how many
events the gain, and both rates of hits, are means.
"""


def _count(column: str) -> str:
    return f"CAST(COUNT({column}) AS DOUBLE PRECISION)"


def _sum(column: str) -> str:
    return f"COALESCE(SUM({column}), 0.0)"


PER_ENTITY = f"""
    COUNT(*) AS events,
    {_count("hit_10")} AS lists,
    {_sum("hit_1")} AS hits_1,
    {_sum("hit_5")} AS hits_5,
    {_sum("hit_10")} AS hits,
    {_sum("reciprocal_rank")} AS reciprocal_ranks,
    {_sum("CASE WHEN hit_10 IS NOT NULL THEN popular_hit_10 END")} AS popular_hits,
    {_sum("CASE WHEN popular_hit_10 IS NOT NULL THEN hit_10 END")} AS compared_hits,
    {_count("hit_10 - popular_hit_10")} AS compared,
    {_count("loss_unadapted - loss")} AS losses,
    {_sum("CASE WHEN loss_unadapted IS NOT NULL THEN loss END")} AS loss,
    {_sum("CASE WHEN loss IS NOT NULL THEN loss_unadapted END")} AS loss_unadapted,
    {_sum("loss_unadapted - loss")} AS gain
"""
SUMS = """
    SUM(events) AS events,
    COUNT(entity) AS entities,
    SUM(lists) AS lists,
    SUM(CASE WHEN lists > 0 THEN 1 ELSE 0 END) AS listed_entities,
    SUM(hits_1) AS hits_1,
    SUM(hits_5) AS hits_5,
    SUM(hits) AS hits,
    SUM(reciprocal_ranks) AS reciprocal_ranks,
    SUM(popular_hits) AS popular_hits,
    SUM(compared_hits) AS compared_hits,
    SUM(compared) AS compared,
    SUM(hits * hits) AS hits_hits,
    SUM(hits * lists) AS hits_lists,
    SUM(lists * lists) AS lists_lists,
    SUM(losses) AS losses,
    SUM(CASE WHEN losses > 0 THEN 1 ELSE 0 END) AS judged_entities,
    SUM(loss) AS loss,
    SUM(loss_unadapted) AS loss_unadapted,
    SUM(gain) AS gain,
    SUM(gain * gain) AS gain_gain,
    SUM(gain * losses) AS gain_losses,
    SUM(losses * losses) AS losses_losses
"""


def _variance(top: str, bottom: str, entities: str) -> str:
    """Variance of the ratio of two sums over entities; NULL for fewer than two."""
    squares = (
        f"{top}_{top} - 2 * {top} / {bottom} * {top}_{bottom} + {top} / {bottom} * {top} / {bottom} * {bottom}_{bottom}"
    )
    value = f"({squares}) / ({bottom} * {bottom}) * {entities} / ({entities} - 1)"
    return f"CASE WHEN {entities} > 1 THEN CASE WHEN {squares} > 0 THEN {value} ELSE 0.0 END END"


RATES = f"""
    CAST(events AS BIGINT) AS events, entities, CAST(lists AS BIGINT) AS lists, hits, listed_entities,
    CASE WHEN lists > 0 THEN hits_1 / lists END AS hit_1,
    CASE WHEN lists > 0 THEN hits_5 / lists END AS hit_5,
    CASE WHEN lists > 0 THEN hits / lists END AS hit_10,
    CASE WHEN lists > 0 THEN {_variance("hits", "lists", "listed_entities")} END AS hit_variance,
    CASE WHEN lists > 0 THEN reciprocal_ranks / lists END AS reciprocal_rank,
    CAST(compared AS BIGINT) AS compared,
    CASE WHEN compared > 0 THEN compared_hits / compared END AS compared_hit_10,
    CASE WHEN compared > 0 THEN popular_hits / compared END AS popular_hit_10,
    CAST(losses AS BIGINT) AS judged,
    CASE WHEN losses > 0 THEN loss / losses END AS mean_loss,
    CASE WHEN losses > 0 THEN loss_unadapted / losses END AS mean_loss_unadapted,
    CASE WHEN losses > 0 THEN gain / losses END AS mean_gain,
    CASE WHEN judged_entities >= 10 THEN {_variance("gain", "losses", "judged_entities")} END AS gain_variance
"""
ENOUGH_HITS = "listed_entities >= 10 AND hits >= 5 AND lists - hits >= 5"
FIGURES = f"""
    hit_1,
    hit_5,
    hit_10,
    hit_10 - 1.96 * SQRT(CASE WHEN {ENOUGH_HITS} THEN hit_variance END) AS hit_10_low,
    hit_10 + 1.96 * SQRT(CASE WHEN {ENOUGH_HITS} THEN hit_variance END) AS hit_10_high,
    reciprocal_rank,
    compared,
    compared_hit_10,
    popular_hit_10,
    judged,
    mean_loss AS loss,
    mean_loss_unadapted AS loss_unadapted,
    mean_gain AS gain,
    mean_gain - 1.96 * SQRT(gain_variance) AS gain_low,
    mean_gain + 1.96 * SQRT(gain_variance) AS gain_high
"""
