"""Names of the OpenAPI components: callers generate code from these, so they stay when a class is renamed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PREFIX = "#/components/schemas/"

COMPONENT_NAMES: Mapping[str, str] = {
    "AdaptationResponse": "Adapted",
    "AliasChange": "Move",
    "ArmShare": "Arm",
    "CandidateEntity": "Member",
    "DeletionReceipt": "Receipt",
    "DependencyCheck": "Check",
    "EntityInput": "Newcomer",
    "EntityRankingResponse": "RankedEntities",
    "EventContribution": "Cause",
    "EventRejection": "Refusal",
    "ExplorationDraw": "Explored",
    "ExplorationOptions": "Explore",
    "ItemScore": "Score",
    "ItemWithFeatures": "Told",
    "ModelList": "Models",
    "ModelStatus": "ModelSummary",
    "ModelVersion": "Version",
    "OnboardingItem": "Question",
    "OnboardingResponse": "Onboarding",
    "PromotionRequest": "Promotion",
    "QueryContextInput": "Moment",
    "RankedEntity": "Ranked",
    "ReadinessReport": "Readiness",
    "RecommendationResponse": "Recommendations",
    "RecommendedItem": "Item",
    "RowPage": "Page",
    "ScoreExplanation": "Why",
    "ScoreResponse": "Scores",
    "ScoringRow": "Row",
    "SplitShare": "Share",
}
"""The component of each class of `recsys_meta.wire` that has another name than its component."""


def component_name(class_name: str) -> str:
    """Return the name of the component of a class."""
    return COMPONENT_NAMES.get(class_name, class_name)


def rename_components(document: dict[str, Any]) -> dict[str, Any]:
    """Return an OpenAPI document whose components, their titles and the references to them have the lasting names."""
    result: dict[str, Any] = _with_renamed_references(document)
    components = result["components"]
    components["schemas"] = {component_name(n): _titled(n, s) for n, s in components["schemas"].items()}
    return result


def _titled(class_name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "title": component_name(class_name)} if schema.get("title") == class_name else schema


def _with_renamed_references(node: Any) -> Any:
    if isinstance(node, list):
        return [_with_renamed_references(value) for value in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _PREFIX + component_name(value.removeprefix(_PREFIX))
        if key == "$ref" and isinstance(value, str)
        else _with_renamed_references(value)
        for key, value in node.items()
    }
