"""Mixed load for a long time: growth of memory, failures, p99 by window.

    python -m benchmarks.soak --minutes 120 --rate 100 --json soak.json

Newcomers never met before, newcomers met again, stored entities, events, score calls, and an erasure now and then, over
real Redis. Each tenth of the time is a window. The verdict is "flat" where no answer was a 5xx and the memory of the
last windows is at most `--growth` above that of the windows after the first third (caches fill until then).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.bench_servers import EVENTS, ITEMS, api_server, flagship, install, redis_server, resident
from benchmarks.machine import machine_facts
from recsys_meta.core.json_text import dump_json

WINDOWS = 10


@dataclass
class LoadWindow:
    """Tenth of the time: answers, failures, 99th percentile in milliseconds, bytes of the server, answers by status."""

    answers: int = 0
    failed: int = 0
    p99_ms: float = 0.0
    resident: int = 0
    seen: Counter[str] = field(default_factory=Counter)


async def ask(client: httpx.AsyncClient, rng: random.Random, numbers: itertools.count[int]) -> httpx.Response:
    """Send one call, of a kind drawn by chance."""
    kind, item = rng.random(), lambda: f"i{int(ITEMS * rng.random() ** 2)}"
    stored = f"stored {rng.randrange(2000)}"
    if kind < 0.35:
        body = {"events": [{"item": item()} for _ in range(EVENTS)]}
        return await client.post("/v1/recommendations", json=body)
    if kind < 0.6:
        return await client.post("/v1/recommendations", json={"events": [{"item": f"i{rng.randrange(50)}"}]})
    if kind < 0.8:
        return await client.post("/v1/recommendations", json={"entity": {"id": stored}, "n": 20})
    if kind < 0.95:
        event = {"entity": stored, "item": item(), "event_id": f"soak {next(numbers)}"}
        return await client.post("/v1/events", json={"events": [event]})
    if kind < 0.98:
        return await client.post("/v1/score", json={"entity": {"id": stored}, "items": [item() for _ in range(5)]})
    return await client.delete(f"/v1/entities/user/{stored}")


async def soak(port: int, pid: int, seconds: float, rate: float, callers: int = 8) -> list[LoadWindow]:
    """Send `rate` calls a second from `callers` callers for so many seconds; return the windows."""
    rng, numbers, found = random.Random(0), itertools.count(), list[LoadWindow]()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        for _ in range(WINDOWS):
            window, taken = LoadWindow(), list[float]()
            until = time.monotonic() + seconds / WINDOWS

            async def caller(window: LoadWindow, taken: list[float], until: float) -> None:
                while (now := time.monotonic()) < until:
                    try:
                        answer = await ask(client, rng, numbers)
                        status, said = answer.status_code, _said(answer)
                    except httpx.HTTPError as error:
                        status, said = 599, type(error).__name__
                    took = time.monotonic() - now
                    taken.append(took)
                    window.answers += 1
                    window.failed += status >= 500
                    window.seen[said] += 1
                    await asyncio.sleep(max(0.0, callers / rate - took))

            await asyncio.gather(*(caller(window, taken, until) for _ in range(callers)))
            window.p99_ms = 1000 * sorted(taken)[int(0.99 * len(taken))] if taken else 0.0
            window.resident = resident(pid)
            found.append(window)
            print(f"{len(found):3} {window.answers:7} answers {window.failed} failed, p99 {window.p99_ms:.1f} ms, "
                  f"{window.resident / 2**20:.1f} MiB {dict(window.seen)}", file=sys.stderr)  # fmt: skip
    return found


def _said(answer: httpx.Response) -> str:
    """Return the status of an answer; of a failure also where, and why."""
    if answer.status_code < 500:
        return str(answer.status_code)
    where = answer.request.url.path.split("/")[2]
    return f"{answer.status_code} {answer.request.method} {where}: {answer.text[:300]}"


def verdict(windows: list[LoadWindow], growth: float) -> tuple[bool, str]:
    """Judge the load by failures and by growth of memory; return the judgement and a sentence with its figures."""
    failed = sum(w.failed for w in windows)
    before = statistics.median(w.resident for w in windows[3:6])
    after = statistics.median(w.resident for w in windows[-3:])
    well = not failed and after <= before * (1 + growth)
    said = f"{sum(w.answers for w in windows)} answers, {failed} failed, memory {100 * (after / before - 1):+.1f}%"
    return well, f"{'flat' if well else 'NOT flat'}: {said}"


def rows(windows: list[LoadWindow]) -> list[dict[str, object]]:
    """Rows of the results, in the form of all benchmarks."""
    first = windows[0]
    made: list[dict[str, object]] = []
    for number, window in enumerate(windows, 1):
        case = f"window {number} of {len(windows)}"
        made += [
            _row(case, "answers", window.answers, "answers", None),
            _row(case, "answers that failed", window.failed, "answers", None),
            _row(case, "answers", window.p99_ms, "ms p99", None),
            _row(case, "server", window.resident / 2**20, "MiB", window.resident / first.resident),
        ]
    return made


def _row(case: str, system: str, value: float, unit: str, ratio: float | None) -> dict[str, object]:
    reference = "window 1" if ratio is not None else ""
    return {"case": case, "system": system, "value": value, "unit": unit, "ratio": ratio, "reference": reference}


def report(windows: list[LoadWindow], said: str, command: str) -> dict[str, object]:
    """Content of the JSON file: machine, command, verdict, rows and windows."""
    machine = machine_facts()
    content = {"bench": "soak", "machine": machine, "command": command, "verdict": said}
    return {**content, "rows": rows(windows), "windows": [vars(window) for window in windows]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--rate", type=float, default=100.0, help="calls a second")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--growth", type=float, default=0.05, help="of memory that is still called flat")
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        install(home, flagship(given.items))
        with redis_server(home) as url, api_server(home, url, given.workers) as (port, pid):
            windows = asyncio.run(soak(port, pid, 60 * given.minutes, given.rate))
    well, said = verdict(windows, given.growth)
    print(said)
    if given.json is not None:
        command = " ".join(["python -m benchmarks.soak", *sys.argv[1:]])
        given.json.write_text(dump_json(report(windows, said, command), indent=1))
    raise SystemExit(0 if well else 1)


if __name__ == "__main__":
    main()
