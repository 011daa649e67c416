"""How much memory a fresh target takes, idle and for each stream that is open through it."""

import subprocess
import time

from bench import proctree
from bench.load import Plan
from bench.loadrun import Figures, command, run_load
from bench.measures import MemoryMeasure
from bench.service import BenchError, get
from bench.targets import ROOT, Target

SETTLE_S = 3.0
REACH_S = 60.0
STOP_S = 10.0
POLL_S = 0.1


def measure_memory(measure: MemoryMeasure, target: Target, upstream_port: int) -> Figures:
    """The target should be stopped then: it may not have noticed yet that its clients are gone."""
    port, dialect = target.service.port, target.dialect
    for stream in (False, True):
        run_load(Plan(port=port, dialect=dialect, model="fake-20", stream=stream, connections=1, requests=5))
    time.sleep(SETTLE_S)
    idle_mb = proctree.pss_mb(target.service.pid)
    plan = Plan(
        port=port,
        dialect=dialect,
        model=measure.model,
        stream=True,
        connections=measure.streams,
        requests=measure.streams,
        ramp_s=measure.ramp_s,
    )
    open_mb, cores = _with_open_streams(plan, target, upstream_port)
    kb_per_stream = (open_mb - idle_mb) * 1024 / measure.streams
    return {"idle_mb": idle_mb, "open_mb": open_mb, "kb_per_stream": kb_per_stream, "cores": cores}


def _with_open_streams(plan: Plan, target: Target, upstream_port: int) -> tuple[float, float]:
    """Memory, and the CPU seconds a second that keeping the streams going costs."""
    load = subprocess.Popen(command(plan), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_active(upstream_port, plan.connections)
        before_us = proctree.cpu_us(target.service.pid)
        time.sleep(SETTLE_S)
        cores = (proctree.cpu_us(target.service.pid) - before_us) / 1e6 / SETTLE_S
        if load.poll() is not None:
            raise BenchError(f"the load generator ended early, with {load.returncode}")
        return proctree.pss_mb(target.service.pid), cores
    finally:
        load.kill()
        load.wait(STOP_S)


def wait_active(upstream_port: int, wanted: int) -> None:
    """Until the upstream has exactly so many streams under way."""
    deadline = time.monotonic() + REACH_S
    while (active := int(get(upstream_port, "/bench/active"))) != wanted:
        if time.monotonic() > deadline:
            raise BenchError(f"the upstream has {active} streams under way, not {wanted}, after {REACH_S:.0f} s")
        time.sleep(POLL_S)
