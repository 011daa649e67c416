"""The fake upstream and the targets in front of it, for the length of a run; decides nothing about what is measured."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from bench.conversation import measure_conversation
from bench.disconnect import measure_disconnect
from bench.load import Plan
from bench.loadrun import Figures, measure_load, run_load
from bench.measures import ConversationMeasure, LoadMeasure, Measure, MemoryMeasure
from bench.memory import measure_memory, wait_active
from bench.results import OURS, PEER, Sample
from bench.service import BenchError, Service
from bench.targets import Bay, Target

DIRECT = "direct"


class Stage:
    """What it starts, the stack stops."""

    def __init__(self, bay: Bay, stack: ExitStack, *, direct: bool, dialect: str) -> None:
        """`dialect`: in which antiphon is asked."""
        self._bay = bay
        self._dialect = dialect
        upstream = stack.enter_context(bay.upstream())
        upstream.wait_ready("/v1/models")
        self._targets = [stack.enter_context(self._fresh(name)) for name in (PEER, OURS)]
        if direct:
            self._targets.insert(0, Target(DIRECT, "chat", upstream))

    def targets(self, measure: Measure) -> list[Target]:
        """The upstream itself can be loaded, but it has nothing behind it whose clients could leave; and only antiphon
        remembers anything."""
        if isinstance(measure, ConversationMeasure):
            return [it for it in self._targets if it.name == OURS]
        return [it for it in self._targets if it.name != DIRECT or isinstance(measure, LoadMeasure)]

    @contextmanager
    def _fresh(self, name: str) -> Iterator[Target]:
        starts: dict[str, tuple[Callable[[], Service], str, str]] = {
            PEER: (self._bay.nginx, "chat", "/v1/models"),
            OURS: (self._bay.antiphon, self._dialect, "/health"),
        }
        start, dialect, ready_path = starts[name]
        with start() as service:
            service.wait_ready(ready_path)
            yield Target(name, dialect, service)

    def warm_up(self) -> None:
        """First requests load modules and open connections, which no round should pay for."""
        for target in self._targets:
            for stream in (False, True):
                port, dialect = target.service.port, target.dialect
                run_load(Plan(port=port, dialect=dialect, model="fake-20", stream=stream, connections=16, requests=200))

    def sample(self, number: int, measure: Measure, target: Target) -> Sample:
        """A failure is a result as well; the others go on."""
        figures: Figures = {}
        problem = None
        try:
            figures = self._figures(measure, target)
        except (BenchError, OSError, subprocess.SubprocessError) as error:
            problem = f"{error}{target.service.epitaph()}"
        return Sample(round=number, measure=measure.name, target=target.name, figures=figures, problem=problem)

    def _figures(self, measure: Measure, target: Target) -> Figures:
        upstream_port = self._bay.upstream_port
        wait_active(upstream_port, 0)
        if isinstance(measure, LoadMeasure):
            return measure_load(measure, target)
        if isinstance(measure, MemoryMeasure):
            with self._fresh(target.name) as fresh:
                return measure_memory(measure, fresh, upstream_port)
        if isinstance(measure, ConversationMeasure):
            return measure_conversation(measure, target)
        return measure_disconnect(measure, target, upstream_port)
