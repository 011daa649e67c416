"""What is measured, and the goals that the figures are held against; runs nothing."""

from msgspec import Struct

from bench.load import Plan

FULL = "full"
QUICK = "quick"


class LoadMeasure(Struct, frozen=True, kw_only=True):
    """The same questions to every target; figures from the load generator and from the target's CPU clock."""

    name: str
    model: str
    stream: bool
    connections: int
    requests: int
    ramp_s: float = 0

    def plan(self, port: int, dialect: str) -> Plan:
        return Plan(
            port=port,
            dialect=dialect,
            model=self.model,
            stream=self.stream,
            connections=self.connections,
            requests=self.requests,
            ramp_s=self.ramp_s,
        )


class MemoryMeasure(Struct, frozen=True, kw_only=True):
    """A fresh process: idle, then with streams open that bring a token a second each."""

    name: str = "memory"
    streams: int
    model: str = "fake-90-1"
    ramp_s: float


class DisconnectMeasure(Struct, frozen=True, kw_only=True):
    """Clients that leave after the first token, one after the other; the next token would come a second later."""

    name: str = "disconnect"
    probes: int
    model: str = "fake-60-1"


class ConversationMeasure(Struct, frozen=True, kw_only=True):
    """Turns at the end of conversations, one after the other. nginx remembers nothing, so there is no peer."""

    name: str = "conversation"
    model: str = "fake-20"
    depths: dict[int, int]
    """Turns before the first that is measured, counting it, and how many conversations of that depth."""
    turns: int
    """Measured at each depth, spread over its conversations."""


Measure = LoadMeasure | MemoryMeasure | DisconnectMeasure | ConversationMeasure

MEASURES: dict[str, tuple[Measure, ...]] = {
    FULL: (
        LoadMeasure(name="nonstream-c1", model="fake-20", stream=False, connections=1, requests=1000),
        LoadMeasure(name="nonstream-c16", model="fake-20", stream=False, connections=16, requests=3200),
        LoadMeasure(name="burst", model="fake-500", stream=True, connections=64, requests=256),
        LoadMeasure(name="paced", model="fake-500-50", stream=True, connections=200, requests=200, ramp_s=1),
        MemoryMeasure(streams=1000, ramp_s=4),
        DisconnectMeasure(probes=50),
        ConversationMeasure(depths={10: 20, 100: 4, 1000: 1}, turns=60),
    ),
    QUICK: (
        LoadMeasure(name="nonstream-c1", model="fake-20", stream=False, connections=1, requests=200),
        LoadMeasure(name="nonstream-c16", model="fake-20", stream=False, connections=16, requests=640),
        LoadMeasure(name="burst", model="fake-500", stream=True, connections=16, requests=32),
        LoadMeasure(name="paced", model="fake-150-50", stream=True, connections=60, requests=60, ramp_s=0.5),
        MemoryMeasure(streams=200, ramp_s=1),
        DisconnectMeasure(probes=10),
        ConversationMeasure(depths={10: 5, 100: 1}, turns=20),
    ),
}


class Goal(Struct, frozen=True):
    """At most `bound`, of antiphon's figure itself or of its ratio to nginx's."""

    measure: str
    figure: str
    bound: float
    unit: str
    is_ratio: bool = False


GOALS = (
    Goal("nonstream-c1", "cpu_us_per_request", 400, "us CPU a request, store on"),
    Goal("nonstream-c16", "cpu_us_per_request", 400, "us CPU a request, store on"),
    Goal("burst", "cpu_us_per_token", 4, "x nginx's CPU per token", is_ratio=True),
    Goal("paced", "cpu_us_per_token", 2.5, "x nginx's CPU per token", is_ratio=True),
    Goal("memory", "idle_mb", 60, "MB PSS, idle"),
    Goal("memory", "kb_per_stream", 45, "KB per open stream"),
    Goal("disconnect", "max_ms", 100, "ms until the upstream sees it, slowest"),
    Goal("conversation", "long_to_short", 2, "x the CPU of a turn at the least depth, at the greatest"),
)
