"""Cost of answers over HTTP, beside a bare async FastAPI route under the same uvicorn settings, in the same run.

    python -m benchmarks.serving --json benchmarks/results/serving.json

Systems take turns, round after round, so that all meet the same machine; ratios are of medians of requests a second.

    process   the same request again: the list is held in the process
    redis     requests that another process answered: the list is in Redis
    state     newcomers whom another process adapted, asked for another list: the state is in Redis, ranked here
    adapted   newcomers whom nobody knows: five events over 4,000 items, adapted, ranked, kept
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import redis
import torch

from api.handlers.response_encoding import encode_items, pack
from benchmarks.bench_servers import EVENTS, ITEMS, api_server, bare_server, flagship, install, redis_server
from benchmarks.http_load import LoadResult, call, post
from benchmarks.machine import machine_facts
from recsys_meta.core.json_text import dump_json
from recsys_meta.core.types import State
from recsys_meta.inference.recommender import Recommender
from recsys_meta.inference.requests.entity import EncodedEntity, EntityRequest, Interaction
from recsys_meta.models.bundle import Bundle, load_bundle
from recsys_meta.store.cache.keys import list_key, owner_key, redis_name, seal_value, state_key
from recsys_meta.store.cache.redis_cache import PREFIX

BARE = "bare FastAPI route"
CONNECTIONS = (1, 16, 64)
PATH = "/v1/recommendations"


def supports(seed: int) -> Iterator[list[str]]:
    """Yield supports of five different items each, without end."""
    rng = np.random.default_rng(seed)
    while True:
        yield [f"i{n}" for n in rng.choice(ITEMS, EVENTS, replace=False)]


def request_body(items: list[str]) -> dict[str, object]:
    """Body of the request for a newcomer with these events."""
    return {"events": [{"item": i} for i in items], "n": 10}


def encoded_body(items: list[str]) -> bytes:
    """Body of the request as it is sent."""
    return orjson.dumps(request_body(items))


def request(items: list[str]) -> bytes:
    """Request with its head."""
    return post(PATH, request_body(items))


def fill(url: str, recommender: Recommender, chosen: list[list[str]], listed: bool) -> None:
    """Adapt newcomers and put their states, or their lists as well, where a server looks for them."""
    torch.set_num_threads(1)
    with redis.Redis.from_url(url) as client:
        for start in range(0, len(chosen), 500):
            knowns = [
                recommender.read_support(EntityRequest(events=[Interaction(i) for i in s]))
                for s in chosen[start : start + 500]
            ]
            states = recommender.adapt(knowns)
            pipe = client.pipeline(transaction=False)
            for n, known in enumerate(knowns):
                raw = recommender.dump({k: v[n : n + 1] for k, v in states.items()})
                kind = recommender.bundle.schema.kind
                key = state_key(recommender.version, kind, "", known.digest)
                pipe.set(PREFIX + redis_name(key), seal_value(key, raw), px=3_600_000)
                if listed:
                    made = encoded_list(recommender, known, {k: v[n : n + 1] for k, v in states.items()})
                    key = list_key("bench", recommender.version, kind, "", "", encoded_body(chosen[start + n]))
                    pipe.set(PREFIX + redis_name(key), seal_value(key, made), px=3_600_000)
            pipe.execute()


def encoded_list(recommender: Recommender, known: EncodedEntity, state: State) -> bytes:
    """List of an entity as a server keeps it."""
    items = recommender.lists.top_k(recommender.score_catalog(state), 10, exclude=known.seen_items)
    rest = {"support_size": EVENTS, "unknown_items": [], "items": encode_items(items), "next": None}
    return pack(False, EVENTS, orjson.dumps(rest))


def entity_bytes(url: str, recommender: Recommender) -> dict[str, int]:
    """Measure the bytes of one entity in Redis (MEMORY USAGE): its state and its owner's entry, with their names."""
    known = recommender.read_support(
        EntityRequest(events=[Interaction(f"i{n}") for n in range(0, ITEMS, ITEMS // EVENTS)][:EVENTS])
    )
    raw = recommender.dump(recommender.adapt([known]))
    kind = recommender.bundle.schema.kind
    key, owner = state_key(recommender.version, kind, "someone", known.digest), owner_key(kind, "someone")
    with redis.Redis.from_url(url) as client:
        client.set(PREFIX + redis_name(key), seal_value(key, raw), px=3_600_000)
        client.set(PREFIX + owner, b"4611686018427387903", px=3_600_000)
        state, word = (int(client.memory_usage(PREFIX + name) or 0) for name in (redis_name(key), owner))
        client.delete(PREFIX + redis_name(key), PREFIX + owner)
    return {"state": state, "word": word, "payload": len(raw)}


def measure(
    port: int, bare: int, url: str, bundle: Bundle, rounds: int, seconds: float, most: int
) -> dict[tuple[str, int], list[LoadResult]]:
    """Load every system at every number of connections, in turn."""
    known = supports(1)
    cached, adapted = ([next(known) for _ in range(most)] for _ in range(2))
    fill(url, Recommender(bundle), cached, listed=True)
    fill(url, Recommender(bundle), adapted, listed=False)
    every: dict[str, tuple[int, Iterator[bytes]]] = {
        BARE: (bare, itertools.repeat(post("/bare", {"events": [{"item": "i1"}] * EVENTS, "n": 10}))),
        "process": (port, itertools.repeat(request(next(known)))),
        "redis": (port, (request(s) for s in cached)),
        "state": (port, (request(s) for s in adapted)),
        "adapted": (port, (request(s) for s in supports(2))),
    }
    for at, requests in every.values():
        call(at, requests, CONNECTIONS[-1], min(seconds, 1.0))  # what is lazy is made
    found: dict[tuple[str, int], list[LoadResult]] = {}
    for turn in range(rounds):
        for connections in CONNECTIONS:
            for name, (at, requests) in every.items():
                result = call(at, requests, connections, seconds)
                if result.seconds < 0.9 * seconds:
                    raise SystemExit(f"the requests of '{name}' ran out; give more --states")
                found.setdefault((name, connections), []).append(result)
                print(f"{turn} {connections:3} {name:20} {result.rate:8.0f}/s {dict(result.seen)}", file=sys.stderr)
    return found


def rows(found: dict[tuple[str, int], list[LoadResult]], cost: dict[str, int]) -> list[dict[str, object]]:
    """Rows of the results, in the form of all benchmarks."""
    made: list[dict[str, object]] = []
    for (name, connections), results in found.items():
        case = f"{connections} connection{'s' if connections > 1 else ''}"
        rate = statistics.median(t.rate for t in results)
        reference = statistics.median(t.rate for t in found[BARE, connections])
        made.append(_row(case, name, rate, "requests/s", rate / reference))
        for q, what in ((0.5, "p50"), (0.99, "p99")):
            made.append(_row(case, name, statistics.median(t.quantile(q) for t in results), f"ms {what}", None))
    total = cost["state"] + cost["word"]
    made.append(_row("one cached entity", "redis MEMORY USAGE, state and its name", cost["state"], "bytes", None))
    made.append(_row("one cached entity", "redis MEMORY USAGE, all of it", total, "bytes", None))
    return made


def _row(case: str, system: str, value: float, unit: str, ratio: float | None) -> dict[str, object]:
    reference = BARE if ratio is not None else ""
    return {"case": case, "system": system, "value": value, "unit": unit, "ratio": ratio, "reference": reference}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn of each system")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--states",
        type=int,
        default=150_000,
        help="and as many lists, put into Redis beforehand; each is asked for once",
    )
    parser.add_argument("--redis", help="a Redis to use; left out, one is started")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        bundle = flagship()
        install(home, bundle)
        bundle = load_bundle(next((home / "models" / "bench").iterdir()))
        own = redis_server(home) if given.redis is None else None
        url = given.redis or own.__enter__()
        try:
            with api_server(home, url, given.workers) as (port, _), bare_server(home, given.workers) as bare:
                cost = entity_bytes(url, Recommender(bundle))
                found = measure(port, bare, url, bundle, given.rounds, given.seconds, given.states)
        finally:
            if own is not None:
                own.__exit__(None, None, None)
    made = rows(found, cost)
    for row in made:
        share = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        print(f"{row['case']:20} {row['system']:42} {row['value']:10.2f} {row['unit']:12} {share}")
    print(f"cached entity: {cost}")
    load = os.getloadavg()
    if given.json is not None:
        machine = machine_facts(load=load, workers=given.workers)
        command = " ".join(["python -m benchmarks.serving", *sys.argv[1:]])
        content = {"bench": "serving", "machine": machine, "command": command, "rows": made}
        given.json.write_text(dump_json(content, indent=1))


if __name__ == "__main__":
    main()
