"""Callers that go on asking while a test breaks things, and what they were told."""

from __future__ import annotations

import itertools
import random
import threading
import time
from dataclasses import dataclass, field

import httpx

STORED = "stored entity"
THREE = ("i3", "i14", "i15")


@dataclass(frozen=True)
class Told:
    """One answer: when it came (seconds of the monotonic clock), how long it took, and what it said."""

    at: float
    seconds: float
    status: int
    kind: str
    body: dict = field(default_factory=dict)
    retry: str | None = None

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(self.body.get("missing", ()))


class Load:
    """Threads that ask for recommendations, for anyone, for one and the same, for a stored entity and for new ones;
    and one that sends events. Every call has a connection of its own, so that all workers are met."""

    def __init__(self, url: str, callers: int = 3) -> None:
        self._url, self._stop = url, threading.Event()
        self.told: list[Told] = []
        self.acknowledged: set[str] = set()
        self._numbers = itertools.count()
        work = [self._ask] * callers + [self._send]
        self._threads = [threading.Thread(target=w, args=(n,), daemon=True) for n, w in enumerate(work)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def since(self, at: float, *kinds: str) -> list[Told]:
        """Answers to calls that began after a moment."""
        return [t for t in list(self.told) if t.at - t.seconds >= at and (not kinds or t.kind in kinds)]

    def _ask(self, number: int) -> None:
        rng = random.Random(number)
        while not self._stop.wait(0.02):
            kind = rng.choice(("anyone", "same", "stored", "cold"))
            body: dict = {"n": 5}
            if kind == "stored":
                body["entity"] = {"id": STORED}
            else:
                items = THREE if kind != "anyone" else rng.sample([f"i{n}" for n in range(30)], 3)
                body["events"] = [{"item": item} for item in items]
            if kind == "cold":  # nobody knows it yet: the database has to be asked
                body["entity"] = {"id": f"cold {rng.random()}"}
            self._call(kind, "/v1/recommendations", body)

    def _send(self, number: int) -> None:
        while not self._stop.wait(0.03):
            names = [f"e{next(self._numbers)}" for _ in range(3)]
            events = [{"entity": f"writer {n[-1]}", "item": "i1", "event_id": n} for n in names]
            told = self._call("events", "/v1/events", {"events": events})
            if told.status == 200 and told.body["accepted"] + told.body["duplicates"] == len(names):
                self.acknowledged |= set(names)

    def _call(self, kind: str, path: str, body: dict) -> Told:
        began = time.monotonic()
        try:
            found = httpx.post(self._url + path, json=body, timeout=30)
            status, content, retry = found.status_code, found.json(), found.headers.get("retry-after")
        except httpx.HTTPError as error:
            status, content, retry = 599, {"error": repr(error)}, None
        now = time.monotonic()
        told = Told(now, now - began, status, kind, content, retry)
        self.told.append(told)
        return told
