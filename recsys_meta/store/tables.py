"""All tables of the database, of every domain: what migrations compare the database with.

SQLAlchemy knows a table only once its module has been imported, so whoever needs the whole schema takes it from here.
"""

from sqlalchemy import MetaData

from recsys_meta.store.access.tables import ApiKeyRecord, AuditRecord
from recsys_meta.store.database.base import Base
from recsys_meta.store.entities.tables import (
    AdaptationDayRecord,
    AdaptationRecord,
    EntityRecord,
    ErasureRecord,
    EventRecord,
    ExplorationRecord,
    ImpressionRecord,
    NewcomerResultRecord,
    OutcomeDayRecord,
    OutcomeRecord,
    UnsummedDayRecord,
)
from recsys_meta.store.installation.tables import SecretRecord
from recsys_meta.store.items.tables import ItemRecord, ItemRevisionRecord
from recsys_meta.store.model_registry.tables import (
    AlertRecord,
    AliasChangeRecord,
    DefaultModelRecord,
    ModelRecord,
    ModelVersionRecord,
    SplitArmRecord,
    SplitEntityRecord,
)
from recsys_meta.store.tracking.tables import (
    CurriculumRecord,
    EvaluationRecord,
    LatestCurriculumRecord,
    LatestMetricRecord,
    MetricRecord,
    PairedTestRecord,
    RunRecord,
    TuningStudyRecord,
    TuningTrialRecord,
)

RECORDS: tuple[type[Base], ...] = (
    EntityRecord,
    EventRecord,
    AdaptationRecord,
    UnsummedDayRecord,
    OutcomeDayRecord,
    AdaptationDayRecord,
    ErasureRecord,
    ImpressionRecord,
    OutcomeRecord,
    ExplorationRecord,
    NewcomerResultRecord,
    ItemRecord,
    ItemRevisionRecord,
    RunRecord,
    MetricRecord,
    LatestMetricRecord,
    CurriculumRecord,
    LatestCurriculumRecord,
    EvaluationRecord,
    PairedTestRecord,
    TuningStudyRecord,
    TuningTrialRecord,
    ModelRecord,
    ModelVersionRecord,
    AliasChangeRecord,
    SplitArmRecord,
    SplitEntityRecord,
    DefaultModelRecord,
    AlertRecord,
    ApiKeyRecord,
    AuditRecord,
    SecretRecord,
)
"""The mapped class of every table; a test compares them with the modules `store/*/tables.py`."""

METADATA: MetaData = Base.metadata
"""The schema that the tables above make up."""
