"""Cost of keeping impressions: answers a second with and without them, beside a bare route, in one run.

    python -m benchmarks.impressions --json benchmarks/results/impressions.json

Two servers differ in RECSYS_META_IMPRESSION_RATE alone (1 and 0), each with a database and a home of its own. They
and the bare route take turns, round after round; the ratio of a round is that of its own turns, and the figure is the
median over rounds. Requests name an entity, so that its lists are kept; `same` is one request again and again (its list
is in the process), `adapted` are newcomers whom nobody knows.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks.bench_servers import EVENTS, api_server, bare_server, flagship, install
from benchmarks.http_load import call, post
from benchmarks.machine import machine_facts
from benchmarks.serving import PATH, request_body, supports
from recsys_meta.core.json_text import dump_json

BARE = "bare"
CONNECTIONS = (1, 16)


def requests_of(case: str, seed: int) -> Iterator[bytes]:
    """Requests of a case, each of an entity with an id: one and the same, or always another newcomer."""
    for n, items in enumerate(supports(seed)):
        body = {**request_body(items), "entity": {"kind": "user", "id": f"{seed} {n}"}}
        if case == "same":
            yield from itertools.repeat(post(PATH, body))
        yield post(PATH, body)


def measure(ports: dict[str, int], bare: int, rounds: int, seconds: float) -> dict[tuple[str, str, int], list[float]]:
    """Ratios to the bare route, by case, server and connections, of each round."""
    systems = {(case, name): requests_of(case, 1 + n) for n, case in enumerate(("same", "adapted")) for name in ports}
    plain = itertools.repeat(post("/bare", {"events": [{"item": "i1"}] * EVENTS, "n": 10}))
    for (_, name), requests in systems.items():
        call(ports[name], requests, CONNECTIONS[-1], min(seconds, 1.0))  # what is lazy is made
    ratios: dict[tuple[str, str, int], list[float]] = {}
    for turn in range(rounds):
        for connections in CONNECTIONS:
            reference = call(bare, plain, connections, seconds).rate
            order = list(systems.items())
            for (case, name), requests in order if turn % 2 else reversed(order):
                result = call(ports[name], requests, connections, seconds)
                wrong = [status for status in result.seen if not status.startswith("200")]
                if wrong:
                    raise SystemExit(f"answers of '{case}' were {dict(result.seen)}")
                ratios.setdefault((case, name, connections), []).append(result.rate / reference)
        print(f"round {turn + 1} of {rounds}", file=sys.stderr)
    return ratios


def rows(ratios: dict[tuple[str, str, int], list[float]]) -> list[dict[str, object]]:
    """One row a case: the ratio with impressions, without, and the median difference of the rounds with its spread."""
    made: list[dict[str, object]] = []
    for case, name, connections in ratios:
        if name == "on":
            on, off = (np.array(ratios[case, which, connections]) for which in ("on", "off"))
            low, high = np.quantile(on - off, (0.25, 0.75)).tolist()
            made.append(
                {
                    "case": case,
                    "connections": connections,
                    "on": statistics.median(on.tolist()),
                    "off": statistics.median(off.tolist()),
                    "difference": statistics.median((on - off).tolist()),
                    "quartiles": [low, high],
                    "rounds": len(on),
                }
            )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each turn of each system")
    given = parser.parse_args()
    bundle = flagship()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        ports = {}
        for name, rate in (("off", "0"), ("on", "1")):
            home = Path(folder) / name
            home.mkdir()
            install(home, bundle)
            server = api_server(home, None, settings={"RECSYS_META_IMPRESSION_RATE": rate})
            ports[name] = stack.enter_context(server)[0]
        bare = stack.enter_context(bare_server(Path(folder)))
        made = rows(measure(ports, bare, given.rounds, given.seconds))
    for row in made:
        print(row)
    if given.json is not None:
        machine = machine_facts()
        command = " ".join(["python -m benchmarks.impressions", *sys.argv[1:]])
        given.json.write_text(
            dump_json({"bench": "impressions", "machine": machine, "command": command, "rows": made}, indent=1)
        )


if __name__ == "__main__":
    main()
