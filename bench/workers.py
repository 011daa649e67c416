"""What a second worker brings, on SQLite and on PostgreSQL: `python -m bench.workers`.

The same load on each server in turn, round by round. The scripted model answers, within the workers, so that no
upstream takes a core; what asks is kept light, and says how much of one it took. Every answer is stored.
"""

import argparse
import asyncio
import base64
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

import uvloop

from bench import proctree
from bench.machine import processor
from bench.service import BenchError, Service
from bench.stores import started
from bench.targets import Bay

WORKERS = (1, 2)
CONNECTIONS = 32
SERVER = "{python} -m antiphon serve --scripted --log-level warning --host 127.0.0.1 --port {port} --database "
SECRET = base64.b64encode(b"b" * 32).decode()
WORDS = "say " + " ".join(["fox"] * 20)
LOADS: dict[str, tuple[dict[str, object], bytes, int]] = {
    "whole answers of 20 words": ({"input": WORDS}, b'"user":null,"metadata":{}}', 3_000),
    "streams of 100 words": ({"input": "long 100", "stream": True}, b"data: [DONE]\n\n", 1_500),
}
"""What is asked, how an answer ends, and how many."""
SETTLE_S = 0.1

Figures = dict[str, float]


class Connection(asyncio.Protocol):
    """Asks again as soon as it is answered, as long as there is something to ask."""

    def __init__(self, request: bytes, end: bytes, left: list[int]) -> None:
        self._request, self._end, self._left = request, end, left
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def _ask(self) -> None:
        self._tail = b""
        if self._left[0] <= 0:
            self._transport.close()
            self.done.set_result(None)
            return
        self._left[0] -= 1
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._tail = (self._tail + data)[-4096:]
        if self._end in self._tail:
            self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(BenchError(f"the server left: {error or self._tail!r}"))


async def load(port: int, fields: dict[str, object], end: bytes, requests: int) -> None:
    body = json.dumps({"model": "scripted", **fields}).encode()
    head = f"POST /v1/responses HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n"
    request = f"{head}content-type: application/json\r\n\r\n".encode() + body
    left = [requests]
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: Connection(request, end, left), "127.0.0.1", port)
        for _ in range(CONNECTIONS)
    ]
    async with asyncio.timeout(120):
        await asyncio.gather(*(connection.done for _, connection in made))


def measured(service: Service, fields: dict[str, object], end: bytes, requests: int) -> Figures:
    before, own, began = by_process(service), time.process_time(), time.perf_counter()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(load(service.port, fields, end, requests))
    seconds, own = time.perf_counter() - began, time.process_time() - own
    time.sleep(SETTLE_S)
    used = [now - before[pid] for pid, now in by_process(service).items()]
    return {
        "a second": requests / seconds,
        "cpu us": sum(used) / requests,
        "cores": sum(used) / 1e6 / seconds,
        "asking": own / seconds,
        "the busiest's share": max(used) / sum(used),
    }


def by_process(service: Service) -> dict[int, float]:
    return {process.pid: proctree.cpu_us(process.pid) for process in proctree.tree(service.pid)[-max(WORKERS) :]}


@contextmanager
def served(folder: Path, database: str, workers: int) -> Iterator[Service]:
    config = folder / f"{workers}-{time.monotonic_ns()}.toml"
    config.write_text(f'server = {{ secret = "{SECRET}" }}\nstorage = {{ files = "{folder / "files"}" }}\n')
    with Bay(folder, f"{SERVER}{database} --workers {workers} --config {config}").antiphon() as service:
        service.wait_ready("/ready")
        for fields, end, _ in LOADS.values():
            measured(service, fields, end, 200)
        yield service


def told(name: str, taken: list[list[Figures]]) -> None:
    """A line for each number of workers, and one for what the last makes of the first, round by round."""
    lines = [(f"{name}, {workers}", figures) for workers, figures in zip(WORKERS, taken, strict=True)]
    first, last = taken[0], taken[-1]
    ratios = [{one: more[one] / few[one] for one in few} for few, more in zip(first, last, strict=True)]
    for title, figures in [*lines, ("ratio", ratios)]:
        middle = {one: statistics.median(each[one] for each in figures) for one in figures[0]}
        print(f"  {title:14} | " + " | ".join(f"{one} {value:7.2f}" for one, value in middle.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.workers", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="antiphon-bench-")))
        databases = {"SQLite": "{database}", "PostgreSQL": stack.enter_context(started())}
        services = {
            (name, workers): stack.enter_context(served(folder, database, workers))
            for name, database in databases.items()
            for workers in WORKERS
        }
        print(f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        for load_name, asked in LOADS.items():
            taken: dict[tuple[str, int], list[Figures]] = {which: [] for which in services}
            for _ in range(rounds):
                for which, service in services.items():
                    taken[which].append(measured(service, *asked))
            print(f"\n{load_name}; medians of {rounds} rounds")
            for name in databases:
                told(name, [taken[name, workers] for workers in WORKERS])


if __name__ == "__main__":
    main()
