"""Curve of a finished training on meta-validation entities, with and without adapting: what their support is worth."""

from __future__ import annotations

from typing import Any

from pipelines.experiments.comparison import Comparison, MethodCurves
from pipelines.experiments.evaluation_protocol import FLAGSHIPS, EvaluationProtocol, Scenario, split_name
from pipelines.experiments.meta_validation import VALIDATION_ROWS, validation_chunk, validation_entities
from pipelines.experiments.method_origin import origin_of_run
from pipelines.experiments.run_spec import RunSpec
from pipelines.experiments.training_inputs import TrainingInputs
from recsys_meta.evaluation.cold_start import UnadaptedPredictor, cold_start
from recsys_meta.evaluation.curve import ColdStartCurve
from recsys_meta.models.bundle import Bundle
from recsys_meta.store.tracking.evaluations import Role
from recsys_meta.store.tracking.paired_tests import NewPairedTest

VALIDATION = "meta-validation"
"""Part of the entities that a scenario's name ends with, where it is not meta-test."""


def measure_validation(spec: RunSpec, inputs: TrainingInputs, bundle: Bundle) -> Comparison:
    """Measure a run's bundle on its meta-validation entities, and the same weights without adapting.

    Meta-test stays unseen until `evaluate` asks for it. What the training chose, it chose by these entities, so values
    are too high by a little; the difference between the two curves is what adapting does for entities that no step
    trained on.
    """
    data, seed = inputs.data, inputs.split_seed
    scenario: Scenario = "actors" if inputs.scenario == "actors" else "new"
    protocol = EvaluationProtocol(split=inputs.split_by, scenario=scenario)
    entities, points = validation_entities(inputs, spec.recipe), protocol.points(data)

    def curve(predictor: Any, name: str) -> ColdStartCurve:
        result = cold_start(
            predictor,
            bundle.params,
            data,
            inputs.train_index.to("cpu"),
            entities,
            shots=points,
            seed=seed,
            chunk=validation_chunk(data),
            max_rows=VALIDATION_ROWS,
            lists=False,
        )
        return ColdStartCurve(name, result.entities, result.values)

    name = spec.recipe.name
    role: Role = "flagship" if name in FLAGSHIPS else "learner"
    plain, origins = f"{name}-unadapted", {seed: origin_of_run(spec)}
    own = curve(bundle.predictor, name)
    unadapted = curve(UnadaptedPredictor(bundle.predictor), plain)
    metrics = tuple(own.values[points[0]])
    scenario_name = f"{protocol.label(data)}/{VALIDATION}"
    result = Comparison(data.schema.name, scenario_name, metrics, points, split=split_name(data, inputs.split_by))
    result.methods.append(MethodCurves(name, role, {seed: own}, versions={seed: bundle.version}, origins=origins))
    result.methods.append(MethodCurves(plain, "learner", {seed: unadapted}, origins=origins))
    return result


def adapting_tests(result: Comparison | None) -> list[NewPairedTest]:
    """Paired tests of a training's curve against itself without adapting, one a point, in the first metric."""
    tests = [] if result is None else result.tests
    return [t for t in tests if t.reference == "unadapted" and t.metric == tests[0].metric]
