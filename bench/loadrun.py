"""One load against one target: the generator's report and the target's CPU time as figures."""

import subprocess
import sys
import time

import msgspec

from bench import proctree
from bench.load import Plan, Report
from bench.measures import LoadMeasure
from bench.service import BenchError
from bench.targets import ROOT, Target

SETTLE_S = 0.1
GRACE_S = 30

Figures = dict[str, float]


def command(plan: Plan) -> list[str]:
    return [sys.executable, "-m", "bench.load", msgspec.json.encode(plan).decode()]


def run_load(plan: Plan) -> Report:
    """Raises when an answer was wrong: a figure of a broken run is worth nothing."""
    limit_s = plan.timeout_s + GRACE_S
    done = subprocess.run(
        command(plan), cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit_s, check=False
    )
    if done.returncode:
        raise BenchError(f"the load generator failed:\n{done.stderr.decode(errors='replace')}")
    report = msgspec.json.decode(done.stdout, type=Report)
    if report.problems:
        raise BenchError(f"{report.problems} problems in {report.requests} answers, the first: {report.first_problem}")
    return report


def measure_load(measure: LoadMeasure, target: Target) -> Figures:
    plan = measure.plan(target.service.port, target.dialect)
    before_us = proctree.cpu_us(target.service.pid)
    report = run_load(plan)
    time.sleep(SETTLE_S)  # what the target does after its last answer is its cost too
    used_us = proctree.cpu_us(target.service.pid) - before_us
    return _figures(report, used_us)


def _figures(report: Report, used_us: float) -> Figures:
    figures = {
        "cpu_us_per_request": used_us / report.requests,
        "cpu_us_per_token": used_us / report.tokens,
        "cores": used_us / 1e6 / report.seconds,
        "requests_per_s": report.requests / report.seconds,
        "tokens_per_s": report.tokens / report.seconds,
    }
    spreads = {"latency": report.latency_ms, "ttft": report.ttft_ms, "lag": report.lag_ms}
    for name, spread in spreads.items():
        if spread:
            figures |= {f"{name}_p50_ms": spread.p50, f"{name}_p99_ms": spread.p99}
    return figures
