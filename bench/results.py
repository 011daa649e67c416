"""What a run found: samples, their medians, how they compare with nginx, and which goals were met."""

import statistics

from msgspec import Struct, field

from bench.loadrun import Figures
from bench.measures import GOALS, Goal

PEER = "nginx"
OURS = "antiphon"


class Sample(Struct, frozen=True, kw_only=True):
    """One measure of one target in one round; a failed one has a problem and no figures."""

    round: int
    measure: str
    target: str
    figures: Figures
    problem: str | None = None


class Verdict(Struct, frozen=True):
    """A goal beside what was measured: median, lowest, highest round; None where there is no figure."""

    goal: Goal
    value: float | None
    lowest: float | None
    highest: float | None

    @property
    def word(self) -> str:
        if self.value is None:
            return "NO FIGURE"
        return "met" if self.value <= self.goal.bound else "NOT MET"


class Results(Struct, kw_only=True):
    started: str
    mode: str
    rounds: int
    machine: dict[str, str]
    samples: list[Sample] = field(default_factory=list)

    def medians(self, measure: str, target: str) -> Figures:
        rounds = [sample.figures for sample in self._of(measure, target)]
        names = dict.fromkeys(name for figures in rounds for name in figures)
        return {name: statistics.median(figures[name] for figures in rounds) for name in names}

    def all_medians(self, measure: str) -> dict[str, Figures]:
        return {target: self.medians(measure, target) for target in self._targets(measure)}

    def _targets(self, measure: str) -> list[str]:
        """In the order in which they were first measured."""
        return list(dict.fromkeys(sample.target for sample in self.samples if sample.measure == measure))

    def ratios(self, measure: str, figure: str) -> list[float]:
        return [ours[figure] / peer[figure] for ours, peer in self._pairs(measure)]

    def added(self, measure: str, figure: str) -> list[float]:
        return [ours[figure] - peer[figure] for ours, peer in self._pairs(measure)]

    def _pairs(self, measure: str) -> list[tuple[Figures, Figures]]:
        """Compared round by round, as what else the machine does changes from round to round."""
        peer = {sample.round: sample.figures for sample in self._of(measure, PEER)}
        ours = {sample.round: sample.figures for sample in self._of(measure, OURS)}
        return [(ours[number], peer[number]) for number in ours if number in peer]

    def versus(self, measure: str) -> Figures:
        """Costs as ratios, times and memory as differences; throughput is the machine's as much as the target's."""
        names = self.medians(measure, OURS) if self._pairs(measure) else {}
        ratios = {name: statistics.median(self.ratios(measure, name)) for name in names if name.startswith("cpu_us")}
        added = [name for name in names if name.endswith(("_ms", "_mb", "kb_per_stream"))]
        return ratios | {name: statistics.median(self.added(measure, name)) for name in added}

    def _of(self, measure: str, target: str) -> list[Sample]:
        samples = [sample for sample in self.samples if (sample.measure, sample.target) == (measure, target)]
        return [sample for sample in samples if sample.problem is None]

    def problems(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.problem is not None]

    def verdicts(self) -> list[Verdict]:
        """On the goals whose measures were run."""
        run = {sample.measure for sample in self.samples}
        return [self._verdict(goal) for goal in GOALS if goal.measure in run]

    def _verdict(self, goal: Goal) -> Verdict:
        if goal.is_ratio:
            values = self.ratios(goal.measure, goal.figure)
        else:
            values = [sample.figures[goal.figure] for sample in self._of(goal.measure, OURS)]
        if not values:
            return Verdict(goal, None, None, None)
        return Verdict(goal, statistics.median(values), min(values), max(values))
