"""A small world, a recipe, a space and trials, for the tests of tuning."""

from datetime import UTC, datetime

from recsys_meta.store.tracking.tables import TuningStudyRecord, TuningTrialRecord
from recsys_meta.training.recipe import recipe_of

SPACE = {
    "config": {"dims": {"low": 2, "high": 16, "log": True}, "dropout": {"low": 0.0, "high": 0.8}},
    "train.rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "episodes.draw": {"values": ["log", "uniform"]},
}


def small_recipe(**parts):
    raw = {
        "name": "small",
        "learner": "flagship",
        "config": {"dims": 4, "towers": 1, "memories": []},
        "train": {"most_steps": 4, "validate_steps": 2, "tasks": 8, "validate_entities": 20},
    }
    return recipe_of({**raw, **parts})


def study_record(direction="maximize", trials=30) -> TuningStudyRecord:
    return TuningStudyRecord(name="s", direction=direction, metric="ndcg@10", trials=trials, settings={})


def trial(number, params, status="finished", value=None, course=None, **more) -> TuningTrialRecord:
    now = datetime.now(UTC)
    course = course or ([value] if value is not None else [])
    return TuningTrialRecord(
        study="s", number=number, params=params, status=status, value=value, origin="sampler", steps=0, reason=None,
        validations={str(i): v for i, v in enumerate(course, 1)},
        **{"worker": "w", "started": now, "heartbeat": now, "finished": None, **more},
    )  # fmt: skip
