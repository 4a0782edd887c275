"""What the conformance suite runs each learner with, and the smallest useful training."""

from __future__ import annotations

from functools import cache
from typing import Any

from recsys_meta.evaluation.cold_start import cold_start
from recsys_meta.evaluation.conformance.learner_case import WORLDS, LearnerCase, generator, make_learner_case
from recsys_meta.evaluation.conformance.learner_case import copy_tensors as own
from recsys_meta.evaluation.conformance.learner_case import draw_batch as episodes
from recsys_meta.evaluation.conformance.learner_case import train_briefly as train
from recsys_meta.evaluation.conformance.learner_case import trainable_copies as trainable
from recsys_meta.models.learners import LEARNERS

__all__ = ["CASES", "CONFIGS", "NAMES", "case_of", "curve", "episodes", "generator", "own", "train", "trainable"]

MLP = {"hidden": (16, 16), "combine": "concat", "dims": 8, "rate": 0.1}
ALL = {"adapts": "all", "dims": 8, "steps": 2, "rate": 0.1}

BASED = {"objective": "click", "dims": 8, "hidden": (16, 16), "base_epochs": 6, "base_rate": 1e-2}

DIN = {"dims": 8, "attention": 8, "hidden": (16,), "context_dims": 4, "rate": 0.05}
DIN_ENTITY = {**DIN, "entity_dims": 4, "rate": 1.0}

# One line for each shape of a learner that is worth testing. A learner without lines runs as it comes.
CONFIGS: dict[str, dict[str, dict[str, Any]]] = {
    "maml": {
        "dot": {"dims": 8},
        "dot-first-order": {"dims": 8, "order": 1, "steps": 2},
        "dot-sampled": {"dims": 8, "negatives": 20},
        "dot-rating": {"dims": 8, "rate": 0.1, "objective": "rating"},
        "dot-click": {"dims": 8, "rate": 0.1, "objective": "click"},
        "dot-all": ALL,
        "dot-all-rating": {**ALL, "objective": "rating"},
        "entity-mlp": {**MLP, "negatives": 20, "rate": 2.0},
        "entity-mlp-sum-rating": {**MLP, "combine": "sum", "objective": "rating"},
        "melu": {**MLP, "rate": 0.5, "adapts": "head", "negatives": 20, "item_id": False, "item_bias": False},
        "melu-rating": {
            **MLP,
            "adapts": "head",
            "item_id": False,
            "item_bias": False,
            "objective": "rating",
            "entity_start": False,
        },
        "head-click-first-order": {**MLP, "adapts": "head", "order": 1, "objective": "click"},
        "all-mlp": {**MLP, **ALL, "objective": "rating"},
        "all-mlp-ranking": {**MLP, **ALL, "negatives": 20},
    },
    "anil": {"rating": {**MLP, "objective": "rating"}, "ranking": {**MLP, "negatives": 20, "rate": 2.0}},
    "boil": {"click": {**MLP, "objective": "click", "rate": 0.5}, "ranking": {**MLP, "negatives": 20, "steps": 2}},
    "meta-sgd": {
        "ranking": {"dims": 8},
        "all-rating": {**ALL, "objective": "rating", "rate": 0.03},
        "head-click": {**MLP, "adapts": "head", "objective": "click", "order": 1},
    },
    "meta-weight-net": {
        "ranking": {"dims": 8},
        "sampled": {"dims": 8, "negatives": 20},
        "all-rating": {**ALL, "objective": "rating", "rate": 0.03},
        "head-click": {**MLP, "adapts": "head", "objective": "click"},
    },
    "meta-dropout": {
        "ranking": {"dims": 8},
        "head-click": {**MLP, "adapts": "head", "objective": "click"},
    },
    "meta-regularization": {
        "ranking": {"dims": 8},
        "all-rating": {**ALL, "objective": "rating", "rate": 0.03},
    },
    "maml-pp": {
        "all-rating": {**ALL, "objective": "rating"},
        "head-click": {**MLP, "adapts": "head", "objective": "click"},
    },
    "reptile": {
        "ranking": {"dims": 8},
        "all-rating": {**ALL, "objective": "rating", "rate": 0.03},
        "head-click": {**MLP, "adapts": "head", "objective": "click"},
    },
    "cavia": {"ranking": {"dims": 8}, "mlp-click": {**MLP, "objective": "click", "rate": 1.0}},
    "imaml": {"ranking": {"dims": 8}, "head-click": {**MLP, "adapts": "head", "objective": "click", "steps": 8}},
    "hsml": {
        "ranking": {"dims": 8, "code": 8},
        "head-rating": {**MLP, "rate": 0.02, "adapts": "head", "objective": "rating", "code": 8, "tree": ()},
    },
    "mamo": {
        "ranking": {"dims": 8, "slots": 4},
        "head-click": {**MLP, "adapts": "head", "objective": "click", "slots": 4},
    },
    "meta-lstm": {"ranking": {"dims": 8, "width": 8}, "mlp-click": {**MLP, "objective": "click", "width": 8}},
    "learned-optimizer": {"rating": {"dims": 8, "width": 8, "objective": "rating", "rate": 0.1}},
    "meta-embedding": {
        "deepfm": BASED,
        "two-tower": {**BASED, "base": "two-tower"},
        "wide-deep": {**BASED, "base": "wide-deep"},
    },
    "bernoulli": {"click": {"dims": 4, "objective": "click"}},
    "gaussian-posterior": {
        "squared": {"dims": 4},
        "likelihood": {"dims": 4, "loss": "likelihood", "exposure": False, "correction": 0.3},
    },
    "click-blend": {
        "two": {
            "members": [
                {"learner": "bernoulli", "config": {"dims": 4}},
                {
                    "learner": "cvar",
                    "config": {k: v for k, v in BASED.items() if k != "objective"},
                    "tasks": 8,
                    "query": 6,
                },
            ]
        }
    },
    "selector": {
        "ranking": {
            "members": [{"learner": "prototypical", "config": {"dims": 8}}, {"learner": "maml", "config": {"dims": 8}}]
        },
        "click": {
            "objective": "click",
            "dropout": 0.1,
            "members": [{"learner": "lwa", "config": {"dims": 8}}, {"learner": "ridge-head", "config": {"dims": 8}}],
        },
    },
    "din": {
        "all": {**DIN, "adapts": "all"},
        "head": {**DIN, "adapts": "head", "rate": 0.1, "order": 2},
        "last": {**DIN, "adapts": "last", "rate": 0.1, "order": 2},
    },
    "meta-sgd-choice": {"all": DIN},
    "maml-pp-choice": {"head": {**DIN, "adapts": "head", "steps": 2}},
    "reptile-choice": {"all": {**DIN, "steps": 2}},
    "imaml-choice": {"head": {**DIN, "adapts": "head", "steps": 4, "solver_steps": 3}},
    "cavia-choice": {"entity": {**DIN_ENTITY, "context": 4}},
    "hsml-choice": {"entity": {**DIN_ENTITY, "code": 8}},
    "mamo-choice": {"entity": {**DIN_ENTITY, "slots": 4}},
    "meta-lstm-choice": {"entity": {**DIN_ENTITY, "width": 8, "steps": 2}},
    "learned-optimizer-choice": {"entity": {**DIN_ENTITY, "width": 8, "steps": 2}},
    "mwuf": {"deepfm": BASED},
    "ridge-head": {"ranking": {"dims": 8}, "rating": {"dims": 8, "objective": "rating"}},
    "bayesian-head": {"ranking": {"dims": 8}, "click": {"dims": 8, "objective": "click"}},
    "prototypical": {"ranking": {"dims": 8}, "click": {"dims": 8, "objective": "click"}},
    "siamese": {
        "ranking": {"dims": 8, "hidden": 16},
        "click": {"dims": 8, "hidden": 16, "objective": "click"},
    },
    "episodic-memory": {
        "ranking": {"dims": 8, "slots": 4},
        "rating": {"dims": 8, "slots": 4, "objective": "rating"},
    },
    "matching": {"ranking": {"dims": 8}, "rating": {"dims": 8, "objective": "rating"}},
    "relation": {
        "ranking": {"dims": 8, "hidden": (16, 16)},
        "rating": {"dims": 8, "hidden": (16, 16), "objective": "rating"},
    },
    "lwa": {"ranking": {"dims": 8}, "rating": {"dims": 8, "objective": "rating"}},
    "nlba": {
        "sampled": {"dims": 8, "hidden": (16,), "negatives": 20},
        "click": {"dims": 8, "hidden": (16,), "objective": "click"},
    },
    "neural-process": {
        "ranking": {"dims": 8, "hidden": 16},
        "click": {"dims": 8, "hidden": 16, "objective": "click"},
    },
    "set-transformer": {
        "ranking": {"dims": 8, "hidden": 16},
        "rating": {"dims": 8, "hidden": 16, "objective": "rating"},
    },
}
CASES = [(name, label) for name in LEARNERS for label in CONFIGS.get(name, {"default": {}})]
NAMES = [f"{name}-{label}" for name, label in CASES]


def learner_of(name: str, config: dict[str, Any]):
    return LEARNERS[name](LEARNERS[name].Config(**config))


def objective_of(name: str, config: dict[str, Any]) -> str:
    """What a case is about: as configured, else a ranking where the learner serves it, else what it serves."""
    served = LEARNERS[name].objectives
    return config.get("objective") or ("ranking" if "ranking" in served else min(served))


@cache
def case_of(name: str, label: str) -> LearnerCase:
    config = CONFIGS.get(name, {}).get(label, {})
    return make_learner_case(learner_of(name, config), WORLDS[objective_of(name, config)]())


def curve(learner, params, data, index, entities, shots, order="random"):
    """The cold-start curve, for objectives that have one."""
    return cold_start(learner, params, data, index, entities, shots=shots, order=order)
