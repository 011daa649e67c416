"""How long after a client has left in the middle of a stream the upstream sees the target leave."""

import socket
import time

import msgspec

from bench.dialects import DIALECTS
from bench.fakemodel import STAMP
from bench.load import PROMPT
from bench.loadrun import Figures
from bench.measures import DisconnectMeasure
from bench.service import BenchError, get
from bench.spread import spread_ms
from bench.targets import Target
from bench.upstream import Closed

SEEN_S = 5.0
POLL_S = 0.005
READ_BYTES = 1 << 16


def measure_disconnect(measure: DisconnectMeasure, target: Target, upstream_port: int) -> Figures:
    left_us: dict[str, int] = {}
    run = time.monotonic_ns()
    for number in range(measure.probes):
        probe = f"probe-{run}{number:04}"
        left_us[probe] = _leave_after_first_token(measure.model, target, probe)
        _wait_seen(probe, upstream_port)
    seen_us = {closed.probe: closed.at_us for closed in _closed(upstream_port)}
    spread = spread_ms([seen_us[probe] - at_us for probe, at_us in left_us.items()])
    assert spread is not None
    return {"median_ms": spread.p50, "max_ms": spread.max}


def _leave_after_first_token(model: str, target: Target, probe: str) -> int:
    """The microsecond at which the client closed its connection, everything read: the target gets a FIN, no reset."""
    request = DIALECTS[target.dialect].request(target.service.port, model, f"{PROMPT} {probe}", stream=True)
    with socket.create_connection(("127.0.0.1", target.service.port), timeout=SEEN_S) as client:
        client.sendall(request)
        received = b""
        while not STAMP.search(received):
            data = client.recv(READ_BYTES)
            if not data:
                raise BenchError(f"{target.name} closed a stream before its first token: {received[:300]!r}")
            received += data
        return time.monotonic_ns() // 1000


def _closed(upstream_port: int) -> list[Closed]:
    return msgspec.json.decode(get(upstream_port, "/bench/closed"), type=list[Closed])


def _wait_seen(probe: str, upstream_port: int) -> None:
    deadline = time.monotonic() + SEEN_S
    while not any(closed.probe == probe for closed in _closed(upstream_port)):
        if time.monotonic() > deadline:
            raise BenchError(f"a client left and {SEEN_S:.0f} s later the upstream still sends")
        time.sleep(POLL_S)
