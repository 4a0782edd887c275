"""Reference route of the serving benchmarks: an async FastAPI route that answers ten items from a dict."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

app = FastAPI()
ANSWER = {"items": [{"rank": n, "item": f"i{n}", "score": n / 7, "title": None} for n in range(1, 11)]}


@app.post("/bare")
async def bare(body: dict[str, Any]) -> dict[str, Any]:
    return ANSWER
