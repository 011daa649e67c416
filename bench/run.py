"""The whole benchmark: starts everything, runs the rounds, prints the table, writes the results, stops everything.

Rounds are interleaved: each runs every measure on every target in turn, every second round in the other order, so that
what else the machine does hits all alike.
"""

import argparse
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
from msgspec import Struct

from bench import report
from bench.dialects import OPEN_RESPONSES, RESPONSES
from bench.machine import machine
from bench.measures import FULL, MEASURES, QUICK, Measure
from bench.results import Results
from bench.service import BenchError
from bench.stage import Stage
from bench.targets import ROOT, SERVER, Bay, nginx_path

RESULTS = ROOT / "bench" / "results"
OPEN_FILES = 8192
ROUNDS = 3


class Options(Struct, frozen=True, kw_only=True):
    measures: Sequence[Measure]
    mode: str
    rounds: int
    server: str
    direct: bool
    dialect: str


def run(options: Options) -> Results:
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    results = Results(started=started, mode=options.mode, rounds=options.rounds, machine=machine())
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="antiphon-bench-"))
        stage = Stage(Bay(Path(folder), options.server), stack, direct=options.direct, dialect=options.dialect)
        stage.warm_up()
        for number in range(1, options.rounds + 1):
            for measure in options.measures:
                print(f"round {number} of {options.rounds}: {measure.name}", file=sys.stderr, flush=True)
                targets = stage.targets(measure)[:: 1 if number % 2 else -1]
                results.samples += [stage.sample(number, measure, target) for target in targets]
    return results


def write(results: Results) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{results.started.replace(' ', '-').replace(':', '')}.json"
    measures = dict.fromkeys(sample.measure for sample in results.samples)
    whole = msgspec.to_builtins(results) | {
        "medians": {measure: results.all_medians(measure) for measure in measures},
        "antiphon_to_nginx": {measure: results.versus(measure) for measure in measures},
        "goals": [msgspec.to_builtins(verdict) | {"verdict": verdict.word} for verdict in results.verdicts()],
    }
    path.write_bytes(msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n")
    return path


def raise_open_files() -> None:
    """Every stream takes two descriptors in a target; children inherit the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def options(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="bench", description="antiphon beside nginx as a plain relay.")
    parser.add_argument("--quick", action="store_true", help="small loads, one round; for trying, not for judging")
    parser.add_argument("--rounds", type=int, help=f"interleaved rounds (default {ROUNDS}, with --quick 1)")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="a measure, or its name up to the dash; repeatable"
    )
    parser.add_argument("--direct", action="store_true", help="load the fake upstream itself too: the floor")
    parser.add_argument("--server", default=SERVER, help="another command to measure as antiphon")
    parser.add_argument(
        "--dialect", choices=[RESPONSES, OPEN_RESPONSES], default=RESPONSES, help="how antiphon is asked"
    )
    given = parser.parse_args(arguments)
    mode = QUICK if given.quick else FULL
    only = given.only or [measure.name for measure in MEASURES[mode]]
    measures = [measure for measure in MEASURES[mode] if {measure.name, measure.name.partition("-")[0]} & set(only)]
    if not measures:
        names = ", ".join(measure.name for measure in MEASURES[mode])
        parser.error(f"no measure is called {' or '.join(only)}; there are {names}")
    rounds = given.rounds or (1 if given.quick else ROUNDS)
    return Options(
        measures=measures, mode=mode, rounds=rounds, server=given.server, direct=given.direct, dialect=given.dialect
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """0: every measure gave figures, goals met or not; 1: some did not; 2: nothing could be measured."""
    chosen = options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    raise_open_files()
    try:
        nginx_path()
        results = run(chosen)
    except (BenchError, OSError) as error:
        print(f"bench: {str(error).strip()}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(report.text(results))
    print(f"\nwritten to {write(results).relative_to(ROOT)}")
    return 1 if results.problems() else 0
