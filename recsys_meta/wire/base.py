"""Base classes of the bodies: requests refuse fields that they do not know, responses keep them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

_MARK = "x-always-present"


class RequestModel(BaseModel):
    """Base of request bodies. A field that it does not know is an error: it would be ignored in silence else."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ResponseModel(BaseModel):
    """Base of response bodies. Fields of a newer server are kept in `model_extra`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe what this release sends, which is stricter than what is read (see `always_present`)."""
        reference = handler(core_schema)
        schema = handler.resolve_ref_schema(reference)
        schema.pop("additionalProperties", None)
        names = set(schema.get("required", ()))
        for name, value in schema["properties"].items():
            if value.pop(_MARK, False):
                value.pop("default", None)
                names.add(name)
        if names:
            schema["required"] = [name for name in schema["properties"] if name in names]
        return reference


def always_present(default: Any, *, alias: str | None = None) -> Any:
    """Return a field that every response of this release has, so that JSON schemas require it; where a server of
    another release, or a proxy, leaves it out, it reads as `default`."""
    return Field(default, alias=alias, json_schema_extra={_MARK: True})
