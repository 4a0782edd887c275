"""Hardness and weights of a curriculum's buckets, as rows of the table `curriculum` written in bulk."""

from collections.abc import Iterable, Sequence

from sqlalchemy.orm import Session

from recsys_meta.store.database.bulk_insert import in_chunks
from recsys_meta.store.tracking.runs import CurriculumPoint, log_curriculum
from recsys_meta.training.curricula import HardnessBucket


def curriculum_points(run: str, step: int, buckets: Iterable[HardnessBucket]) -> list[CurriculumPoint]:
    """Return the rows of one step: `hardness` of a bucket, NaN if unknown, and its share of the meta-batch."""
    return [CurriculumPoint(run, step, b.name, b.hardness, b.weight) for b in buckets]


def save_curriculum(session: Session, run: str, steps: Sequence[tuple[int, Sequence[HardnessBucket]]]) -> int:
    """Write the buckets of many steps, replacing those written before; return the number of rows."""
    rows = [point for step, buckets in steps for point in curriculum_points(run, step, buckets)]
    for chunk in in_chunks(rows):
        log_curriculum(session, chunk)
    return len(rows)
