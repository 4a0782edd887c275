"""A thousand new items under load: how soon every worker lists them, and what a killed worker or a lost Redis costs.

    python -m benchmarks.live_items --json benchmarks/results/live-items.json

A server of two workers over PostgreSQL and a redis-server of its own serves a small flagship of simulated users. Items
are posted one call after another while newcomers ask for lists and events come in; each tenth one is hidden soon after.
Some events are of new items. Each worker is asked over a connection of its own which of the items it lists. At a third
of the items one worker is killed, at two thirds Redis is stopped, which comes back later. Then the memory of the server
is watched while items are hidden and shown again. At the end, when all is quiet, each worker has to list the items that
`recsys-meta recommend` lists from the database (which does not read first events, so that its order is another). Times
count from the sending of a call. The verdict is "as promised" where none took longer than two seconds, each call was
answered with success, no item was lost or is listed though hidden, and memory grew by 5% at most. How alike workers
rank the items is shown beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson

from api.inference.item_evidence import FIRST_WINDOW_S
from benchmarks.bench_servers import (
    api_server,
    environment,
    family,
    free_port,
    postgres_database,
    redis_server,
    resident,
)
from benchmarks.machine import machine_facts
from recsys_meta.core.atomic_io import write_file
from recsys_meta.core.json_text import dump_json
from recsys_meta.data.simulators.schemas import GENRES

POSTGRES = "postgresql://postgres@127.0.0.1:5432/postgres"
LIMIT_S, GROWTH = 2.0, 0.05
"""What is promised: seconds until each worker lists an item, and how much the server's memory may grow."""

EVENTS = ("f001", "f002", "f003")

SETTLE_S = FIRST_WINDOW_S + 5.0
"""How long nothing happens before workers are compared, seconds: evidence is read anew in each window of time."""

NEW_SHARE = 0.2
"""Share of the events that are of new items."""

PATIENCE_S = 60.0
"""How long a worker is asked for a change that it does not show, seconds."""

CALLERS, WINDOWS = 4, 6
TRAIN = ("train", "--recipe", "flagship", "--dataset", "simulated-users", "--set", "train.epochs=4", "--threads", "1")
SMALL = (*TRAIN, "--set", "config.dims=16", "--set", "config.towers=1", "--set", "ensemble.members=[]")


@dataclass
class LiveLoad:
    """Record of a live load: seconds until workers listed and hid items, answers by status, failures.

    `changed` has the time of the call that made an item listed (True) or hidden (False); `watched` the worker of each
    slot; `lists` what each worker lists at the end, best first; `broken` counts connections that ended without an
    answer; `lost` the changes that some worker never showed.
    """

    rng: random.Random = field(default_factory=lambda: random.Random(0))
    names: list[str] = field(default_factory=list)
    hidden: set[str] = field(default_factory=set)
    changed: dict[tuple[str, bool], float] = field(default_factory=dict)
    listed_s: list[float] = field(default_factory=list)
    hidden_s: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    watched: dict[int, int] = field(default_factory=dict)
    lists: list[list[str]] = field(default_factory=list)
    broken: int = 0
    lost: int = 0
    answer_s: list[float] = field(default_factory=list)
    is_over: bool = False

    @property
    def failed(self) -> int:
        """Answers that were no success."""
        return sum(count for status, count in self.statuses.items() if not status.startswith("2"))


async def send(load: LiveLoad, client: httpx.AsyncClient, method: str, path: str, body: object) -> httpx.Response:
    """Send a call, again where its connection broke, as clients do: a killed worker answers nothing."""
    while True:
        began = time.monotonic()
        try:
            response = await client.request(method, path, json=body)
        except httpx.TransportError:
            load.broken += 1
            await asyncio.sleep(0.05)
            continue
        load.answer_s.append(time.monotonic() - began)
        load.statuses[str(response.status_code)] += 1
        if response.status_code >= 400:
            print(f"{response.status_code} {method} {path}: {response.text[:300]}", file=sys.stderr)
        return response


async def call(load: LiveLoad, client: httpx.AsyncClient, pause: float) -> None:
    """Ask for lists of newcomers, met before or not, and send their events, until the load is over."""
    while not load.is_over:
        newcomer = f"stored {load.rng.randrange(200)}"
        if load.rng.random() < 0.3:
            is_new = load.names and load.rng.random() < NEW_SHARE
            item = load.rng.choice(load.names) if is_new else f"f{load.rng.randrange(1, 800):03}"
            event = {"entity": newcomer, "item": item}
            await send(load, client, "POST", "/v1/events", {"events": [event]})
        else:
            body = {"entity": {"id": newcomer}, "events": [{"item": f"f{load.rng.randrange(1, 800):03}"}], "n": 20}
            await send(load, client, "POST", "/v1/recommendations", body)
        await asyncio.sleep(pause)


async def post_items(load: LiveLoad, client: httpx.AsyncClient, items: Sequence[dict[str, Any]], rate: float) -> None:
    """Post items, `rate` a second, and hide each tenth three seconds later."""
    hiding = set()

    async def hide(name: str) -> None:
        await asyncio.sleep(3)
        load.hidden.add(name)
        load.changed[name, False] = time.monotonic()
        await send(load, client, "PATCH", f"/v1/items/{name}", {"available": False})

    for number, item in enumerate(items):
        name, began = item["id"], time.monotonic()
        load.names.append(name)
        load.changed[name, True] = began
        await send(load, client, "POST", "/v1/items", {"items": [item]})
        if number % 10 == 0:
            hiding.add(asyncio.create_task(hide(name)))
        await asyncio.sleep(max(0.0, 1 / rate - (time.monotonic() - began)))
    await asyncio.gather(*hiding)


async def watch(load: LiveLoad, port: int, server: int, slot: int, stop: asyncio.Event) -> None:
    """Ask one worker, that of a `slot`, again and again which of the items it lists, until it has shown all changes.

    Where a worker was killed, the one in its place has to show what came before it too.
    """
    seen: set[tuple[str, bool]] = set()
    client, came, deadline = None, 0.0, float("inf")
    while not (stop.is_set() and not _unseen(load, seen)) and time.monotonic() < deadline:
        deadline = min(deadline, time.monotonic() + PATIENCE_S) if stop.is_set() else deadline
        try:
            if client is None:
                client = await worker_client(load, port, server, slot)
                seen, came = set(), time.monotonic()
            pending = _unseen(load, seen)[:500]
            known = await listed(client, sorted({name for name, _ in pending})) if pending else set()
        except httpx.TransportError:
            client = None  # the worker is gone, and another takes its place
            continue
        now = time.monotonic()
        for name, shown in pending:
            if (name in known) is shown:
                seen.add((name, shown))
                if load.changed[name, shown] > came:
                    (load.listed_s if shown else load.hidden_s).append(now - load.changed[name, shown])
        await asyncio.sleep(0.02)
    load.lost += len(_unseen(load, seen))
    if client is not None:
        await client.aclose()


async def worker_lists(load: LiveLoad, port: int, server: int, workers: int) -> list[list[str]]:
    """Return what each worker lists of the items, best first."""
    lists = []
    for slot in range(workers):
        async with aclosing(await worker_client(load, port, server, slot)) as client:
            lists.append(await listed(client, load.names))
    return lists


def _unseen(load: LiveLoad, seen: set[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """Changes that a worker has not shown yet; that an item is listed is moot once it is to be hidden."""
    return [k for k in load.changed if k not in seen and not (k[1] and (k[0], False) in load.changed)]


async def listed(client: httpx.AsyncClient, names: Sequence[str]) -> list[str]:
    """Those of some items that a worker lists, best first."""
    body = {"events": [{"item": item} for item in EVENTS], "n": 1000, "candidates": list(names)}
    response = await client.post("/v1/recommendations", json=body)
    response.raise_for_status()
    return [one["item"] for one in response.json()["items"]]


async def worker_client(load: LiveLoad, port: int, server: int, slot: int) -> httpx.AsyncClient:
    """Client whose one connection is to a worker that no other slot has."""
    load.watched.pop(slot, None)
    while True:
        client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=30, limits=httpx.Limits(max_connections=1)
        )
        with suppress(httpx.TransportError):
            response = await client.get("/livez")
            own = response.extensions["network_stream"].get_extra_info("client_addr")[1]
            worker = owner(workers_of(server), own, port)
            if worker is not None and worker not in load.watched.values():
                load.watched[slot] = worker
                return client
        await client.aclose()
        await asyncio.sleep(0.05)


def workers_of(server: int) -> list[int]:
    """Ids of the processes of a server that listen to requests, the eldest first."""
    return [pid for pid in sorted(family(server)[1:]) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def owner(processes: Sequence[int], client_port: int, port: int) -> int | None:
    """Process that holds the server's end of a connection, as Linux tells."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        ends = [int(end.partition(":")[2], 16) for end in words[1:3]]
        if ends == [port, client_port]:
            for pid in processes:
                with suppress(OSError):
                    links = [str(f.readlink()) for f in Path(f"/proc/{pid}/fd").iterdir()]
                    if f"socket:[{words[9]}]" in links:
                        return pid
    return None


def new_items(count: int) -> list[dict[str, Any]]:
    """Items with drawn features of the simulator."""
    rng = random.Random(1)
    return [
        {
            "id": f"new-{n}",
            "title": f"New {n}",
            "features": {"genres": rng.sample(GENRES, 2), "year": str(rng.randrange(1980, 2020))},
        }
        for n in range(count)
    ]


async def live(
    port: int, server: int, stack: ExitStack, redis: Callable[[], object], given: argparse.Namespace
) -> tuple[LiveLoad, list[int]]:
    """Post the items under load, with a worker and Redis lost on the way; return the load and memory by window.

    Closing the stack stops Redis, and `redis` starts it again.
    """
    load, stop, items = LiveLoad(), asyncio.Event(), new_items(given.items)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        callers = [asyncio.create_task(call(load, client, CALLERS / given.rate)) for _ in range(CALLERS)]
        watchers = [asyncio.create_task(watch(load, port, server, slot, stop)) for slot in range(given.workers)]
        while len(load.watched) < given.workers:
            await asyncio.sleep(0.1)
        posting = asyncio.create_task(post_items(load, client, items, given.items_rate))
        await _until(load, len(items) // 3)
        os.kill(workers_of(server)[0], signal.SIGKILL)
        await _until(load, 2 * len(items) // 3)
        await asyncio.to_thread(stack.close)
        await _until(load, 5 * len(items) // 6)
        redis()
        await posting
        stop.set()
        await asyncio.gather(*watchers)
        memory = await watch_memory(load, client, server, given.seconds)
        load.is_over = True
        await asyncio.gather(*callers)
        await asyncio.sleep(SETTLE_S)
        load.lists = await worker_lists(load, port, server, given.workers)
    return load, memory


async def _until(load: LiveLoad, count: int) -> None:
    while len(load.names) < count:
        await asyncio.sleep(0.02)


async def watch_memory(load: LiveLoad, client: httpx.AsyncClient, server: int, seconds: float) -> list[int]:
    """Hide and show items again, and return what the server holds at the end of each window, bytes."""
    memory = list[int]()
    for _ in range(WINDOWS):
        until = time.monotonic() + seconds / WINDOWS
        while time.monotonic() < until:
            name = load.rng.choice([n for n in load.names if n not in load.hidden])
            for available in (False, True):
                await send(load, client, "PATCH", f"/v1/items/{name}", {"available": available})
                await asyncio.sleep(0.5)
        memory.append(resident(server))
    return memory


def commands(home: Path, redis: str, database: str, *words: str) -> str:
    """Output of a command in the installation."""
    env = environment(home, redis, database)
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", *words], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{words}: {done.stderr}")
    return done.stdout


def publish_small(home: Path, redis: str, database: str) -> None:
    """Train a small flagship of simulated users and publish it as `films`."""
    commands(home, redis, database, "db", "upgrade")
    commands(home, redis, database, "data", "prepare", "simulated-users")
    run = orjson.loads(commands(home, redis, database, *SMALL, "--json"))["run"]
    commands(home, redis, database, "models", "publish", run, "--name", "films", "--force")


def reference_list(home: Path, redis: str, database: str, names: Sequence[str]) -> list[str]:
    """List of the new items that `recsys-meta recommend` makes from the database."""
    words = ("recommend", "films", "--items", ",".join(EVENTS), "--candidates", ",".join(names), "-n", "1000", "--json")
    return [one["item"] for one in orjson.loads(commands(home, redis, database, *words))["items"]]


def rank_correlation(one: Sequence[str], other: Sequence[str]) -> float:
    """Spearman correlation of the places of items in two lists; 0 where these hold other items."""
    place = {item: n for n, item in enumerate(other)}
    return statistics.correlation(range(len(one)), [place[i] for i in one]) if set(one) == set(other) else 0.0


def summarize(
    load: LiveLoad, memory: Sequence[int], reference: Sequence[str], given: argparse.Namespace
) -> dict[str, Any]:
    """Content of the JSON file: machine, figures and verdict."""
    growth = statistics.median(memory[-2:]) / statistics.median(memory[1:3]) - 1
    first, *others = load.lists
    equal = [sorted(one) == sorted(reference) for one in load.lists]
    worst = max([*load.listed_s, *load.hidden_s])
    figures = {
        "items": len(load.names), "hidden": len(load.hidden),
        "listed_median_s": statistics.median(load.listed_s), "listed_worst_s": max(load.listed_s),
        "hidden_median_s": statistics.median(load.hidden_s), "hidden_worst_s": max(load.hidden_s),
        "times": len(load.listed_s) + len(load.hidden_s), "answers": dict(load.statuses), "failed": load.failed,
        "connections_broken": load.broken, "changes_lost": load.lost,
        "answer_median_ms": 1000 * statistics.median(load.answer_s),
        "answer_p99_ms": 1000 * statistics.quantiles(load.answer_s, n=100)[-1],
        "reference_items": len(reference), "workers_list_what_is_stored": sum(equal),
        "rank_correlation_of_workers": min(rank_correlation(first, one) for one in others),
        "rank_correlation_with_the_command": min(rank_correlation(one, reference) for one in load.lists),
        "memory_mib": [m / 2**20 for m in memory], "memory_growth": growth,
    }  # fmt: skip
    promised = worst <= LIMIT_S and not load.failed and not load.lost and growth <= GROWTH
    promised = promised and set(reference) == set(load.names) - load.hidden
    promised = promised and figures["workers_list_what_is_stored"] == given.workers
    machine = machine_facts()
    command = "python -m benchmarks.live_items " + " ".join(sys.argv[1:])
    verdict = "as promised" if promised else "NOT as promised"
    return {"bench": "live_items", "machine": machine, "command": command, "verdict": verdict, **figures}


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--items-rate", type=float, default=20, help="items a second")
    parser.add_argument("--rate", type=float, default=20, help="other calls a second")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=120, help="how long memory is watched after the last item")
    parser.add_argument("--postgres", default=POSTGRES, help="a PostgreSQL server where databases may be made")
    parser.add_argument("--json", type=Path, help="file of the results")
    given = parser.parse_args()
    redis_port = free_port()
    with tempfile.TemporaryDirectory() as folder, postgres_database(given.postgres) as database, ExitStack() as stack:
        home = Path(folder)

        def redis() -> str:
            return stack.enter_context(redis_server(home, redis_port))

        url = redis()
        publish_small(home, url, database)
        with api_server(home, url, given.workers, database) as (port, server):
            load, memory = asyncio.run(live(port, server, stack, redis, given))
        result = summarize(load, memory, reference_list(home, url, database, load.names), given)
    print(dump_json(result, indent=1))
    if given.json:
        write_file(given.json, dump_json(result, indent=1).encode())


if __name__ == "__main__":
    main()
