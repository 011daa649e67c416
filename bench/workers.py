"""What a second worker brings, on SQLite and on PostgreSQL: `python -m bench.workers`.

The same load on each server in turn, round by round, all in front of one fake upstream. The load generator and that
upstream take cores of their own, and PostgreSQL too: on a machine with few of them, throughput cannot double. What a
request costs, and how evenly the workers share it, can be seen on any.
"""

import argparse
import base64
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench import proctree
from bench.dialects import RESPONSES
from bench.load import Plan
from bench.loadrun import SETTLE_S, Figures, run_load
from bench.machine import processor
from bench.service import Service
from bench.stores import started
from bench.targets import SERVER, Bay

WORKERS = (1, 2)
LOADS = {
    "whole answers, 16 connections": Plan(
        port=0, dialect=RESPONSES, model="fake-20", stream=False, connections=16, requests=4_000
    ),
    "streams of 500 tokens, 64 at a time": Plan(
        port=0, dialect=RESPONSES, model="fake-500", stream=True, connections=64, requests=256
    ),
}
SECRET = base64.b64encode(b"b" * 32).decode()


@contextmanager
def served(folder: Path, upstream_port: int, database: str, workers: int) -> Iterator[Service]:
    config = folder / f"{workers}-{time.monotonic_ns()}.toml"
    files = folder / "files"
    config.write_text(f'server = {{ secret = "{SECRET}" }}\nstorage = {{ files = "{files}" }}\n')
    bay = Bay(folder, f"{SERVER.replace('{database}', database)} --workers {workers} --config {config}")
    bay.upstream_port = upstream_port
    with bay.antiphon() as service:
        service.wait_ready("/ready")
        run_load(
            Plan(port=service.port, dialect=RESPONSES, model="fake-20", stream=False, connections=16, requests=400)
        )
        yield service


def measured(plan: Plan, service: Service) -> Figures:
    before = by_process(service)
    report = run_load(Plan(**{name: getattr(plan, name) for name in plan.__struct_fields__} | {"port": service.port}))
    time.sleep(SETTLE_S)
    used = [now - before.get(pid, 0) for pid, now in by_process(service).items()]
    return {
        "a second": report.requests / report.seconds,
        "cpu us": sum(used) / report.requests,
        "cores": sum(used) / 1e6 / report.seconds,
        "generator's cores": report.cpu_s / report.seconds,
        "the busiest's share": max(used) / sum(used),
    }


def by_process(service: Service) -> dict[int, float]:
    return {process.pid: proctree.cpu_us(process.pid) for process in proctree.tree(service.pid)[-max(WORKERS) :]}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.workers", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="antiphon-bench-")))
        bay = Bay(folder, SERVER)
        stack.enter_context(bay.upstream()).wait_ready("/v1/models")
        databases = {"SQLite": "{database}", "PostgreSQL": stack.enter_context(started())}
        services = {
            (name, workers): stack.enter_context(served(folder, bay.upstream_port, database, workers))
            for name, database in databases.items()
            for workers in WORKERS
        }
        print(processor())
        for load, plan in LOADS.items():
            taken: dict[tuple[str, int], list[Figures]] = {which: [] for which in services}
            for _ in range(rounds):
                for which, service in services.items():
                    taken[which].append(measured(plan, service))
            print(f"\n{load}; medians of {rounds}")
            for (name, workers), figures in taken.items():
                middle = {one: statistics.median(each[one] for each in figures) for one in figures[0]}
                cells = (f"{one} {value:8.2f}" for one, value in middle.items())
                print(f"  {name:10} {workers} | " + " | ".join(cells), flush=True)


if __name__ == "__main__":
    main()
