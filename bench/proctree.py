"""What a process and all it started have used, read from outside; starts and stops nothing.

A process's CPU clock counts every thread, ended ones too, in nanoseconds. Children that ended are counted by their
parent once it has waited for them, in the kernel's ticks, so that the sum over a tree never goes down.
"""

import os
import time
from pathlib import Path

from msgspec import Struct

PROC = Path("/proc")
_CPUCLOCK_SCHED = 2  # linux/posix-timers.h; what clock_getcpuclockid(3) computes
_TICK_US = 1e6 / os.sysconf("SC_CLK_TCK")


class Process(Struct, frozen=True):
    """One line of /proc/PID/stat; `started` tells it from a later process with the same number."""

    pid: int
    parent: int
    waited_for_ticks: int
    started: int


def _process(pid: int) -> Process | None:
    try:
        after_name = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return Process(pid, int(after_name[1]), int(after_name[13]) + int(after_name[14]), int(after_name[19]))


def tree(root: int) -> list[Process]:
    """The process and all its living descendants, parents first."""
    processes = [_process(int(entry.name)) for entry in PROC.iterdir() if entry.name.isdigit()]
    children: dict[int, list[Process]] = {}
    found = []
    for process in filter(None, processes):
        children.setdefault(process.parent, []).append(process)
        if process.pid == root:
            found.append(process)
    for process in found:
        found += children.get(process.pid, [])
    return found


def alive(process: Process) -> bool:
    now = _process(process.pid)
    return now is not None and now.started == process.started


def cpu_us(root: int) -> float:
    return sum(_clock_us(process.pid) + process.waited_for_ticks * _TICK_US for process in tree(root))


def _clock_us(pid: int) -> float:
    try:
        return time.clock_gettime_ns((~pid << 3) | _CPUCLOCK_SCHED) / 1000
    except OSError:
        return 0.0


def pss_mb(root: int) -> float:
    """Memory, with shared pages divided among those who share them."""
    return sum(_pss_kb(process.pid) for process in tree(root)) / 1024


def _pss_kb(pid: int) -> int:
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
