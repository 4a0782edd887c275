"""Views of outcomes: online quality by day, and the arms of each split side by side.

Revises: 0011
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def _count(column: str) -> str:
    return f"CAST(COUNT({column}) AS DOUBLE PRECISION)"


def _sum(column: str) -> str:
    return f"COALESCE(SUM({column}), 0.0)"


# Events of one entity are not independent, so every variance is that of a ratio of sums over entities: `hits` of
# `lists` events that answered a list, and `gain` in loss over `losses` events.
PER_ENTITY = f"""
    COUNT(*) AS events,
    {_count("hit_10")} AS lists,
    {_sum("hit_1")} AS hits_1,
    {_sum("hit_5")} AS hits_5,
    {_sum("hit_10")} AS hits,
    {_sum("reciprocal_rank")} AS reciprocal_ranks,
    {_sum("popular_hit_10")} AS popular_hits,
    {_count("popular_hit_10")} AS popular_lists,
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
    SUM(popular_lists) AS popular_lists,
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
    CASE WHEN lists > 0 THEN hits_1 / lists END AS hit_1,
    CASE WHEN lists > 0 THEN hits_5 / lists END AS hit_5,
    CASE WHEN lists > 0 THEN hits / lists END AS hit_10,
    CASE WHEN lists > 0 THEN {_variance("hits", "lists", "listed_entities")} END AS hit_variance,
    CASE WHEN lists > 0 THEN reciprocal_ranks / lists END AS reciprocal_rank,
    CASE WHEN popular_lists > 0 THEN popular_hits / popular_lists END AS popular_hit_10,
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
    popular_hit_10,
    mean_loss AS loss,
    mean_loss_unadapted AS loss_unadapted,
    mean_gain AS gain,
    mean_gain - 1.96 * SQRT(gain_variance) AS gain_low,
    mean_gain + 1.96 * SQRT(gain_variance) AS gain_high
"""

ONLINE_KEYS = "day, model, model_version, variant, kind, support_size"
ONLINE_QUALITY = f"""
CREATE VIEW online_quality AS
WITH per_entity AS (
    SELECT {ONLINE_KEYS}, entity, {PER_ENTITY} FROM outcomes GROUP BY {ONLINE_KEYS}, entity
), sums AS (
    SELECT {ONLINE_KEYS}, {SUMS} FROM per_entity GROUP BY {ONLINE_KEYS}
), rates AS (
    SELECT {ONLINE_KEYS}, CAST(events AS BIGINT) AS events, entities, CAST(lists AS BIGINT) AS lists,
        hits, listed_entities, {RATES}
    FROM sums
)
SELECT {ONLINE_KEYS}, events, entities, lists, {FIGURES} FROM rates
"""  # noqa: S608 (of constants)

# The difference of each arm to the first one, with a 95% confidence sequence (Robbins' normal mixture, the boundary of
# the mixture sequential probability ratio test): it holds at all times at once, so that it may be looked at each day.
# 0.01 is the square of the typical effect that the mixture is made for, ten hits in a hundred. Several arms share
# the 5% of errors, `arms` of them beside the first. An arm's variance is at least that of independent events at the
# rate of both arms (`share` is rate * (1 - rate)): one without a hit is not sure of that rate.
SPLIT_KEYS = "model, sequence, place"


def _arm_variance(arm: str) -> str:
    return f"CASE WHEN {arm}_variance > share / {arm}_lists THEN {arm}_variance ELSE share / {arm}_lists END"


SPLIT_RESULTS = f"""
CREATE VIEW split_results AS
WITH periods AS (
    SELECT
        model, sequence, place, label, version AS model_version, weight, at AS started,
        (
            SELECT MIN(later.at) FROM splits AS later
            WHERE later.model = splits.model AND later.sequence = splits.sequence + 1
        ) AS ended
    FROM splits
    WHERE version IS NOT NULL
), per_entity AS (
    SELECT periods.model, periods.sequence, periods.place, outcomes.entity, {PER_ENTITY}
    FROM periods
    LEFT JOIN outcomes ON outcomes.model = periods.model AND outcomes.model_version = periods.model_version
        AND outcomes.variant = periods.label AND outcomes.created >= periods.started
        AND (periods.ended IS NULL OR outcomes.created < periods.ended)
    GROUP BY periods.model, periods.sequence, periods.place, outcomes.entity
), sums AS (
    SELECT {SPLIT_KEYS}, {SUMS} FROM per_entity GROUP BY {SPLIT_KEYS}
), rates AS (
    SELECT
        {SPLIT_KEYS}, CASE WHEN entities > 0 THEN CAST(events AS BIGINT) ELSE 0 END AS events, entities,
        CAST(lists AS BIGINT) AS lists, hits, listed_entities, {RATES}
    FROM sums
), pairs AS (
    SELECT
        arm.model, arm.sequence, arm.place,
        arm.hit_10 - first.hit_10 AS difference,
        arm.lists AS arm_lists, arm.hit_variance AS arm_variance,
        first.lists AS first_lists, first.hit_variance AS first_variance,
        (arm.hits + first.hits) / (arm.lists + first.lists)
            * (1 - (arm.hits + first.hits) / (arm.lists + first.lists)) AS share,
        (SELECT MAX(place) FROM periods WHERE model = arm.model AND sequence = arm.sequence) AS arms
    FROM rates AS arm
    JOIN rates AS first ON first.model = arm.model AND first.sequence = arm.sequence AND first.place = 0
    WHERE arm.place > 0 AND arm.listed_entities >= 30 AND first.listed_entities >= 30
        AND arm.hits + first.hits >= 10 AND arm.lists + first.lists - arm.hits - first.hits >= 10
), differences AS (
    SELECT
        model, sequence, place, difference, arms, {_arm_variance("arm")} + {_arm_variance("first")} AS variance
    FROM pairs
), tests AS (
    SELECT
        model, sequence, place, difference,
        SQRT(
            variance * (variance + 0.01) / 0.01
            * (2 * LN(arms / 0.05) + LN((variance + 0.01) / variance))
        ) AS margin,
        LN(CAST(arms AS DOUBLE PRECISION)) + 0.5 * LN((variance + 0.01) / variance)
            - 0.01 * difference * difference / (2 * variance * (variance + 0.01)) AS log_p
    FROM differences
)
SELECT
    periods.model, periods.sequence, periods.label, periods.model_version, periods.weight, periods.started,
    periods.ended, events, entities, lists, {FIGURES},
    difference,
    difference - margin AS difference_low,
    difference + margin AS difference_high,
    CASE WHEN log_p >= 0 THEN 1.0E0 WHEN log_p < -700 THEN 0.0E0 WHEN log_p < 0 THEN EXP(log_p) END AS p,
    CASE
        WHEN rates.place = 0 THEN 'reference'
        WHEN margin IS NULL THEN 'too few'
        WHEN difference > margin THEN 'better'
        WHEN difference < -margin THEN 'worse'
        ELSE 'open'
    END AS verdict
FROM rates
JOIN periods ON periods.model = rates.model AND periods.sequence = rates.sequence AND periods.place = rates.place
LEFT JOIN tests ON tests.model = rates.model AND tests.sequence = rates.sequence AND tests.place = rates.place
"""  # noqa: S608 (of constants)


def upgrade() -> None:
    op.execute(ONLINE_QUALITY)
    op.execute(SPLIT_RESULTS)


def downgrade() -> None:
    op.execute("DROP VIEW split_results")
    op.execute("DROP VIEW online_quality")
